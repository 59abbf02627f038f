"""`pgn convert from-parts`, against LAVIS's own numbers and transformers' own models; every refusal's words."""

import json
import shutil

import pytest
import torch
from conversion_helpers import HEADS, TEXT
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3MoeConfig,
)

from modeling_pgn import PGNForConditionalGeneration, PGNProcessor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def convert(pgn, out, *arguments, ok=True):
    return pgn("convert", "from-parts", "--out", out, *arguments, ok=ok)


def with_dtype(state, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def test_the_image_path_gives_lavis_own_numbers(pgn, llm, lavis_file, request, tmp_path):
    out = convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", lavis_file, *HEADS)
    assert "Q-Former: 87 tensors" in out and "projector, untrained, drawn at random: 4" in out
    golden = load_file(request.config.rootpath / "tests" / "fixtures" / "lavis_tiny_io.safetensors")
    model = AutoModel.from_pretrained(tmp_path / "pgn", trust_remote_code=True).eval()
    with torch.no_grad():
        tokens = model.model.vision_tower(golden["pixel_values"]).last_hidden_state
        queries = model.model.query_tokens(len(tokens))
        features = model.model.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        image_features = model.get_image_features(golden["pixel_values"])
    assert (tokens - golden["ln_vision_out"]).abs().max() < 1e-5
    assert (features - golden["qformer_out"]).abs().max() < 1e-5
    assert (image_features - model.model.projector(golden["qformer_out"])).abs().max() < 1e-5
    for linear in (model.model.projector.linear_1, model.model.projector.linear_2):
        assert 0.015 < linear.weight.std() < 0.025 and not linear.bias.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_to_pgn_to_lavis_is_bit_exact(dtype, pgn, make_llm, lavis_state, tmp_path):
    source, back = with_dtype(lavis_state, dtype), tmp_path / "back.pth"
    torch.save({"model": source, "epoch": 3}, tmp_path / "lavis.pth")
    llm = make_llm(dtype)
    out = convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", tmp_path / "lavis.pth", *HEADS)
    assert "also holds epoch (0 tensors): beside its weights, left alone" in out
    saved = load_file(tmp_path / "pgn" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {dtype}
    for layer in range(3):
        assert not saved[f"model.vision_tower.encoder.layers.{layer}.self_attn.qkv.bias"].chunk(3)[1].any()
    published = load_file(llm / "model.safetensors")
    for name, value in published.items():
        ours = saved["lm_head.weight" if name == "lm_head.weight" else f"model.language_model.{name[6:]}"]
        assert torch.equal(ours[: len(value)], value), name
    assert PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").dtype == dtype

    out = pgn("convert", "to-lavis", tmp_path / "pgn", "--out", back)
    text_branch = {name for name in source if name not in torch.load(back, weights_only=True)["model"]}
    assert f"absent   LAVIS's text branch and heads, which PGN dropped: {len(text_branch)}" in out
    assert text_branch == {
        name for name in source
        if name.startswith(("Qformer.cls", "vision_proj", "text_proj", "itm_head", "temp"))
        or ("Qformer.bert.embeddings" in name and "LayerNorm" not in name)
        or ".intermediate.dense" in name or ".output.dense" in name and "attention" not in name
        or ".output.LayerNorm" in name and "attention" not in name
    }  # fmt: skip
    restored = torch.load(back, weights_only=True)["model"]
    assert set(restored) < set(source)
    for name, value in restored.items():
        assert value.dtype == dtype and torch.equal(value, source[name]), name
    # And once more, to the same checkpoint, bit for bit.
    convert(pgn, tmp_path / "again", "--llm", llm, "--vision", back, *HEADS)
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)


def test_every_part_keeps_its_own_type(pgn, make_llm, lavis_state, tmp_path):
    """As published: the ViT in fp16, the Q-Former in fp32, the language model in bf16, and in the vendor's form."""
    llm = make_llm(torch.bfloat16)
    config = json.loads((llm / "config.json").read_text())
    config["bias"], config["rope_theta"] = config.pop("attention_bias"), config.pop("rope_parameters")["rope_theta"]
    config |= {"auto_map": {"AutoConfig": "configuration_openpangu_dense.PanguEmbeddedConfig"}}
    (llm / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((llm / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "PanguTokenizer", "auto_map": {"AutoTokenizer": ["tok.PanguTokenizer", None]}}
    (llm / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    state = {name: value.half() if name.startswith("visual_encoder") else value for name, value in lavis_state.items()}
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "lavis.pth")
    convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", tmp_path / "lavis.pth", *HEADS)
    saved = load_file(tmp_path / "pgn" / "model.safetensors")
    types = {"vision_tower.e": torch.float16, "qformer": torch.float32, "language_model": torch.bfloat16}
    for name, value in saved.items():
        expected = next((dtype for part, dtype in types.items() if part in name), None)
        assert expected in (None, value.dtype), name
    assert saved["model.projector.linear_1.weight"].dtype == saved["lm_head.weight"].dtype == torch.bfloat16
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn")
    assert model.dtype == torch.bfloat16 and model.config.text_config.attention_bias
    assert model.config.text_config.rope_parameters["rope_theta"] == 16_000_000.0
    record = json.loads((tmp_path / "pgn" / "conversion.json").read_text())
    assert "module.visual_encoder.cls_token" in record["used"][0]["tensors"]


def test_a_cast_is_asked_for(pgn, llm, lavis_file, tmp_path):
    convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", lavis_file, *HEADS, "--dtype", "bfloat16")
    saved = load_file(tmp_path / "pgn" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "pgn" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "dtype='int4' is not known" in convert(pgn, tmp_path / "x", "--llm", llm, "--dtype", "int4", ok=False)


def test_new_rows_differ_and_look_like_the_others(pgn, llm, lavis_file, tmp_path):
    convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", lavis_file, *HEADS)
    published, saved = load_file(llm / "model.safetensors"), load_file(tmp_path / "pgn" / "model.safetensors")
    for ours, theirs in (("model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
                         ("lm_head.weight", "lm_head.weight")):  # fmt: skip
        old, new = published[theirs], saved[ours][1024:]
        assert new.shape == (4, 64)
        assert torch.pdist(new).min() > 0.5 * torch.pdist(old[:200]).median()
        assert ((new - old.mean(0)).abs() < 5 * old.std(0)).all()
    processor = PGNProcessor.from_pretrained(tmp_path / "pgn")
    tokenizer = processor.tokenizer
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (13, 1, 0)
    assert tokenizer.convert_tokens_to_ids(["<|image_start|>", "<|image|>"]) == [1024, 1027]


def test_shards_hold_the_same(pgn, llm, lavis_file, tmp_path):
    convert(pgn, tmp_path / "one", "--llm", llm, "--vision", lavis_file, *HEADS)
    convert(pgn, tmp_path / "many", "--llm", llm, "--vision", lavis_file, *HEADS, "--max_shard_size", "300KB")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 5
    whole = load_file(tmp_path / "one" / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "many")
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    record = json.loads((tmp_path / "many" / "conversion.json").read_text())
    assert sum(len(group["tensors"]) for group in record["used"]) == 45 + 87 + 29


@pytest.fixture(scope="module")
def make_byte_llm(tmp_path_factory):
    """A folder of another language model with a byte tokenizer, whose vocabulary has unused rows at its end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(config):
        folder = tmp_path_factory.mktemp("llm") / config.model_type
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        PreTrainedTokenizerFast(
            tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
        ).save_pretrained(folder)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return folder

    return make


MIXTURE = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}


@pytest.mark.parametrize(
    ("config_class", "fields", "rows"),
    [
        (LlamaConfig, {"vocab_size": 258}, 262),
        # Rows to spare: the special tokens go into them, and the vocabulary stays as it is.
        (Qwen2Config, {"vocab_size": 272, "tie_word_embeddings": True}, 272),
        (Qwen3MoeConfig, {"vocab_size": 258, **MIXTURE}, 262),
    ],
)
def test_other_language_models_answer_as_before(config_class, fields, rows, pgn, make_byte_llm, lavis_file, tmp_path):
    config = config_class(intermediate_size=96, eos_token_id=256, bos_token_id=None, **TEXT, **fields)
    folder = make_byte_llm(config)
    convert(pgn, tmp_path / "pgn", "--llm", folder, "--vision", lavis_file, *HEADS)
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").eval()
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    processor = PGNProcessor.from_pretrained(tmp_path / "pgn")
    processor.check_model(model.config)
    assert model.config.text_config.vocab_size == rows
    assert [getattr(model.config, field) for field in model.config.special_token_fields()] == [258, 259, 260, 261]
    ids = processor.tokenizer("walk to the red chair", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ours, theirs = model(input_ids=ids).logits, reference(input_ids=ids).logits
    assert (ours[..., :258] - theirs[..., :258]).abs().max() < 1e-5
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == config.tie_word_embeddings


def test_a_head_that_is_said_to_be_tied_must_be(pgn, make_byte_llm, lavis_file, tmp_path):
    config = Qwen2Config(
        vocab_size=272,
        tie_word_embeddings=True,
        intermediate_size=96,
        eos_token_id=[7, 256],
        bos_token_id=None,
        **TEXT,
    )
    folder = make_byte_llm(config)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    out = convert(pgn, tmp_path / "pgn", "--llm", folder, "--vision", lavis_file, *HEADS)
    assert "dropped  head: it is the embedding (tie_word_embeddings): 1, lm_head.weight" in out
    assert "dropped  rows that a padded vocabulary had to spare, where new ones are now: 4" in out
    weights["lm_head.weight"][3, 3] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused = convert(pgn, tmp_path / "x", "--llm", folder, "--vision", lavis_file, *HEADS, ok=False)
    assert "lm_head.weight differs from model.embed_tokens.weight, but config.json ties them" in refused


@pytest.mark.parametrize("model_class", [Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval])
def test_hugging_face_blip2_as_vision_and_qformer(model_class, pgn, llm, lavis_file, tmp_path):
    torch.manual_seed(0)
    vision = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56,
        "layer_norm_eps": 1e-5, "initializer_range": 0.1,
    }  # fmt: skip
    qformer = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "encoder_hidden_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 60,
    }  # fmt: skip
    text = OPTConfig(
        vocab_size=100, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32
    )
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=6)
    reference = model_class(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path / "blip2")
    out = convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", tmp_path / "blip2")
    dropped = "another language model" if model_class is Blip2ForConditionalGeneration else "text branch"
    assert f"dropped  {dropped}" in out
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").eval()
    assert model.config.num_query_tokens == 6
    # The ViT's own layers keep their eps; the last norm has LAVIS's, which this BLIP-2 was given too.
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = reference.vision_model(pixel_values=pixels).last_hidden_state
        queries = reference.query_tokens.expand(2, -1, -1)
        expected = reference.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        tokens = model.model.vision_tower(pixel_values=pixels).last_hidden_state
        found = model.model.qformer(query_embeds=model.model.query_tokens(2), encoder_hidden_states=tokens)
    assert (found.last_hidden_state - expected).abs().max() < 1e-5
    # A larger model's names, and a configuration that is not this file's.
    state = {f"model.{name}": value for name, value in load_file(tmp_path / "blip2" / "model.safetensors").items()}
    save_file(state, tmp_path / "blip2" / "model.safetensors")
    convert(pgn, tmp_path / "again", "--llm", llm, "--vision", tmp_path / "blip2")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("pgn", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    settings = json.loads((tmp_path / "blip2" / "config.json").read_text())
    settings["vision_config"]["image_size"] = 84
    (tmp_path / "blip2" / "config.json").write_text(json.dumps(settings))
    refused = convert(pgn, tmp_path / "x", "--llm", llm, "--vision", tmp_path / "blip2", ok=False)
    assert "position_embedding is 1 x 17 x 64, expected 1 x 37 x 64" in refused


def test_the_q_former_of_one_file_and_the_vision_tower_of_another(pgn, llm, lavis_state, lavis_file, tmp_path):
    """The other way round than with eva_vit_g.pth: a BLIP-2 of transformers gives the Q-Former alone."""
    torch.manual_seed(0)
    text = OPTConfig(
        vocab_size=60, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32
    )
    vision = {"hidden_size": 88, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    qformer = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
               "encoder_hidden_size": 88, "vocab_size": 60}  # fmt: skip
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=6)
    reference = Blip2ForConditionalGeneration(config)
    reference.save_pretrained(tmp_path / "blip2")
    parts = ("--vision", lavis_file, "--qformer", tmp_path / "blip2", *HEADS)
    out = convert(pgn, tmp_path / "pgn", "--llm", llm, *parts)
    assert "dropped  Q-Former: another file's is used: 87" in out
    assert "dropped  vision tower: another file's is used: 28" in out
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").model
    assert torch.equal(model.query_tokens.weight, reference.query_tokens)
    layers = model.vision_tower.encoder.layers
    assert torch.equal(layers[2].mlp.fc1.weight, lavis_state["visual_encoder.blocks.2.mlp.fc1.weight"])
    assert torch.equal(model.vision_tower.post_layernorm.bias, reference.vision_model.post_layernorm.bias)


def test_a_vit_of_40_blocks_with_a_head_loses_its_last_block(pgn, llm, lavis_state, lavis_file, tmp_path):
    """`eva_vit_g.pth` holds the ViT alone, names without prefix; LAVIS takes what comes out of the 39th block."""
    prefix = "visual_encoder."
    vit = {name.removeprefix(prefix): value for name, value in lavis_state.items() if name.startswith(prefix)}
    for block in range(3, 40):
        vit |= {name.replace("blocks.0.", f"blocks.{block}."): value + 0.01 * block
                for name, value in list(vit.items()) if name.startswith("blocks.0.")}  # fmt: skip
    vit |= {"norm.weight": torch.ones(88), "norm.bias": torch.ones(88), "head.weight": torch.ones(5, 88),
            "head.bias": torch.ones(5)}  # fmt: skip
    torch.save(vit, tmp_path / "eva_vit_g.pth")
    parts = ("--vision", tmp_path / "eva_vit_g.pth", "--qformer", lavis_file, *HEADS)
    out = convert(pgn, tmp_path / "pgn", "--llm", llm, *parts)
    assert "dropped  last block of a ViT of 40" in out and "dropped  final norm and head of the ViT" in out
    assert "dropped  vision tower: another file's is used: 43" in out
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").model
    assert model.config.vision_config.num_hidden_layers == 39
    layers = model.vision_tower.encoder.layers
    assert len(layers) == 39 and torch.equal(layers[38].mlp.fc1.weight, vit["blocks.38.mlp.fc1.weight"])
    # The norm that the Q-Former was trained behind comes with it.
    assert torch.equal(model.vision_tower.post_layernorm.weight, lavis_state["ln_vision.weight"])


def test_the_position_embedding_is_resized_as_transformers_does(pgn, llm, lavis_file, tmp_path):
    convert(pgn, tmp_path / "small", "--llm", llm, "--vision", lavis_file, *HEADS)
    out = convert(pgn, tmp_path / "large", "--llm", llm, "--vision", lavis_file, *HEADS, "--image_size", 84)
    assert "position embedding resized from 16 to 36 patches (bicubic)" in out
    small, large = (PGNForConditionalGeneration.from_pretrained(tmp_path / name) for name in ("small", "large"))
    assert large.config.vision_config.image_size == 84
    assert PGNProcessor.from_pretrained(tmp_path / "large").image_processor.size["height"] == 84
    expected = small.model.vision_tower.embeddings.interpolate_pos_encoding(torch.zeros(1, 37, 88), 84, 84)
    assert torch.allclose(large.model.vision_tower.embeddings.position_embedding, expected, atol=1e-5)
    for size in (85, 0):
        side = ("--vision", lavis_file, *HEADS, "--image_size", size)
        refused = convert(pgn, tmp_path / "x", "--llm", llm, *side, ok=False)
        assert f"image_size={size} is no multiple of the patch size 14; e.g. " in refused


def test_parts_without_a_file_are_new_and_said_to_be(pgn, llm, lavis_state, tmp_path):
    """A file of the ViT alone: the Q-Former and the last norm have no source."""
    vit = {name: value for name, value in lavis_state.items() if name.startswith("visual_encoder.")}
    save_file(vit, tmp_path / "vit.safetensors")
    out = convert(pgn, tmp_path / "pgn", "--llm", llm, "--vision", tmp_path / "vit.safetensors", *HEADS[:2])
    assert "new      Q-Former and queries, untrained, drawn at random (no --qformer)" in out
    assert "new      last norm of the vision tower, the identity (no file has ln_vision): 2" in out
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").model
    assert (model.vision_tower.post_layernorm.weight == 1).all()
    assert model.query_tokens.weight.std() > 0.01
    assert not torch.equal(model.qformer.encoder.layer[0].attention.attention.query.weight,
                           model.qformer.encoder.layer[1].attention.attention.query.weight)  # fmt: skip


def edited(folder, into, **files):
    """A copy of a folder in which the JSON of some files is changed."""
    shutil.copytree(folder, into)
    for name, changes in files.items():
        path = into / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return into


def test_a_language_model_that_could_not_stop_is_refused(pgn, llm, tmp_path):
    same = edited(llm, tmp_path / "same", tokenizer_config={"pad_token": "[unused10]"})
    refused = convert(pgn, tmp_path / "x", "--llm", same, ok=False)
    assert (
        "eos is '[unused10]' (id 13), its pad '[unused10]' (id 13)" in refused and "set another pad_token" in refused
    )
    other = edited(llm, tmp_path / "other", tokenizer_config={"eos_token": "</s>"})
    refused = convert(pgn, tmp_path / "x", "--llm", other, ok=False)
    assert "eos is id 2 ('</s>') by the tokenizer and 13 by config.json" in refused
    other = edited(llm, tmp_path / "bos", config={"bos_token_id": 5})
    refused = convert(pgn, tmp_path / "x", "--llm", other, ok=False)
    assert "bos is id 1 ('<s>') by the tokenizer and 5 by config.json" in refused
    assert not (tmp_path / "x").exists()


def test_what_does_not_fit_is_refused_with_both_numbers(pgn, llm, lavis_file, lavis_state, tmp_path):
    parts = ("--vision", lavis_file, *HEADS)
    few = edited(llm, tmp_path / "few", config={"vocab_size": 1000})
    refused = convert(pgn, tmp_path / "x", "--llm", few, *parts, ok=False)
    assert "the tokenizer has 1024 tokens, the model 1000 rows" in refused and "never cut" in refused
    many = edited(llm, tmp_path / "many", config={"vocab_size": 1100})
    refused = convert(pgn, tmp_path / "x", "--llm", many, *parts, ok=False)
    assert "model.embed_tokens.weight is 1024 x 64, expected 1100 x 64" in refused
    deep = edited(llm, tmp_path / "deep", config={"num_hidden_layers": 3})
    refused = convert(pgn, tmp_path / "x", "--llm", deep, *parts, ok=False)
    assert "lacks 13 tensors of the language model: model.layers.2.self_attn.q_proj.weight" in refused
    shallow = edited(llm, tmp_path / "shallow", config={"num_hidden_layers": 1})
    refused = convert(pgn, tmp_path / "x", "--llm", shallow, *parts, ok=False)
    assert "holds 13 tensors that belong to no part of the language model" in refused

    def broken(**changes):
        state = {name: value for name, value in {**lavis_state, **changes}.items() if value is not None}
        torch.save({"model": state}, tmp_path / "broken.pth")
        arguments = ("--llm", llm, "--vision", tmp_path / "broken.pth", *HEADS)
        return convert(pgn, tmp_path / "x", *arguments, ok=False)

    refused = broken(**{"visual_encoder.blocks.1.mlp.fc1.weight": torch.zeros(384, 80)})
    assert "visual_encoder.blocks.1.mlp.fc1.weight is 384 x 80, expected 384 x 88" in refused
    halves = {f"visual_encoder.blocks.1.attn.{half}_bias": torch.zeros(80) for half in "qv"}
    assert "blocks.1.attn.q_bias is 80, expected 88" in broken(**halves)
    wide = {name: torch.zeros(48, 99) for name in lavis_state if "crossattention.self" in name and "y.w" in name}
    wide |= {name: torch.zeros(48, 99) for name in lavis_state if "crossattention.self.value.weight" in name}
    refused = broken(**wide)
    assert "encoder_hidden_size=99, but expected the vision tower's hidden_size 88" in refused
    refused = broken(**{"visual_encoder.blocks.1.mlp.fc1.weight": torch.zeros(384, 88, dtype=torch.int8)})
    assert "is of type torch.int8, expected floating point" in refused
    for name, words in (
        ("query_tokens", "query_tokens is not there"), ("visual_encoder.pos_embed", "pos_embed is not there"),
        ("visual_encoder.blocks.0.mlp.fc1.weight", "fc1.weight is not there"),
        ("Qformer.bert.encoder.layer.0.intermediate_query.dense.weight", "intermediate_query.dense.weight is not"),
    ):  # fmt: skip
        assert words in broken(**{name: None})
    assert "cls_token is a scalar, expected a tensor of 3 dimensions" in broken(
        **{"visual_encoder.cls_token": torch.tensor(1.0)}
    )
    refused = broken(**{name: None for name in lavis_state if ".blocks.1." in name})
    assert "lacks visual_encoder.blocks.1.*, although it has 2 of these" in refused
    refused = broken(**{"visual_encoder.rel_pos_bias.table": torch.zeros(3)})
    assert "holds 1 tensors that belong to no part of the vision side: visual_encoder.rel_pos_bias.table" in refused
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".x.*"))


def test_files_that_are_none_are_refused(pgn, llm, lavis_file, lavis_state, tmp_path):
    refused = convert(pgn, tmp_path / "x", "--llm", tmp_path, ok=False)
    assert "is no folder of a language model: it has no config.json" in refused
    refused = convert(pgn, tmp_path / "x", "--llm", llm, "--vision", tmp_path / "no.pth", ok=False)
    assert "no.pth' does not exist; give a file of weights" in refused
    refused = convert(pgn, tmp_path / "x", "--llm", llm, "--vision", llm, ok=False)
    assert "holds neither a vision tower nor a Q-Former" in refused and "pgn convert inspect" in refused
    vit = {name: value for name, value in lavis_state.items() if name.startswith("visual_encoder.")}
    torch.save(vit, tmp_path / "vit.pth")
    refused = convert(pgn, tmp_path / "x", "--llm", llm, "--qformer", tmp_path / "vit.pth", ok=False)
    assert "--qformer" in refused and "holds no qformer part" in refused
    refused = convert(pgn, tmp_path / "x", "--llm", llm, "--vision", lavis_file, ok=False)
    assert "does not say how many attention heads its vision part of width 88 has; give --vision_heads" in refused
    refused = convert(
        pgn, tmp_path / "x", "--llm", llm, "--vision", lavis_file, "--vision_heads", 7, "--qformer_heads", 4, ok=False
    )
    assert "and 7 do not divide it" in refused
    bert = edited(llm, tmp_path / "bert", config={"model_type": "bert"})
    assert "decoder-only" in convert(pgn, tmp_path / "x", "--llm", bert, ok=False)
    unheard = edited(llm, tmp_path / "unheard", config={"model_type": "unheard_of"})
    assert "model_type='unheard_of', but expected" in convert(pgn, tmp_path / "x", "--llm", unheard, ok=False)
    unnamed = edited(llm, tmp_path / "unnamed", config={"model_type": None})
    (unnamed / "config.json").write_text("{}")
    assert "has no model_type" in convert(pgn, tmp_path / "x", "--llm", unnamed, ok=False)
    (unnamed / "config.json").write_text("{")
    assert "config.json cannot be read" in convert(pgn, tmp_path / "x", "--llm", unnamed, ok=False)
    for kind in ("t5", "qwen2_5_vl"):
        other = edited(llm, tmp_path / kind, config={"model_type": kind})
        assert "is none of a language model that PGN can use" in convert(pgn, tmp_path / "x", "--llm", other, ok=False)
    bare = edited(llm, tmp_path / "bare")
    (bare / "tokenizer.model").unlink()
    assert "the tokenizer of" in convert(pgn, tmp_path / "x", "--llm", bare, ok=False)
    (bare / "tokenizer_config.json").unlink()
    assert "has no tokenizer_config.json, which says what eos" in convert(pgn, tmp_path / "x", "--llm", bare, ok=False)
    for size in ("2", "2XB", "0", "abc"):
        refused = convert(pgn, tmp_path / "x", "--llm", llm, "--max_shard_size", size, ok=False)
        assert f"max_shard_size={size!r} is no size; expected one like 500MB or 2GB" in refused
    (tmp_path / "file").write_text("no folder")
    refused = convert(pgn, tmp_path / "file" / "x", "--llm", llm, ok=False)
    assert "file/x cannot be written" in refused
    quantised = edited(llm, tmp_path / "q", config={"quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert "the weights are quantised" in convert(pgn, tmp_path / "x", "--llm", quantised, ok=False)


def test_nothing_is_overwritten_and_no_half_folder_is_left(pgn, llm, lavis_file, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    parts = ("--llm", llm, "--vision", lavis_file, *HEADS)
    assert "exists already; choose another folder" in convert(pgn, tmp_path / "there", *parts, ok=False)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine.txt"]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    refused = convert(pgn, tmp_path / "full", *parts, ok=False)
    assert "the result takes 0.0 GB" in refused and "has 0.0 GB left" in refused
    monkeypatch.undo()

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pgn_vln.convert.checkpoint.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        convert(pgn, tmp_path / "cut", *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
