"""What a run directory says about its run: arguments, versions, metrics, a model card."""

import dataclasses
import json
from pathlib import Path

import yaml
from transformers import TrainerCallback

from pgn_vln.io import write_json_atomic, write_text_atomic
from pgn_vln.versions import package_versions


def write_run(output_dir: str, *argument_groups):
    """Write ``recipe.yaml`` (the arguments as run, only what differs from the defaults) and ``versions.json``."""
    merged = {}
    for group in argument_groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            default = field.default_factory() if callable(field.default_factory) else field.default
            if field.init and value != default and isinstance(value, str | int | float | bool | list):
                merged[field.name] = value
    # Enum values of the Trainer (schedulers, strategies) are strings that yaml would tag.
    plain = json.loads(json.dumps(merged))
    write_text_atomic(Path(output_dir) / "recipe.yaml", yaml.safe_dump(plain, sort_keys=True))
    write_json_atomic(Path(output_dir) / "versions.json", package_versions())


class MetricsFile(TrainerCallback):
    """Append everything the Trainer logs to ``metrics.jsonl``, one JSON object a line."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called by the Trainer with each log; only the first process writes."""
        if state.is_world_process_zero and logs:
            with (Path(args.output_dir) / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


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


def write_card(output_dir: str, **values):
    """Write the model card ``README.md`` of a run; ``values`` fill `CARD`."""
    write_text_atomic(Path(output_dir) / "README.md", CARD.format(name=Path(output_dir).name, **values))
