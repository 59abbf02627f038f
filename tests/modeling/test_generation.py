"""Generation with caches and beams, and the navigator's constrained decoding."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, MistralConfig

from modeling_pgn import Action, PGNConfig, PGNForConditionalGeneration
from modeling_pgn.navigator_pgn import _token_trie
from modeling_pgn.prompting_pgn import NavigationPrompt

GO = "walk to the red chair"


def asked(processor, frames, past, layout="stream"):
    prompt = NavigationPrompt(processor.tokenizer, 8, layout)
    return {
        "input_ids": torch.tensor([prompt.encode(GO, past).input_ids]),
        "pixel_values": processor.image_processor(frames, return_tensors="pt")["pixel_values"],
    }


@pytest.mark.parametrize("beams", [1, 3])
def test_cache_changes_nothing(model, processor, make_frames, beams):
    batch = asked(processor, make_frames(3), [1, 2])
    kwargs = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": beams}
    with_cache = model.generate(**batch, **kwargs, use_cache=True)
    without = model.generate(**batch, **kwargs, use_cache=False)
    assert with_cache.shape[1] == batch["input_ids"].shape[1] + 12
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("beams", [1, 3])
def test_precomputed_and_shared_frames_generate_the_same(model, processor, make_frames, beams):
    """Every form of frames is read with the prompt, and not again at each decoding step."""
    frames = make_frames(2)
    batch = asked(processor, [frames[0], frames[1], frames[0]], [1, 2])
    kwargs = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": beams}
    expected = model.generate(**batch, **kwargs)
    shared = {"input_ids": batch["input_ids"], "frame_index": torch.tensor([0, 1, 0])}
    tokens = model.model.vision_tower(batch["pixel_values"][:2]).last_hidden_state
    features = model.get_image_features(vision_features=tokens)
    assert torch.equal(model.generate(**shared, vision_features=tokens, **kwargs), expected)
    assert torch.equal(model.generate(**shared, image_features=features, **kwargs), expected)


def test_beams_keep_each_samples_frames_together(model, processor, make_frames):
    """Two samples of two frames each: in a batch, with beams, each gives what it gives alone."""
    samples = [asked(processor, make_frames(2, seed=s), [a]) for s, a in ((0, 1), (7, 1))]
    kwargs = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": 3}
    alone = [model.generate(**sample, **kwargs) for sample in samples]
    both = {name: torch.cat([s[name] for s in samples]) for name in ("input_ids", "pixel_values")}
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(model.generate(**both, **kwargs), torch.cat(alone))


def test_left_padded_batch_generates_what_each_sample_does(model, processor, make_frames):
    samples = [asked(processor, make_frames(n, seed=n), [1] * (n - 1)) for n in (1, 3)]
    kwargs = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    alone = [model.generate(**s, **kwargs)[0, -8:] for s in samples]
    length = max(s["input_ids"].shape[1] for s in samples)
    rows, masks = [], []
    for s in samples:
        missing = length - s["input_ids"].shape[1]
        rows.append(torch.nn.functional.pad(s["input_ids"], (missing, 0)))
        masks.append(torch.nn.functional.pad(torch.ones_like(s["input_ids"]), (missing, 0)))
    together = model.generate(
        input_ids=torch.cat(rows),
        attention_mask=torch.cat(masks),
        pixel_values=torch.cat([s["pixel_values"] for s in samples]),
        **kwargs,
    )
    for row, expected in zip(together, alone, strict=True):
        assert torch.equal(row[-8:], expected)


def test_generation_ends_at_eos_or_frame_sep(model):
    assert model.generation_config.eos_token_id == [13, 1026]
    assert model.generation_config.pad_token_id == 0


@pytest.mark.parametrize(
    # `stream` grows to four steps and drops the older half; `window` shows the current frame and four before it.
    ("layout", "kept"),
    [("stream", [1, 2, 3, 4, 2, 3, 4, 2]), ("window", [1, 2, 3, 4, 5, 5, 5, 5])],
)
def test_navigator_probabilities_are_those_of_the_whole_answers(tiny_dir, processor, make_frames, layout, kept):
    """Each answer scored alone by a plain forward, its probability shared out at the two forks only."""
    model = PGNForConditionalGeneration.from_pretrained(tiny_dir).eval()
    model.config.navigation = {**model.config.navigation, "prompt_layout": layout, "history_frames": 4}
    prompt = NavigationPrompt(processor.tokenizer, 8, layout)
    navigator = model.navigator(processor)
    navigator.reset(GO)
    frames, actions = make_frames(8), []
    for t, frame in enumerate(frames):
        action = navigator.act(frame)
        seen = frames[t + 1 - kept[t] : t + 1]
        past = actions[len(actions) - len(seen) + 1 :]
        batch = asked(processor, seen, past, layout)
        with torch.no_grad():
            first = model(**batch).logits[0, -1]
            turn = torch.tensor([[prompt.answer_ids[Action.TURN_LEFT][0]]])
            batch["input_ids"] = torch.cat([batch["input_ids"], turn], dim=1)
            second = model(**batch).logits[0, -1]
        heads = torch.softmax(first[[prompt.answer_ids[a][0] for a in (0, 1, 2)]], 0)
        sides = torch.softmax(second[[prompt.answer_ids[a][1] for a in (2, 3)]], 0)
        expected = torch.stack([heads[0], heads[1], heads[2] * sides[0], heads[2] * sides[1]])
        found = torch.tensor([navigator.probabilities[a] for a in Action])
        assert torch.allclose(found, expected, atol=1e-5)
        assert abs(sum(navigator.probabilities.values()) - 1) < 1e-6
        assert action == int(expected.argmax())
        actions.append(action)


def test_reset_forgets(model, processor, make_frames):
    frames = make_frames(3)
    navigator = model.navigator(processor)
    navigator.reset(GO)
    first = [(navigator.act(f), dict(navigator.probabilities)) for f in frames]
    navigator.reset("find the blue table")
    navigator.act(frames[2])
    navigator.reset(GO)
    assert [(navigator.act(f), dict(navigator.probabilities)) for f in frames] == first


def test_act_before_reset_is_refused(model, processor, make_frames):
    with pytest.raises(RuntimeError, match=r"call reset\(instruction\)"):
        model.navigator(processor).act(make_frames(1)[0])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), r"got ndarray of float32 \(64, 64, 3\)"),
        (np.zeros((64, 64), np.uint8), r"got ndarray of uint8 \(64, 64\)"),
        ([np.zeros((64, 64, 3), np.uint8)], "got list"),
    ],
)
def test_frames_of_another_form_are_refused(model, processor, make_frames, frame, message):
    """And what was seen before is not lost."""
    good, navigator, undisturbed = make_frames(2), model.navigator(processor), model.navigator(processor)
    for agent in (navigator, undisturbed):
        agent.reset(GO)
        agent.act(good[0])
    with pytest.raises(ValueError, match=message):
        navigator.act(frame)
    assert navigator.act(good[1]) == undisturbed.act(good[1])
    assert navigator.probabilities == undisturbed.probabilities


def test_special_tokens_in_an_instruction_are_refused(model, processor, make_frames):
    navigator = model.navigator(processor)
    navigator.reset("walk to the <|image|> chair")
    with pytest.raises(ValueError, match=r"contains the special token '<\|image\|>'"):
        navigator.act(make_frames(1)[0])


@pytest.mark.parametrize(
    "text_config",
    [
        MistralConfig(vocab_size=1028, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                      num_attention_heads=2, num_key_value_heads=2, sliding_window=16, eos_token_id=13),
        GPT2Config(vocab_size=1028, n_embd=32, n_layer=1, n_head=2, n_positions=512, eos_token_id=13, bos_token_id=1),
    ],
    ids=["sliding window", "other names, tied"],
)  # fmt: skip
def test_navigates_with_other_language_models(text_config, processor, make_frames):
    model = PGNForConditionalGeneration(PGNConfig.tiny(text_config=text_config)).eval()
    navigator = model.navigator(processor)
    navigator.reset(GO)
    for frame in make_frames(3):
        assert navigator.act(frame) in list(Action)
        assert abs(sum(navigator.probabilities.values()) - 1) < 1e-6


def test_navigator_refuses_another_models_processor(model, processor):
    import copy

    other = copy.copy(processor)
    other.num_query_tokens = 32
    with pytest.raises(ValueError, match="num_query_tokens is 32 in the processor and 8"):
        model.navigator(other)


def test_answers_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="action MOVE_FORWARD"):
        _token_trie({Action.STOP: (1,), Action.MOVE_FORWARD: (1, 2)})
    with pytest.raises(ValueError, match="action TURN_LEFT"):
        _token_trie({Action.STOP: (3, 4), Action.TURN_LEFT: (3,)})
