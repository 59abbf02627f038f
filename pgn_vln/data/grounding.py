"""Questions about rendered views, in the model's own language: what stands where.

A sample is one question and several views of one house, each followed by its answer, in the shape of a ``stream``::

    {question}
    <|image_start|>{img}<|image_end|>{answer}<|frame_sep|>

The question comes first and asks for what an instruction names, so that what is learned here, to look for the thing
that was named, is what navigation needs next.
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch

from modeling_pgn.prompting_pgn import (
    FRAME_SEP_TOKEN,
    IGNORE_INDEX,
    IMAGE_END_TOKEN,
    IMAGE_START_TOKEN,
    IMAGE_TOKEN,
)
from pgn_vln.navigation.houses import seeded_random
from pgn_vln.navigation.instructions import object_names, write_instruction
from pgn_vln.navigation.views import DOOR, LABELS, HouseViews, Sighting, View, patch_labels, strip_labels

# A phrase holds up to and including its bound: half a turn of the robot to either side is ahead.
_DIRECTIONS = ((7.5, "ahead"), (30.0, "to the {side}"), (180.0, "far to the {side}"))
DISTANCES = ((0.75, "here"), (1.5, "near"), (2.75, "some way off"), (math.inf, "far away"))
DIRECTION_NAMES = tuple(dict.fromkeys(text.format(side=side) for _, text in _DIRECTIONS for side in ("left", "right")))
PLACES = tuple(f"{where}, {far}" for where, (_, far) in product(DIRECTION_NAMES, DISTANCES))
NOT_SEEN = "not in sight"
NOTHING = "nothing"
FIND, DESCRIBE = "{instruction}\nwhere is it?", "what is in sight?"
WHERE = "where is the {object}?"
# A description names at most this many things: the ones that fill most of the view.
DESCRIBED = 2
# Shares of the samples that describe, and of the others that name something the house does not have.
_DESCRIBE_SHARE, _ABSENT_SHARE = 0.3, 0.1


def direction(bearing: float) -> str:
    """Words for a bearing in degrees, positive to the left."""
    phrase = next(text for bound, text in _DIRECTIONS if abs(bearing) <= bound)
    return phrase.format(side="left" if bearing > 0 else "right")


def distance(metres: float) -> str:
    """Words for a distance."""
    return DISTANCES[distance_class(metres)][1]


def distance_class(metres: float) -> int:
    """Index of a distance in `DISTANCES`."""
    return next(index for index, (bound, _) in enumerate(DISTANCES) if metres <= bound)


def place(sighting: Sighting) -> str:
    """Where something is, e.g. ``"to the left, near"``."""
    return f"{direction(sighting.bearing)}, {distance(sighting.distance_m)}"


def describe(view: View) -> str:
    """What is in sight, from left to right, e.g. ``"red chair ahead, near; blue bed to the right, far away"``."""
    largest = sorted(view.visible(), key=lambda s: -s.pixels)[:DESCRIBED]
    named = sorted(largest, key=lambda s: -s.bearing)
    return "; ".join(f"{s.name} {place(s)}" for s in named) or NOTHING


def answer(view: View, name: str) -> str:
    """Where `name` is in a view; of several doors, the one that fills most of it."""
    seen = [s for s in view.visible() if s.name == name]
    return place(max(seen, key=lambda s: s.pixels)) if seen else NOT_SEEN


def grounding_corpus() -> list[str]:
    """Every question form and every answer to where something is."""
    questions = [DESCRIBE, WHERE.format(object=DOOR), FIND.format(instruction="find it")]
    return [*PLACES, NOT_SEEN, NOTHING, *(f"\n{question}" for question in questions)]


class GroundingViews(torch.utils.data.Dataset):
    """Samples ``{question, answers, frames, labels, distances}``, rendered when asked for; item i is always the same.

    ``labels [V, H, W]`` and ``distances [V, len(LABELS)]`` say what every pixel shows and how far away each thing is.

    Args:
        views: where the views come from.
        num_houses: items.
    """

    def __init__(self, views: HouseViews, num_houses: int) -> None:
        self.views = views
        self.num_houses = num_houses

    def __len__(self) -> int:
        return self.num_houses

    def __getitem__(self, index: int) -> dict[str, Any]:
        views = self.views.views(index)
        rng = seeded_random("questions", self.views.split, self.views.seed, index)
        question, answers = draw_question(views, rng)
        # Descriptions are longer, and a batch is padded to its longest sample.
        views = views[: len(answers)]
        return {
            "question": question,
            "answers": answers,
            "frames": [view.rgb for view in views],
            "labels": np.stack([view.labels for view in views]),
            "distances": np.stack([distance_classes(view) for view in views]),
        }


def draw_question(views: Sequence[View], rng: random.Random) -> tuple[str, list[str]]:
    """One question about a house, and its answers: for each view, or, to describe, for the first half of them."""
    if rng.random() < _DESCRIBE_SHARE:
        return DESCRIBE, [describe(view) for view in views[: -(-len(views) // 2)]]
    names = sorted({sighting.name for sighting in views[0].sightings})
    if rng.random() < _ABSENT_SHARE:
        names = [name for name in LABELS[1:] if name not in names and name != DOOR]
    name = rng.choice(names)
    return ask(name, rng), [answer(view, name) for view in views]


def distance_classes(view: View) -> np.ndarray:
    """How far away each of `LABELS` is, as an index of `DISTANCES`; 0 as well for what the house lacks: ``[48]``."""
    classes = np.zeros(len(LABELS), dtype=np.int64)
    for sighting in sorted(view.sightings, key=lambda s: s.pixels):
        classes[LABELS.index(sighting.name)] = distance_class(sighting.distance_m)
    return classes


def ask(name: str, rng: random.Random) -> str:
    """Ask where something is: plainly, or the way instructions name it."""
    if name == DOOR:
        return WHERE.format(object=DOOR)
    colour, kind = name.split(" ", 1)
    if rng.random() < 0.5:
        return WHERE.format(object=rng.choice(object_names(kind, colour)))
    return FIND.format(instruction=write_instruction(kind, colour, ["room"], rng))


class GroundingCollator:
    """Samples to a batch; text is padded on the right, frames are concatenated.

    Args:
        processor: a `PGNProcessor`.
        patch_size: of the vision tower.
    """

    def __init__(self, processor, patch_size: int) -> None:
        self.processor = processor
        self.patch_size = patch_size
        self._tokenize = lru_cache(maxsize=65536)(lambda text: _ids(processor, text))
        self._image = _ids(processor, _image_text(processor))

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch: ``input_ids``, ``attention_mask``, ``labels`` ``[B, L]``, ``pixel_values [F, 3, H, W]``,
        ``patch_labels [F, N]``, ``strip_labels [F, Q]`` and ``strip_distances [F, Q]``.
        """
        rows = [self._encode(sample) for sample in samples]
        pad = torch.nn.utils.rnn.pad_sequence
        frames = [frame for sample in samples for frame in sample["frames"]]
        shown = np.concatenate([sample["labels"] for sample in samples])
        distances = np.concatenate([sample["distances"] for sample in samples])
        strips = strip_labels(shown, self.processor.num_query_tokens)
        return {
            "input_ids": pad([ids for ids, _ in rows], batch_first=True, padding_value=0),
            "attention_mask": pad([torch.ones_like(ids) for ids, _ in rows], batch_first=True, padding_value=0),
            "labels": pad([labels for _, labels in rows], batch_first=True, padding_value=IGNORE_INDEX),
            "pixel_values": self.processor.image_processor(frames, return_tensors="pt")["pixel_values"],
            "patch_labels": torch.from_numpy(patch_labels(shown, self.patch_size)),
            "strip_labels": torch.from_numpy(strips),
            "strip_distances": torch.from_numpy(np.take_along_axis(distances, strips, axis=1)),
        }

    def _encode(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = _opening(self.processor, sample["question"])
        labels = [IGNORE_INDEX] * len(ids)
        for text in sample["answers"]:
            spoken = [*self._tokenize(text), *self._tokenize(FRAME_SEP_TOKEN)]
            ids += [*self._image, *spoken]
            labels += [IGNORE_INDEX] * len(self._image) + spoken
        return torch.tensor(ids), torch.tensor(labels)


def encode_question(processor, question: str) -> list[int]:
    """Token ids of a question and one view, up to where the answer begins."""
    return [*_opening(processor, question), *_ids(processor, _image_text(processor))]


def _opening(processor, question: str) -> list[int]:
    # With what the tokenizer itself puts before a text.
    return list(processor.tokenizer(f"{question}\n")["input_ids"])


def _image_text(processor) -> str:
    return f"{IMAGE_START_TOKEN}{IMAGE_TOKEN * processor.num_query_tokens}{IMAGE_END_TOKEN}"


def _ids(processor, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]
