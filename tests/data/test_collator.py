"""Batches: right padding, labels beside their tokens, frames without padding."""

import pytest
import torch

from modeling_pgn.prompting_pgn import NavigationPrompt
from pgn_vln.data.collator import NavigationCollator


def window(frames, actions, labels=None):
    return {
        "episode_id": "house", "start": 3, "instruction": "walk to the red chair", "frames": frames,
        "actions": actions, "expert_actions": actions if labels is None else labels,
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["stream", "window"])
def test_a_batch(processor, make_frames, layout):
    prompt = NavigationPrompt(processor.tokenizer, 8, layout)
    frames = make_frames(5)
    batch = NavigationCollator(processor, prompt)([window(frames[:1], [1]), window(frames[1:], [1, 2, 3, 0])])
    lengths = [len(prompt.encode("walk to the red chair", a, a).input_ids) for a in ([1], [1, 2, 3, 0])]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["input_ids"].shape == batch["labels"].shape == (2, max(lengths))
    assert (batch["labels"][0, lengths[0] :] == -100).all()
    assert (batch["input_ids"] == processor.image_token_id).sum() == 5 * 8
    expected = processor.image_processor(frames, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["sample_ids"] == ["house@3", "house@3"]


def test_frames_of_dropped_steps_are_dropped_too(processor, make_frames, caplog):
    prompt = NavigationPrompt(processor.tokenizer, 8, "stream")
    frames, actions = make_frames(4), [1, 2, 3, 0]
    limit = len(prompt.encode("walk to the red chair", actions[1:], actions[1:]).input_ids)
    batch = NavigationCollator(processor, prompt, max_length=limit)([window(frames, actions)])
    assert f"max_length={limit}: the oldest 1 of 4 steps" in caplog.text
    assert batch["input_ids"].shape == (1, limit)
    expected = processor.image_processor(frames[1:], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def test_the_labels_are_the_experts(processor, make_frames):
    prompt = NavigationPrompt(processor.tokenizer, 8, "stream")
    batch = NavigationCollator(processor, prompt)([window(make_frames(1), [1], [0])])
    stop, move = (prompt.answer_ids[a][0] for a in (0, 1))
    assert batch["labels"][batch["labels"] != -100].tolist() == [stop]
    assert move in batch["input_ids"][0].tolist()
