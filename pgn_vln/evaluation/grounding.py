"""What a model can name: it is asked where things are, one view at a time, and its words are compared with the truth.

Answers are generated, word by word, as a user would get them; nothing is forced.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from pgn_vln.data.grounding import NOT_SEEN, PLACES, WHERE, answer, encode_question
from pgn_vln.formats import GROUNDING_MARK
from pgn_vln.io import write_text_atomic
from pgn_vln.navigation.furniture import COLOURS, KINDS
from pgn_vln.navigation.houses import seeded_random
from pgn_vln.navigation.instructions import object_names
from pgn_vln.navigation.views import DOOR, HouseViews, View

BATCH = 64


@dataclass(frozen=True)
class Answer:
    """One question about one view: what was asked for, what is right, and what the model said."""

    name: str
    right: str
    said: str

    @property
    def seen(self) -> bool:
        """Whether the thing is in sight."""
        return self.right != NOT_SEEN

    def part(self, index: int) -> bool:
        """Whether the direction (0) or the distance (1) is right."""
        said, right = self.said.split(", "), self.right.split(", ")
        return len(said) == len(right) == 2 and said[index] == right[index]


def draw_questions(views: HouseViews, houses: int) -> Iterator[tuple[View, str, str]]:
    """For every view one thing of the house in sight and one that is not, where there are such: view, name, noun."""
    for index in range(houses):
        rng = seeded_random("grounding-questions", views.split, views.seed, index)
        for view in views.views(index):
            names = sorted({sighting.name for sighting in view.sightings})
            seen = [name for name in names if answer(view, name) != NOT_SEEN]
            for group in (seen, [name for name in names if name not in seen]):
                if group:
                    name = rng.choice(group)
                    yield view, name, _noun(name, rng)


def _noun(name: str, rng: random.Random) -> str:
    return name if name == DOOR else rng.choice(object_names(name.split(" ", 1)[1], name.split(" ", 1)[0]))


@torch.inference_mode()
def ask_model(model, processor, questions: Sequence[tuple[View, str, str]], progress: bool = True) -> list[Answer]:
    """The model's own words, by greedy decoding."""
    answers = []
    eos = model.generation_config.eos_token_id
    for start in tqdm(range(0, len(questions), BATCH), desc="asking", unit="batch", disable=not progress):
        batch = questions[start : start + BATCH]
        rows = [encode_question(processor, WHERE.format(object=noun)) for _, _, noun in batch]
        length = max(map(len, rows))
        # On the left, so that every prompt ends where its answer begins.
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
        frames = processor.image_processor([view.rgb for view, _, _ in batch], return_tensors="pt")["pixel_values"]
        written = model.generate(
            input_ids=ids, attention_mask=mask, pixel_values=frames.to(model.device, model.dtype),
            do_sample=False, max_new_tokens=16, eos_token_id=eos, pad_token_id=0,
        )  # fmt: skip
        texts = processor.tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
        answers += [
            Answer(name, answer(view, name), text.strip()) for (view, name, _), text in zip(batch, texts, strict=True)
        ]
    return answers


def summarise(answers: Sequence[Answer]) -> dict[str, Any]:
    """Shares of right answers: over all, by kind and by colour.

    ``found``: of what is in sight, how much was given a place; ``direction``, ``distance``: the right words for it;
    ``denied``: of what is not in sight, of how much the model said so.
    """
    kinds = {kind: [a for a in answers if a.name.split(" ")[-1] == kind] for kind in (*KINDS, DOOR)}
    colours = {colour: [a for a in answers if a.name.startswith(f"{colour} ")] for colour in COLOURS}
    return {
        "questions": len(answers),
        "all": _shares(answers),
        "kinds": {name: _shares(group) for name, group in kinds.items() if group},
        "colours": {name: _shares(group) for name, group in colours.items() if group},
    }


def _shares(answers: Sequence[Answer]) -> dict[str, float | int]:
    seen, hidden = [a for a in answers if a.seen], [a for a in answers if not a.seen]
    shares = {
        "seen": len(seen),
        "found": _mean([a.said in PLACES for a in seen]),
        "direction": _mean([a.part(0) for a in seen]),
        "distance": _mean([a.part(1) for a in seen]),
        "hidden": len(hidden),
        "denied": _mean([a.said == NOT_SEEN for a in hidden]),
    }
    return {name: value for name, value in shares.items() if value is not None}


def _mean(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def markdown_table(summary: dict[str, Any]) -> str:
    """The summary as a table for a model card."""
    lines = [
        "| asked for | in sight | found | direction right | distance right | not in sight | said so |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, shares in {"all": summary["all"], **summary["kinds"], **summary["colours"]}.items():
        cells = [shares.get(key, "–") for key in ("seen", "found", "direction", "distance", "hidden", "denied")]
        lines.append(
            "| " + " | ".join([name, *(f"{c:.0%}" if isinstance(c, float) else str(c) for c in cells)]) + " |"
        )
    return "\n".join(lines)


def write_section(card: Path, text: str):
    """Put ``text`` between the two marks of a model card, in place of what stands there.

    Raises:
        ValueError: the card does not exist, or has no such marks.
    """
    parts = card.read_text(encoding="utf-8").split(GROUNDING_MARK) if card.is_file() else []
    if len(parts) != 3:
        raise ValueError(
            f"{card} is no card with two lines {GROUNDING_MARK!r} for the table; leave --card out, or restore it"
        )
    write_text_atomic(card, f"{parts[0]}{GROUNDING_MARK}\n{text}\n{GROUNDING_MARK}{parts[2]}")
