"""What a run directory says about its run: arguments, versions, metrics, a model card."""

import dataclasses
import json
import math
import time
from pathlib import Path

import datasets
import yaml
from transformers import Trainer, TrainerCallback

from pgn_vln.data.transform import EpochCallback
from pgn_vln.io import strict_json, write_json_atomic, write_text_atomic
from pgn_vln.training.sampler import LengthGroupedEpochs
from pgn_vln.versions import package_versions

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [vision-language-navigation, pgn]
---
# {name}

A PGN that follows instructions: it sees frames and answers with move forward, turn left or right, or stop.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained("{name}", trust_remote_code=True)
navigator = model.navigator(AutoProcessor.from_pretrained("{name}", trust_remote_code=True))
navigator.reset("walk to the red chair")
action = navigator.act(frame)  # a PIL image, or uint8 [height, width, 3]
```

Trained from `{base}` on `{data}` ({windows} windows), {steps} steps; the arguments are in `recipe.yaml`.
Navigation settings: {navigation}. Last validation: {metrics}.
"""
# Values that a recipe can hold.
_PLAIN = str | int | float | bool | list | dict | None


def write_run(output_dir: str, *argument_groups):
    """Write ``recipe.yaml`` (the arguments as run, only what differs from the defaults) and ``versions.json``."""
    merged = {}
    for group in argument_groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            default = field.default_factory() if callable(field.default_factory) else field.default
            # The folder may be pushed to a Hub.
            secret = field.name.endswith("_token")
            if field.init and not secret and value != default and isinstance(value, _PLAIN):
                merged[field.name] = value
    # Enum values of the Trainer (schedulers, strategies) are strings that yaml would tag.
    plain = json.loads(json.dumps(merged))
    write_text_atomic(Path(output_dir) / "recipe.yaml", yaml.safe_dump(plain, sort_keys=True))
    write_json_atomic(Path(output_dir) / "versions.json", package_versions())


class MetricsFile(TrainerCallback):
    """Append everything the Trainer logs to ``metrics.jsonl``, one JSON object a line; NaN and infinity are null.

    ``seconds`` is the time spent on the run, without what was lost or waited between an interruption and its resume.
    """

    def __init__(self):
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Time spent on this run so far."""
        return time.monotonic() - self._began

    def on_train_begin(self, args, state, control, **kwargs):
        """After a resume, drop what the interrupted run logged behind its last checkpoint."""
        self._began = time.monotonic()
        path = Path(args.output_dir) / "metrics.jsonl"
        if state.is_world_process_zero and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if json.loads(x)["step"] <= state.global_step]
            write_text_atomic(path, "".join(kept))
            self._began -= max((json.loads(x)["seconds"] for x in kept), default=0.0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by the Trainer with each log; only the first process writes."""
        if state.is_world_process_zero and logs:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in logs.items()}
            with (Path(args.output_dir) / "metrics.jsonl").open("a", encoding="utf-8") as file:
                line = {"step": state.global_step, "seconds": round(self.seconds(), 1), **finite}
                file.write(strict_json(line) + "\n")


class NavigationTrainer(Trainer):
    """The Trainer, with our model card in place of its own.

    Args:
        card: what the card says of the run: ``base``, ``data``, ``windows``, ``navigation``.
    """

    def __init__(self, *args, card: dict, **kwargs):
        self.card = card
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        """Group windows by length where ``train_sampling_strategy`` asks for it, without reading their frames.

        Raises:
            ValueError: windows that are drawn anew each epoch cannot be grouped.
        """
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        windows = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(windows, datasets.Dataset):
            raise ValueError(
                "train_sampling_strategy='group_by_length' needs windows whose lengths are known; with "
                "windows='random' choose 'random' here too"
            )
        # Through the table's transform every frame would be decoded for its length.
        lengths = windows.with_format(None)[self.args.length_column_name]
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        sampler = LengthGroupedEpochs(lengths, per_step, self.args.seed)
        self.add_callback(EpochCallback(sampler))
        return sampler

    def create_model_card(self, **kwargs):
        """Write ``README.md``; the Trainer calls this before it pushes."""
        if not self.is_world_process_zero():
            return
        validation = [entry for entry in self.state.log_history if "eval_loss" in entry]
        shown = {k: round(v, 4) for k, v in validation[-1].items() if k.startswith("eval_a")} if validation else "none"
        name = self.hub_model_id if self.args.push_to_hub else self.args.output_dir
        text = CARD.format(name=name, steps=self.state.global_step, metrics=shown, **self.card)
        write_text_atomic(Path(self.args.output_dir) / "README.md", text)
