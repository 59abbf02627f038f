"""The model against independent compositions of transformers' own classes, and what must (not) change its output."""

import json

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import nn
from transformers import Blip2QFormerModel, Blip2VisionModel, LlamaConfig, LlamaForCausalLM, Qwen2Config

from modeling_pgn import OpenPanguConfig, OpenPanguForCausalLM, PGNConfig, PGNForConditionalGeneration
from modeling_pgn.prompting_pgn import NavigationPrompt

GO = "walk to the red chair"
SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def navigation_batch(processor, frames, actions, instruction=GO, layout="stream"):
    prompt = NavigationPrompt(processor.tokenizer, 8, layout)
    encoded = prompt.encode(instruction, actions, actions)
    return {
        "input_ids": torch.tensor([encoded.input_ids]),
        "labels": torch.tensor([encoded.labels]),
        "pixel_values": processor.image_processor(frames, return_tensors="pt")["pixel_values"],
    }


def test_openpangu_is_llama_with_attention_bias():
    torch.manual_seed(0)
    ours = OpenPanguForCausalLM(OpenPanguConfig(**SMALL, rms_norm_eps=1e-5)).eval()
    reference = LlamaForCausalLM(
        LlamaConfig(
            **SMALL,
            attention_bias=True,
            rms_norm_eps=1e-5,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "rope_theta": 1.6e7},
        )
    ).eval()
    assert {"model.layers.0.self_attn.o_proj.bias", "lm_head.weight"} < set(ours.state_dict())
    assert "model.layers.0.mlp.gate_proj.bias" not in ours.state_dict()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    reference.load_state_dict(ours.state_dict())
    ids = torch.randint(0, 300, (2, 17))
    assert torch.allclose(ours(ids).logits, reference(ids).logits, atol=1e-5)


def test_image_path_is_vision_tower_qformer_and_projector(model, processor, make_frames):
    """A direct composition of transformers' classes, loaded with the same weights."""
    config = model.config
    vision = Blip2VisionModel(config.vision_config).eval()
    vision.post_layernorm = nn.LayerNorm(config.vision_config.hidden_size, eps=1e-5)
    qformer = Blip2QFormerModel(config.qformer_config).eval()
    head = nn.Sequential(nn.Linear(128, 160), nn.GELU(), nn.Linear(160, 160))
    vision.load_state_dict(model.model.vision_tower.state_dict())
    qformer.load_state_dict(model.model.qformer.state_dict())
    head.load_state_dict({f"{2 * int(k[7] == '2')}{k[8:]}": v for k, v in model.model.projector.state_dict().items()})
    pixels = processor.image_processor(make_frames(3), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = vision(pixels).last_hidden_state
        queries = model.model.query_tokens.weight.expand(3, -1, -1)
        expected = head(qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state)
        found = model.get_image_features(pixels)
        from_tokens = model.get_image_features(vision_features=tokens)
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, atol=1e-5) and torch.allclose(from_tokens, expected, atol=1e-5)


def test_features_stand_where_their_placeholders_stand(model, processor, make_frames):
    """The language model alone, on embeddings put together by hand."""
    batch = navigation_batch(processor, make_frames(2), [1, 2])
    with torch.no_grad():
        features = model.get_image_features(batch["pixel_values"])
        embeds = model.get_input_embeddings()(batch["input_ids"]).clone()
        places = (batch["input_ids"][0] == 1027).nonzero()[:, 0]
        for place, feature in zip(places, features.reshape(-1, 160), strict=True):
            embeds[0, place] = feature
        expected = model.lm_head(model.model.language_model(inputs_embeds=embeds).last_hidden_state)
        found = model(**batch).logits
    assert torch.allclose(found, expected, atol=1e-5)


def test_loss_is_the_mean_over_supervised_tokens(model, processor, make_frames):
    batch = navigation_batch(processor, make_frames(3), [1, 2, 0])
    with torch.no_grad():
        out = model(**batch)
    shifted = batch["labels"][0, 1:]
    keep = shifted != -100
    expected = nn.functional.cross_entropy(out.logits[0, :-1][keep], shifted[keep])
    assert int(keep.sum()) == 3 + 7 + 2
    assert torch.allclose(out.loss, expected, atol=1e-5)
    with torch.no_grad():
        split = model(**batch, num_items_in_batch=torch.tensor(24)).loss
    assert torch.allclose(split, expected / 2, atol=1e-5)


def test_frames_and_words_change_the_logits(model, processor, make_frames):
    frame = make_frames(1)[0]
    black, white = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")

    def logits(frames, instruction=GO):
        batch = navigation_batch(processor, frames, [1] * len(frames), instruction)
        with torch.no_grad():
            return model(**batch).logits[0, -3]

    base = logits([frame])
    seen = {
        "black": logits([black]),
        "white": logits([white]),
        "mirrored": logits([ImageOps.mirror(frame)]),
        "instruction": logits([frame], "walk to the blue table"),
    }
    for name, other in seen.items():
        assert (base - other).abs().max() > 1e-2, name
    assert (seen["black"] - seen["white"]).abs().max() > 1e-2
    other = make_frames(1, seed=5)[0]
    assert (logits([frame, other]) - logits([other, frame])).abs().max() > 1e-2


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_a_samples_loss_does_not_depend_on_its_batch(model, processor, make_frames, layout):
    """Different lengths, padding on the right, and a sample without any frame beside them."""
    samples = [
        navigation_batch(processor, make_frames(n, seed=n), [1, 2, 3, 1, 0][-n:], GO, layout) for n in (1, 5, 3)
    ]
    text = torch.tensor([processor.tokenizer("There is a lamp on the table.")["input_ids"]])
    samples.append({"input_ids": text, "labels": text.clone()})
    length = max(s["input_ids"].shape[1] for s in samples)
    pad = lambda rows, value: torch.cat([nn.functional.pad(r, (0, length - r.shape[1]), value=value) for r in rows])  # noqa: E731
    batch = {
        "input_ids": pad([s["input_ids"] for s in samples], 0),
        "attention_mask": pad([torch.ones_like(s["input_ids"]) for s in samples], 0),
        "pixel_values": torch.cat([s["pixel_values"] for s in samples[:-1]]),
    }
    assert len(batch["pixel_values"]) == 9
    with torch.no_grad():
        together = model(**batch).logits
        for row, sample in enumerate(samples):
            alone = model(**sample)
            labels = sample["labels"][0, 1:]
            loss = nn.functional.cross_entropy(together[row, : len(labels)], labels, ignore_index=-100)
            assert abs(loss - alone.loss) < 1e-5
        assert torch.allclose(together[0, 0], together[1, 0])  # The same first token: nothing leaks from the padding.


def test_a_shared_frame_is_encoded_once(model, processor, make_frames):
    frames = make_frames(2)
    batch = navigation_batch(processor, [frames[0], frames[1], frames[0]], [1, 1, 1])
    shared = {**batch, "pixel_values": batch["pixel_values"][:2], "frame_index": torch.tensor([0, 1, 0])}
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, model(**shared).logits, atol=1e-5)
        features = model(**shared).image_features
        assert features.shape == (2, 8, 160)
        del shared["pixel_values"]
        assert torch.allclose(model(**batch).logits, model(**shared, image_features=features).logits, atol=1e-5)


def test_wrong_numbers_of_frames_are_refused(model, processor, make_frames):
    batch = navigation_batch(processor, make_frames(2), [1, 1])
    with pytest.raises(ValueError, match="hold 16 image placeholders .*1 frame references of 8 query tokens need 8"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:1]})
    with pytest.raises(ValueError, match="hold 16 image placeholders, but 0 frames"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="one of pixel_values, vision_features and image_features"):
        model(**batch, image_features=torch.zeros(2, 8, 160))
    with pytest.raises(ValueError, match="got inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 4, 160), pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("text", [LlamaConfig, Qwen2Config])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_language_models(text, attention, processor, make_frames):
    """The same weights of the language model, in PGN and in transformers' own causal LM."""
    torch.manual_seed(0)
    config = PGNConfig.tiny(text_config=text(**{**SMALL, "vocab_size": 1028}))
    model = PGNForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    assert model.config.qformer_config._attn_implementation == attention
    reference = type(model)._from_config(config, attn_implementation="eager").eval()
    reference.load_state_dict(model.state_dict())
    batch = navigation_batch(processor, make_frames(2), [1, 0])
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, reference(**batch).logits, atol=1e-5)
        loss = model(**batch).loss
    assert torch.isfinite(loss)


def test_tied_embeddings_are_followed():
    text = Qwen2Config(**{**SMALL, "vocab_size": 1028}, tie_word_embeddings=True)
    model = PGNForConditionalGeneration(PGNConfig.tiny(text_config=text))
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_queries_start_apart():
    """Equal queries get equal gradients for ever: they would be one query."""
    torch.manual_seed(0)
    queries = PGNForConditionalGeneration(PGNConfig.tiny()).model.query_tokens.weight[0]
    assert torch.cdist(queries, queries)[~torch.eye(8, dtype=bool)].min() > 0.1


def test_gradient_checkpointing_gives_the_same_gradients(tiny_dir, processor, make_frames):
    batch = navigation_batch(processor, make_frames(2), [1, 0])
    gradients = []
    for checkpointing in (False, True):
        model = PGNForConditionalGeneration.from_pretrained(tiny_dir).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_lavis_golden_numbers(request):
    """Random weights in LAVIS's layout, renamed here, give what LAVIS's own ViT and Q-Former code computed."""
    folder = request.config.rootpath / "tests" / "fixtures"
    sizes = json.loads((folder / "lavis_tiny.json").read_text())
    golden = load_file(folder / "lavis_tiny_io.safetensors")
    state = torch.load(folder / "lavis_tiny.pth", weights_only=True)["model"]
    config = PGNConfig.tiny(
        vision_config={
            "hidden_size": sizes["width"], "intermediate_size": int(sizes["width"] * sizes["mlp"]),
            "num_hidden_layers": sizes["depth"], "num_attention_heads": sizes["heads"], "image_size": sizes["img"],
            "patch_size": sizes["patch"],
        },
        qformer_config={
            "hidden_size": sizes["hidden"], "intermediate_size": sizes["inter"],
            "num_hidden_layers": sizes["qlayers"], "num_attention_heads": sizes["qheads"],
        },
        num_query_tokens=sizes["nq"],
    )  # fmt: skip
    model = PGNForConditionalGeneration(config).model.eval()
    renamed = {}
    for name, value in state.items():
        if name == "query_tokens":
            renamed["query_tokens.weight"] = value
        elif name.startswith("ln_vision."):
            renamed[name.replace("ln_vision", "vision_tower.post_layernorm")] = value
        elif name.startswith("visual_encoder."):
            name = name.removeprefix("visual_encoder.")
            if name.endswith("q_bias"):
                value = torch.cat([value, torch.zeros_like(value), state["visual_encoder." + name[:-6] + "v_bias"]])
                name = name[:-6] + "qkv.bias"
            elif name.endswith("v_bias"):
                continue
            for old, new in [
                ("cls_token", "embeddings.class_embedding"), ("pos_embed", "embeddings.position_embedding"),
                ("patch_embed.proj", "embeddings.patch_embedding"), ("blocks.", "encoder.layers."),
                ("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.", "self_attn."),
                ("self_attn.proj.", "self_attn.projection."),
            ]:  # fmt: skip
                name = name.replace(old, new)
            renamed["vision_tower." + name] = value
        elif name.startswith("Qformer.bert."):
            name = name.removeprefix("Qformer.bert.").replace("embeddings.LayerNorm", "layernorm")
            name = name.replace("attention.self.", "attention.attention.")
            renamed["qformer." + name] = value
    wanted = {k for k in model.state_dict() if not k.startswith(("language_model", "projector"))}
    assert wanted <= set(renamed)
    model.load_state_dict({**model.state_dict(), **{k: renamed[k] for k in wanted}})
    with torch.no_grad():
        tokens = model.vision_tower(golden["pixel_values"]).last_hidden_state
        queries = model.query_tokens(len(tokens))
        features = model.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
    # With the ViT's own eps (1e-6) in the last norm the difference is larger than this.
    assert (tokens - golden["ln_vision_out"]).abs().max() < 1e-5
    assert (features - golden["qformer_out"]).abs().max() < 1e-5
