"""Questions about views, their answers, and how both become a batch."""

import random

import numpy as np
import pytest
import torch

from pgn_vln.data.grounding import (
    DESCRIBE,
    NOT_SEEN,
    NOTHING,
    PLACES,
    GroundingCollator,
    GroundingViews,
    answer,
    describe,
    direction,
    distance,
    draw_question,
    encode_question,
    grounding_corpus,
)
from pgn_vln.navigation.views import LABELS, HouseViews, Sighting, View


def view(*sightings):
    labels = np.zeros((64, 64), dtype=np.uint8)
    return View(np.zeros((64, 64, 3), dtype=np.uint8), labels, tuple(Sighting(*values) for values in sightings))


@pytest.mark.parametrize(
    ("degrees", "words"),
    [(0, "ahead"), (7.5, "ahead"), (-7.4, "ahead"), (8, "to the left"), (-29, "to the right"),
     (-31, "far to the right"), (170, "far to the left")],
)  # fmt: skip
def test_directions(degrees, words):
    assert direction(degrees) == words


def test_distances_grow():
    assert [distance(metres) for metres in (0.0, 0.75, 1.0, 2.0, 9.0)] == [
        "here", "here", "near", "some way off", "far away",
    ]  # fmt: skip
    assert len(PLACES) == len(set(PLACES)) == 5 * 4


def test_answers_name_what_can_be_recognised_and_nothing_else():
    seen = view(("red chair", 300, 20.0, 1.0), ("blue bed", 11, 0.0, 4.0), ("green lamp", 0, 100.0, 2.0))
    assert answer(seen, "red chair") == "to the left, near"
    assert answer(seen, "blue bed") == answer(seen, "green lamp") == answer(seen, "black sofa") == NOT_SEEN
    # From left to right, the two that fill most of the view.
    crowded = view(("red chair", 30, -40.0, 3.0), ("blue bed", 20, 0.0, 4.0), ("black sofa", 99, 5.0, 0.5))
    assert describe(crowded) == "black sofa ahead, here; red chair far to the right, far away"
    assert describe(view()) == NOTHING
    two_doors = view(("door", 20, 30.0, 4.0), ("door", 90, -20.0, 1.0))
    assert answer(two_doors, "door") == "to the right, near"


def test_questions_name_things_of_the_house_or_things_it_lacks():
    views = [view(("red chair", 300, 20.0, 1.0), ("door", 90, 0.0, 2.0)), view(("red chair", 0, 90.0, 1.0))] * 8
    asked = [draw_question(views, random.Random(seed)) for seed in range(300)]
    described = [answers for question, answers in asked if question == DESCRIBE]
    assert 50 < len(described) < 130 and all(len(answers) == 8 for answers in described)
    found = [answers for question, answers in asked if "red chair" in question]
    assert found and all(answers == ["to the left, near", NOT_SEEN] * 8 for answers in found)
    assert any("find" in question or "walk" in question for question, _ in asked)
    absent = [a for question, a in asked if "red chair" not in question and "door" not in question and len(a) == 16]
    assert absent and all(answers == [NOT_SEEN] * 16 for answers in absent)


def test_the_tiny_tokenizer_writes_answers_in_a_few_pieces(processor):
    for text in grounding_corpus():
        pieces = processor.tokenizer.tokenize(text.strip())
        assert len(pieces) <= 12, pieces
    assert max(len(processor.tokenizer.tokenize(place)) for place in PLACES) <= 8


@pytest.mark.usefixtures("needs_renderer")
def test_a_batch_supervises_the_answers_and_carries_what_patches_and_strips_show(processor, model):
    data = GroundingViews(HouseViews(("one_room",), "train", 6), 12)
    samples = [data[index] for index in range(12)]
    assert len(data) == 12
    batch = GroundingCollator(processor, 16)(samples)
    frames = sum(len(sample["answers"]) for sample in samples)
    queries = processor.num_query_tokens
    assert {name: tuple(value.shape) for name, value in batch.items() if name not in ("input_ids", "labels")} == {
        "attention_mask": tuple(batch["input_ids"].shape), "pixel_values": (frames, 3, 64, 64),
        "patch_labels": (frames, 16), "strip_labels": (frames, queries), "strip_distances": (frames, queries),
    }  # fmt: skip
    for sample, ids, labels in zip(samples, batch["input_ids"], batch["labels"], strict=True):
        spoken = processor.tokenizer.decode(ids[labels != -100])
        assert [part.strip() for part in spoken.split("<|frame_sep|>")[:-1]] == sample["answers"]
        assert (ids == processor.image_token_id).sum() == queries * len(sample["answers"])
        # In use the question alone is written; training must have seen the very same beginning.
        prompt = encode_question(processor, sample["question"])
        assert ids[: len(prompt)].tolist() == prompt and (labels[: len(prompt)] == -100).all()
    # How far away each strip's thing is: read again off the views.
    strips, distances = batch["strip_labels"], batch["strip_distances"]
    views = data.views.views(0)
    for index in range(queries):
        name = LABELS[strips[0, index]]
        if name:
            metres = next(s.distance_m for s in views[0].sightings if s.name == name)
            assert distances[0, index] == sum(metres > bound for bound in (0.75, 1.5, 2.75))
    assert (strips > 0).any()
    loss = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"],
        pixel_values=batch["pixel_values"],
    ).loss  # fmt: skip
    assert torch.isfinite(loss)
