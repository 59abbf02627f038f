"""What a run directory says about its run: arguments, versions, metrics."""

import dataclasses
import json
import math
import time
from pathlib import Path

import yaml
from transformers import TrainerCallback

from pgn_vln.io import strict_json, write_json_atomic, write_text_atomic
from pgn_vln.versions import package_versions

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
