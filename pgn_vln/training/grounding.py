"""Grounding: the Trainer with heads that are thrown away afterwards, the metric of its answers, timed checkpoints."""

import shlex
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback

from modeling_pgn.prompting_pgn import IGNORE_INDEX
from pgn_vln.data.grounding import DESCRIBED, DIRECTION_NAMES, DISTANCES, NOT_SEEN
from pgn_vln.formats import GROUNDING_MARK
from pgn_vln.io import write_text_atomic
from pgn_vln.navigation.furniture import COLOURS, KINDS
from pgn_vln.navigation.views import LABEL_COLOURS, LABEL_KINDS
from pgn_vln.training.accuracy import label_runs
from pgn_vln.versions import machine, package_versions

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
tags: [vision-language-navigation, pgn]
---
# {name}

A tiny PGN ({parameters:.2f} M parameters, {side}x{side} pixels) that knows what stands where in the built-in houses:
the start for navigation, as pretrained parts are for the full size. It does not navigate yet.

## What it can name

Asked "where is the red chair?" it answers with a direction and a distance, or "not in sight"; asked "what is in
sight?" it names up to {described} things. It knows the {things} kinds of furniture of the built-in houses, their
{colours} colours, and doors, and nothing else: no other pictures, no other language. Views of validation and test
houses were never trained on.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "{name}"  # or the path of this folder
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
text = "where is the red chair?\\n<|image_start|><|image|><|image_end|>"
inputs = processor(images=[frame], text=text, return_tensors="pt")  # a PIL image or uint8 [height, width, 3]
words = model.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
print(processor.tokenizer.decode(words, skip_special_tokens=True))  # to the left, near
```

{mark}
Not measured yet: `pgn evaluate grounding --model {name} --card true`
{mark}

"Direction right" and "distance right" are shares of what is in sight; one word of {directions} and one of {distances}.

## How it was made

| | |
| --- | --- |
| command | `{command}` |
| data | {views:,} views, rendered while training, of {houses:,} training houses ({levels}) |
| time | {minutes:.0f} minutes, {steps:,} steps |
| machine | {machine} |
| versions | {versions} |

The arguments are in `recipe.yaml`. Two heads (what each patch shows, what each upright strip shows) were trained
beside the language model's answers and thrown away.
"""
HEADS = ("patch_head", "strip_head")


@dataclass
class GroundingArguments:
    """Views and questions, and how much the auxiliary heads count."""

    levels: list[str] = field(
        default_factory=lambda: ["one_room", "two_rooms"], metadata={"help": "Levels of the houses, in turn."}
    )
    views_per_house: int = field(default=16, metadata={"help": "Views of a sample."})
    eval_houses: int = field(default=64, metadata={"help": "Houses of the validation split to measure on."})
    hfov_degrees: float = field(default=90.0, metadata={"help": "Horizontal field of view."})
    patch_loss: float = field(default=1.0, metadata={"help": "Weight of: what does each patch show?"})
    strip_loss: float = field(default=1.0, metadata={"help": "Weight of: what does each upright strip show, how far?"})
    save_minutes: float = field(default=5.0, metadata={"help": "A checkpoint as often as this, in minutes."})


def add_heads(model: PreTrainedModel):
    """Give the model the two auxiliary heads, as submodules, so that checkpoints hold them."""
    kinds, colours = max(LABEL_KINDS) + 1, max(LABEL_COLOURS) + 1
    model.patch_head = nn.Linear(model.config.vision_config.hidden_size, kinds + colours)
    model.strip_head = nn.Linear(model.config.text_config.hidden_size, kinds + colours + len(DISTANCES))


def remove_heads(model: PreTrainedModel):
    """Take them away again."""
    for name in HEADS:
        delattr(model, name)


class GroundingTrainer(Trainer):
    """Adds to the language-model loss what two auxiliary heads read off patches and image features.

    Kind and colour are read apart: together they are 46 rare things. What is asked of the image features is that
    query i tells what stands in the i-th upright strip of the frame, and how far away: the language model then finds
    a bearing in the order of its tokens.

    Args:
        patch_loss: weight of what each patch shows, read off the vision tower's output.
        strip_loss: weight of what each strip shows, read off the projected features.
    """

    def __init__(self, *args, patch_loss: float, strip_loss: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.patch_loss = patch_loss
        self.strip_loss = strip_loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Language-model loss plus the weighted auxiliary losses."""
        patches, strips, distances = (inputs.pop(x) for x in ("patch_labels", "strip_labels", "strip_distances"))
        bare = self.accelerator.unwrap_model(model)
        vision = bare.model.vision_tower(pixel_values=inputs.pop("pixel_values")).last_hidden_state
        outputs = model(**inputs, vision_features=vision, num_items_in_batch=num_items_in_batch)
        # The first token is the class token.
        patch_loss, _ = recognition_loss(bare.patch_head(vision[:, 1:]), patches)
        strip_loss, rest = recognition_loss(bare.strip_head(outputs.image_features), strips)
        if (strips > 0).any():
            strip_loss = strip_loss + 0.5 * nn.functional.cross_entropy(rest[strips > 0], distances[strips > 0])
        loss = outputs.loss + self.patch_loss * patch_loss + self.strip_loss * strip_loss
        return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss


def recognition_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of the kind plus loss of the colour.

    Args:
        logits: ``[..., kinds + colours + more]``.
        labels: ``[...]``, indices of `LABELS`.

    Returns:
        the loss, and what stands in ``logits`` behind the colours.
    """
    tables = [torch.tensor(table, device=labels.device)[labels] for table in (LABEL_KINDS, LABEL_COLOURS)]
    kinds, colours, rest = logits.split(
        [max(LABEL_KINDS) + 1, max(LABEL_COLOURS) + 1, logits.shape[-1] - max(LABEL_KINDS) - max(LABEL_COLOURS) - 2],
        dim=-1,
    )
    return balanced_loss(kinds, tables[0]) + balanced_loss(colours, tables[1]), rest


def balanced_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy in which "nothing there" (label 0) counts half, however much of it there is.

    Args:
        logits: ``[..., C]``.
        labels: ``[...]``.
    """
    losses = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    there = labels.flatten() > 0
    return torch.stack([losses[mask].mean() for mask in (there, ~there) if mask.any()]).mean()


class AnswerAccuracy:
    """``compute_metrics`` of the Trainer: the share of answers that are right, all tokens, with teacher forcing.

    ``answers_seen`` and ``answers_not_seen`` are those whose right answer is a place, and "not in sight".
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, prediction) -> dict[str, float]:
        """Metrics of ``prediction.predictions`` and ``prediction.label_ids``, both ``[B, L]``."""
        right: dict[str, list[bool]] = defaultdict(list)
        for predicted, labels in zip(prediction.predictions, prediction.label_ids, strict=True):
            for start, end in label_runs(labels != IGNORE_INDEX):
                text = self.tokenizer.decode(labels[start:end], skip_special_tokens=True).strip()
                form = "described" if ";" in text else "not_seen" if text == NOT_SEEN else "seen"
                right[form].append(bool((predicted[start:end] == labels[start:end]).all()))
        return {f"answers_{form}": sum(values) / len(values) for form, values in sorted(right.items())}


class SaveByTheClock(TrainerCallback):
    """A checkpoint every few minutes: steps take longer on one machine than on another.

    Args:
        minutes: between two checkpoints.
    """

    def __init__(self, minutes: float):
        self.seconds = 60.0 * minutes
        self._last = time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self._last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Ask for a checkpoint when it is time."""
        if time.monotonic() - self._last >= self.seconds:
            control.should_save = True
            self._last = time.monotonic()


def write_card(model: PreTrainedModel, arguments: GroundingArguments, output_dir: str, houses: int, **run):
    """Write the base's ``README.md``.

    Args:
        model: what was trained.
        arguments: how it was grounded.
        output_dir: of the run.
        houses: that were rendered.
        run: ``minutes`` and ``steps``.
    """
    versions = package_versions()
    text = CARD.format(
        name=Path(output_dir).name,
        parameters=model.num_parameters() / 1e6,
        side=model.config.vision_config.image_size,
        described=DESCRIBED,
        things=len(KINDS),
        colours=len(COLOURS),
        directions=len(DIRECTION_NAMES),
        distances=len(DISTANCES),
        mark=GROUNDING_MARK,
        command=shlex.join(["accelerate", "launch", Path(sys.argv[0]).name, *sys.argv[1:]]),
        houses=houses,
        views=houses * arguments.views_per_house,
        levels=", ".join(arguments.levels),
        machine=machine(),
        versions=", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "panda3d")),
        **run,
    )
    write_text_atomic(Path(output_dir) / "README.md", text)
