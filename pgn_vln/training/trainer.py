"""The Trainer of navigation: grouping by length, a log that says what it reads, a model card."""

import logging
from functools import partial
from pathlib import Path

import datasets
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer

from pgn_vln.data.transform import EpochCallback
from pgn_vln.io import write_text_atomic
from pgn_vln.training.progress import Meter, OneLinePrinter, OneLineProgress
from pgn_vln.training.sampler import LengthGroupedEpochs

logger = logging.getLogger(__name__)
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


class NavigationTrainer(Trainer):
    """The Trainer, with our model card and our log, and a loss that is not finite said to be so.

    Args:
        card: what the card says of the run: ``base``, ``data``, ``windows``, ``navigation``.
    """

    def __init__(self, *args, card: dict, **kwargs):
        super().__init__(*args, **kwargs)
        self.card = card
        self._meter = Meter()
        self._not_finite = 0
        quiet, shown = (PrinterCallback, OneLinePrinter), (ProgressCallback, OneLineProgress)
        theirs, ours = quiet if self.args.disable_tqdm else shown
        self.remove_callback(theirs)
        self.add_callback(ours)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss; where it is not finite in training, its samples are named and it counts nothing.

        Raises:
            ValueError: that has happened ``max_nonfinite_batches`` times in a row.
        """
        samples = inputs.pop("sample_ids", [])
        if model.training:
            self._meter.count(inputs, self.state.global_step)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and not torch.isfinite(loss):
            self._refuse(loss.item(), samples)
            # No gradient; the parameters stay in the graph, since other processes wait for them.
            loss = sum((parameter * 0).sum() for parameter in model.parameters() if parameter.requires_grad)
        elif model.training:
            self._not_finite = 0
        return (loss, outputs) if return_outputs else loss

    def _refuse(self, loss: float, samples: list[str]) -> None:
        self._not_finite += 1
        logger.warning(
            "step %d: the loss is %s in the batch of %s; it is left out",
            self.state.global_step,
            loss,
            ", ".join(samples),
        )
        if self._not_finite >= self.args.max_nonfinite_batches:
            raise ValueError(
                f"the loss was not finite in {self._not_finite} batches in a row, the last one of "
                f"{', '.join(samples)}; lower the learning rate, train in bf16 or fp32 instead of fp16, or look at "
                "these episodes (max_nonfinite_batches allows more)"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add rates, memory and the time left to what is logged while training."""
        if "loss" in logs and "grad_norm" in logs:
            add_up = partial(self.accelerator.reduce, reduction="sum")
            step, last = self.state.global_step, self.state.max_steps
            logs |= self._meter.read(add_up, self.args.device, step, last)
        super().log(logs, start_time)

    def evaluate(self, *args, **kwargs):
        """Evaluate; its time is none of the training's."""
        with self._meter.away():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs):
        with self._meter.away():
            return super()._save_checkpoint(*args, **kwargs)

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
