"""The original system's `.pth`: in, out, in again; its loss; LoRA by the user's rules; what is refused."""

import json
import shutil

import pytest
import torch
from conversion_helpers import HEADS
from independent_forward import window_loss
from peft import PeftModel
from safetensors.torch import load_file

from modeling_pgn import NavigationPrompt, PGNForConditionalGeneration, PGNProcessor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WINDOW = """You are a helpful navigation assistant. Based on what you see, please output the action you should take. \
Your output should only include: move forward, turn left 15 degrees, turn right 15 degrees, or stop.
find the red chair
These are the scenes you saw and the actions you took:
<|image_start|>{img}action taken:turn left 15 degrees<|frame_sep|>{img}action taken:move forward<|image_end|>
The last picture you see is what you see from your current location.
<|image_start|>{img}<|image_end|>
please take your action now:
"""


def convert(pgn, file, llm, out, *arguments, ok=True):
    return pgn("convert", "from-original", file, "--llm", llm, "--out", out, *HEADS, *arguments, ok=ok)


def cast(state, dtype):
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_the_window_loss_is_that_of_an_independent_forward(pgn, original_state, llm, sizes, make_frames, tmp_path):
    torch.save({"model": original_state}, tmp_path / "original.pth")
    out = convert(pgn, tmp_path / "original.pth", llm, tmp_path / "pgn", "--history_frames", 2)
    assert "projector: 4 tensors" in out and "untrained" not in out
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").eval()
    assert model.config.navigation["prompt_layout"] == "window" and model.config.navigation["history_frames"] == 2
    processor = PGNProcessor.from_pretrained(tmp_path / "pgn")
    pixels = processor.image_processor(make_frames(3, side=56), return_tensors="pt")["pixel_values"]

    tokenizer = processor.tokenizer
    tokenize = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    pieces = [tokenize(text) for text in WINDOW.split("{img}")]
    pieces[0].insert(0, 1)
    whole = tokenize(WINDOW.split("{img}")[-1] + "turn right 15 degrees")
    assert whole[: len(pieces[-1])] == pieces[-1]
    answer = [*whole[len(pieces[-1]) :], 13]
    heads = (sizes["heads"], sizes["qheads"], 4)
    # PGN's vocabulary has a row more, the image placeholder's: its share of the probability (1 in 1028 here, 1 in
    # 153,380 at full size) is the only difference.
    head = "llm.lm_head.weight"
    state = {**original_state, head: torch.cat([original_state[head], model.lm_head.weight[-1:].detach()])}
    with torch.no_grad():
        expected = window_loss(state, pixels, pieces, answer, heads, theta=16_000_000.0)
        without = window_loss(original_state, pixels, pieces, answer, heads, theta=16_000_000.0)

    prompt = NavigationPrompt(tokenizer, 8, "window")
    encoded = prompt.encode("find the red chair", [2, 1, 3], [2, 1, 3])
    with torch.no_grad():
        loss = model(
            input_ids=torch.tensor([encoded.input_ids]), labels=torch.tensor([encoded.labels]), pixel_values=pixels
        ).loss
    assert sum(label != -100 for label in encoded.labels) == len(answer)
    assert abs(loss.item() - expected.item()) < 1e-5
    assert 0 < loss.item() - without.item() < 2e-3
    navigator = model.navigator(processor)
    navigator.reset("find the red chair")
    assert navigator.act(make_frames(1, side=56)[0]) in range(4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ["with its three rows", "without them"])
def test_round_trips_are_bit_exact(dtype, rows, pgn, original_state, make_llm, tmp_path):
    state = cast(original_state, dtype)
    tables = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")
    if rows == "without them":
        state |= {name: state[name][:1024].clone() for name in tables}
    torch.save(state, tmp_path / "original.pth")
    llm = make_llm(dtype)
    out = convert(pgn, tmp_path / "original.pth", llm, tmp_path / "pgn")
    assert f"each drawn near the mean of the others: {2 if rows == 'with its three rows' else 8}" in out
    saved = weights_of(tmp_path / "pgn")
    assert {value.dtype for value in saved.values()} == {dtype}
    assert torch.equal(saved["lm_head.weight"][: len(state["llm.lm_head.weight"])], state["llm.lm_head.weight"])

    out = pgn("convert", "to-original", tmp_path / "pgn", "--out", tmp_path / "back.pth")
    assert "the image placeholder's row is kept beside the model" in out
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    dropped = {name for name in state if name not in back}
    assert dropped and all("Qformer.bert" in name for name in dropped) and set(back) <= set(state)
    for name, value in back.items():
        assert value.dtype == state[name].dtype
        if name in tables:
            assert value.shape == (1027, 64)
            value = value[: len(state[name])]
        assert torch.equal(value, state[name]), name

    convert(pgn, tmp_path / "back.pth", llm, tmp_path / "again")
    again = weights_of(tmp_path / "again")
    assert saved.keys() == again.keys() and all(torch.equal(saved[name], again[name]) for name in saved)


@pytest.mark.parametrize("wrap", ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "inside"])
def test_what_wrappers_write_into_names_is_taken_off(wrap, pgn, original_state, llm, tmp_path):
    if wrap == "inside":  # Where only the language model was compiled.
        state = {name.replace("llm.", "llm._orig_mod."): value for name, value in original_state.items()}
    else:
        state = {wrap.format(name): value for name, value in original_state.items()}
    torch.save(original_state, tmp_path / "plain.pth")
    torch.save(state, tmp_path / "wrapped.pth")
    for name in ("plain", "wrapped"):
        convert(pgn, tmp_path / f"{name}.pth", llm, tmp_path / name)
    plain, wrapped = (weights_of(tmp_path / name) for name in ("plain", "wrapped"))
    assert plain.keys() == wrapped.keys() and all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_without_a_language_model_the_folder_s_is_taken(pgn, original_state, llm, tmp_path):
    torch.save({k: v for k, v in original_state.items() if not k.startswith("llm.")}, tmp_path / "front.pth")
    out = convert(pgn, tmp_path / "front.pth", llm, tmp_path / "pgn")
    assert f"language model: 29 tensors, 0.21 M, float32, of {llm}" in out
    saved = weights_of(tmp_path / "pgn")["lm_head.weight"]
    assert torch.equal(saved[:1024], load_file(llm / "model.safetensors")["lm_head.weight"])


@pytest.fixture
def with_lora(original_state, tmp_path):
    """The original with LoRA under names of somebody's own, on q and v of both layers."""
    generator = torch.Generator().manual_seed(2)
    lora = {}
    for layer in range(2):
        for module, width in (("q_proj", 64), ("v_proj", 32)):
            name = f"llm.model.layers.{layer}.self_attn.{module}"
            lora[f"{name}.lora_down"] = torch.randn(4, 64, generator=generator)
            lora[f"{name}.lora_up"] = torch.randn(width, 4, generator=generator)
    torch.save(original_state | lora, tmp_path / "lora.pth")
    return tmp_path / "lora.pth", lora


RULES = ("--rename", r"\.lora_down$=>.lora_A.weight", r"\.lora_up$=>.lora_B.weight")


def test_lora_is_refused_with_a_list_or_renamed_by_rules(with_lora, pgn, original_state, llm, tmp_path):
    file, lora = with_lora
    refused = convert(pgn, file, llm, tmp_path / "pgn", ok=False)
    assert "holds 8 tensors that belong to no part of the language model" in refused
    assert "llm.model.layers.*.self_attn.q_proj.lora_down" in refused and "--rename 'PATTERN=>REPLACEMENT'" in refused
    refused = convert(pgn, file, llm, tmp_path / "pgn", *RULES, ok=False)
    assert "8 LoRA tensors" in refused and "give --lora_alpha" in refused
    refused = convert(pgn, file, llm, tmp_path / "pgn", *RULES[:2], "--lora_alpha", 8, ok=False)
    assert "LoRA of llm.model.layers.0.self_attn.q_proj does not pair up" in refused and "lora_B None" in refused
    refused = convert(pgn, file, llm, tmp_path / "pgn", *RULES[:1], r"lora_(up|down)$=>lora_A.weight", ok=False)
    assert "would both be named" in refused
    assert not (tmp_path / "pgn").exists()

    out = convert(pgn, file, llm, tmp_path / "pgn", *RULES, "--lora_alpha", 8)
    assert "LoRA, written to adapter/: 8 tensors" in out
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn").eval()
    adapted = PeftModel.from_pretrained(model, tmp_path / "pgn" / "adapter").merge_and_unload().state_dict()
    for layer in range(2):
        for module in ("q_proj", "v_proj"):
            name = f"llm.model.layers.{layer}.self_attn.{module}"
            expected = original_state[f"{name}.weight"] + 2 * lora[f"{name}.lora_up"] @ lora[f"{name}.lora_down"]
            merged = adapted[f"model.language_model.layers.{layer}.self_attn.{module}.weight"]
            assert torch.allclose(merged, expected, atol=1e-5)
    record = json.loads((tmp_path / "pgn" / "conversion.json").read_text())
    assert record["renames"] == list(RULES[1:])


def test_lora_that_does_not_fit_is_refused(pgn, original_state, llm, tmp_path):
    name = "llm.model.layers.0.self_attn.q_proj"

    def refused(**tensors):
        state = original_state | {f"{name}.lora_{half}.weight": tensor for half, tensor in tensors.items()}
        torch.save(state, tmp_path / "lora.pth")
        return convert(pgn, tmp_path / "lora.pth", llm, tmp_path / "x", "--lora_alpha", 8, ok=False)

    assert "its weight is (64, 64), lora_A (4, 63), lora_B (99, 4)" in refused(
        A=torch.ones(4, 63), B=torch.ones(99, 4)
    )
    assert "lora_A (64,)" in refused(A=torch.ones(64), B=torch.ones(64, 4))
    twice = {"A": torch.ones(4, 64), "B": torch.ones(64, 4), "A.default": torch.ones(4, 64)}
    assert f"{name}.lora_A.default.weight would both be lora_A" in refused(**twice)
    assert "--lora_alpha=8.0, but" in refused() and "holds no LoRA tensors" in refused()


def test_peft_s_own_names_are_mapped_by_the_rules_that_the_message_gives(pgn, original_state, llm, tmp_path):
    adapted = "llm.model.layers.1.self_attn.v_proj"
    state = {name.replace(adapted, f"{adapted}.base_layer"): value for name, value in original_state.items()}
    state = {name.replace("llm.", "llm.base_model.model."): value for name, value in state.items()}
    lora = {"A": torch.randn(4, 64), "B": torch.randn(32, 4)}
    for half, tensor in lora.items():
        state[f"{adapted.replace('llm.', 'llm.base_model.model.')}.lora_{half}.default.weight"] = tensor
    torch.save(state, tmp_path / "peft.pth")
    refused = convert(pgn, tmp_path / "peft.pth", llm, tmp_path / "pgn", "--lora_alpha", 4, ok=False)
    rules = (r"base_model\.model\.=>", r"\.base_layer\.=>.")
    assert all(f"'{rule}'" in refused for rule in rules)
    convert(pgn, tmp_path / "peft.pth", llm, tmp_path / "pgn", "--lora_alpha", 4, "--rename", *rules)
    saved = load_file(tmp_path / "pgn" / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.model.language_model.layers.1.self_attn.v_proj.lora"
    assert torch.equal(saved[f"{prefix}_A.weight"], lora["A"]) and torch.equal(saved[f"{prefix}_B.weight"], lora["B"])


def test_a_padded_vocabulary_and_nested_dicts(pgn, original_state, llm, tmp_path):
    """The original resizes to its tokenizer: of a padded vocabulary the padding is gone, and does not come back."""
    padded = tmp_path / "padded"
    shutil.copytree(llm, padded)
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps({**config, "vocab_size": 1040}))
    nested = {}
    for name, value in original_state.items():
        part, _, rest = name.partition(".")
        nested.setdefault(part, {})[rest] = value
    torch.save({"model": nested, "model_ema": {"x": torch.ones(3)}, "step": 7}, tmp_path / "nested.pth")
    out = convert(pgn, tmp_path / "nested.pth", padded, tmp_path / "pgn")
    assert "also holds model_ema, step (1 tensors): beside its weights, left alone" in out
    saved = weights_of(tmp_path / "pgn")
    assert saved["lm_head.weight"].shape[0] == 1028
    back = tmp_path / "back.pth"
    pgn("convert", "to-original", tmp_path / "pgn", "--out", back)
    found = torch.load(back, weights_only=True)["model"]
    assert all(torch.equal(found[name], original_state[name]) for name in found)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("lora_down", "it has no '=>'"),
        ("(=>x", "unterminated subpattern"),
        ("no_such_tensor=>x", "no tensor of"),
        (r"\.(weight|bias)$=>.tensor", "would both be named"),
        (r"weight$=>\7", "invalid group reference"),
    ],
)
def test_bad_rules_are_refused(rule, message, pgn, original_state, llm, tmp_path):
    torch.save(original_state, tmp_path / "original.pth")
    refused = convert(pgn, tmp_path / "original.pth", llm, tmp_path / "x", "--rename", rule, ok=False)
    assert f"--rename {rule!r}" in refused and message in refused


def test_what_does_not_fit_is_refused(pgn, original_state, llm, lavis_file, tmp_path):
    def broken(**changes):
        state = {**original_state, **changes}
        torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "broken.pth")
        return convert(pgn, tmp_path / "broken.pth", llm, tmp_path / "x", ok=False)

    rows = original_state["llm.model.embed_tokens.weight"]
    refused = broken(**{"llm.model.embed_tokens.weight": rows[:1025]})
    assert "llm.model.embed_tokens.weight has 1025 rows" in refused and "expected 1024, or 1027" in refused
    refused = broken(**{"llm.lm_head.weight": original_state["llm.lm_head.weight"][:1024]})
    assert "llm.lm_head.weight is 1024 x 64, expected 1027 x 64" in refused
    refused = broken(**{"pangu_proj.2.bias": None})
    assert "lacks 1 tensors of the projector: pangu_proj.2.bias" in refused
    refused = broken(**{"vision_frontend.visual_encoder.rel_pos": torch.zeros(3)})
    assert "belong to no part of the vision side: vision_frontend.visual_encoder.rel_pos" in refused
    refused = broken(**{"pangu_proj.4.weight": torch.zeros(3)})
    assert "belong to no part of the projector: pangu_proj.4.weight" in refused
    refused = broken(**{"pangu_proj.0.weight": torch.zeros(64, 50)})
    assert "pangu_proj.0.weight is 64 x 50, expected 64 x 48" in refused
    refused = broken(**{"critic.weight": torch.zeros(3)})
    assert "expected only names that begin with vision_frontend., pangu_proj. and llm.; found critic.weight" in refused
    refused = convert(pgn, lavis_file, llm, tmp_path / "x", ok=False)
    assert "is no checkpoint of the original system" in refused
    torch.save({k: v for k, v in original_state.items() if k.startswith("llm.")}, tmp_path / "llm.pth")
    refused = convert(pgn, tmp_path / "llm.pth", llm, tmp_path / "x", ok=False)
    assert "it has none of vision_frontend." in refused
    assert not (tmp_path / "x").exists()


def test_what_the_formats_cannot_say_is_refused_or_noted(pgn, original_state, llm, tmp_path):
    torch.save(original_state, tmp_path / "original.pth")
    convert(pgn, tmp_path / "original.pth", llm, tmp_path / "pgn")
    back = tmp_path / "back.pth"
    assert "is no PGN checkpoint: it has no config.json" in pgn(
        "convert", "to-lavis", tmp_path, "--out", back, ok=False
    )
    assert "is of type 'PanguEmbedded', expected 'pgn'" in pgn("convert", "to-original", llm, "--out", back, ok=False)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert "config.json cannot be read" in pgn("convert", "to-lavis", tmp_path / "broken", "--out", back, ok=False)
    back.write_text("mine")
    assert "exists already; choose another name" in pgn(
        "convert", "to-original", tmp_path / "pgn", "--out", back, ok=False
    )
    assert back.read_text() == "mine"
    # A key bias, as full training of the vision tower leaves it: no effect, no place in LAVIS.
    model = PGNForConditionalGeneration.from_pretrained(tmp_path / "pgn")
    with torch.no_grad():
        model.model.vision_tower.encoder.layers[1].self_attn.qkv.bias[88:176] = 0.25
    model.save_pretrained(tmp_path / "trained")
    out = pgn("convert", "to-lavis", tmp_path / "trained", "--out", tmp_path / "trained.pth")
    assert "the key biases (up to 0.25) are left out: LAVIS has none, and softmax does not see them" in out
    # Special tokens that are not the last rows.
    config = json.loads((tmp_path / "trained" / "config.json").read_text())
    config |= {"image_token_id": 5}
    (tmp_path / "trained" / "config.json").write_text(json.dumps(config))
    refused = pgn("convert", "to-original", tmp_path / "trained", "--out", tmp_path / "x.pth", ok=False)
    assert "[1024, 1025, 1026, 5] in a vocabulary of 1028" in refused and not (tmp_path / "x.pth").exists()
    (tmp_path / "trained" / "adapter_config.json").write_text("{}")
    refused = pgn("convert", "to-original", tmp_path / "trained", "--out", tmp_path / "x.pth", ok=False)
    assert "is an adapter; merge it into its base first" in refused
