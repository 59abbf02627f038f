"""Rates, the line on the console, and batches whose loss is not finite."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from pgn_vln.training import progress
from pgn_vln.training.arguments import VLNTrainingArguments
from pgn_vln.training.progress import Meter, OneLinePrinter, one_line
from pgn_vln.training.trainer import NavigationTrainer

LABELS = [[-100, 5, 6, -100, -100, 7], [-100, 5, -100, -100, -100, -100]]


def batch():
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    labels = torch.tensor(LABELS)
    return {"input_ids": labels.clamp_min(0), "attention_mask": mask, "labels": labels,
            "pixel_values": torch.zeros(5, 3, 2, 2)}  # fmt: skip


def test_rates_are_counts_over_the_time_that_was_spent_training(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    meter = Meter()
    clock[0] += 1000  # Before the first batch.
    with meter.away():
        clock[0] += 7
    for step in (4, 4, 5, 5):  # Two batches a step.
        meter.count(batch(), step)
    clock[0] += 3
    with meter.away():
        clock[0] += 50
    clock[0] += 1
    # Two processes that read alike: reducing doubles.
    rates = meter.read(lambda counts: 2 * counts, torch.device("cpu"), step=6, last_step=16)
    assert rates.pop("peak_memory_gb") > 0.05
    assert rates == {
        "actions_per_second": 2 * 4 * 3 / 4, "tokens_per_second": 2 * 4 * 9 / 4, "padding_share": 0.25,
        "frames_per_second": 2 * 4 * 5 / 4, "eta_seconds": 4 / 2 * 10,
    }  # fmt: skip
    assert meter.read(lambda counts: counts, torch.device("cpu"), 6, 16) == {}


def test_a_log_is_one_line(capsys):
    logs = {"loss": 0.31234, "grad_norm": 0.6612, "learning_rate": 3.9e-4, "padding_share": 0.124, "epoch": 0.5,
            "tokens_per_second": 5210.0, "eta_seconds": 3725.0, "eval_accuracy": 0.9, "note": "x"}  # fmt: skip
    line = (
        "step 12/40 \u00b7 loss 0.3123 \u00b7 grad 0.661 \u00b7 lr 3.90e-04 \u00b7 12% padding \u00b7 5,210 "
        "tokens/s \u00b7 1:02:05 left \u00b7 eval_accuracy 0.9 \u00b7 note x"
    )
    assert one_line(logs, 12, 40) == line
    assert one_line({"eta_seconds": 65}, 1, 2) == "step 1/2 \u00b7 1:05 left"
    assert one_line({"frames_per_second": 7.256}, 1, 2) == "step 1/2 \u00b7 7.26 frames/s"
    state = TrainerState(max_steps=40)
    state.global_step = 12
    OneLinePrinter().on_log(None, state, TrainerControl(), logs)
    assert capsys.readouterr().out == line + "\n"


class Toy(nn.Module):
    """Its loss is what the batch says, times a parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, labels, **inputs):
        loss = self.weight * inputs["pixel_values"].sum()
        return {"loss": loss, "logits": loss}


def toy_trainer(tmp_path, losses, **options):
    data = [{**{name: value for name, value in batch().items() if name != "pixel_values"}, "pixel_values": loss,
             "sample_ids": [f"house_{index}@0"]} for index, loss in enumerate(losses)]  # fmt: skip
    args = VLNTrainingArguments(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, max_steps=len(losses), per_device_train_batch_size=1,
        learning_rate=0.1, lr_scheduler_type="constant", optim="sgd", save_strategy="no", disable_tqdm=True,
        logging_steps=1, max_grad_norm=0.0, **options,
    )  # fmt: skip
    trainer = NavigationTrainer(
        model=Toy(), args=args, train_dataset=data, data_collator=lambda rows: dict(rows[0]), card={}
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)
    return trainer


def values(*numbers):
    return [torch.tensor([[number]]) for number in numbers]


def test_a_batch_whose_loss_is_not_finite_is_named_and_left_out(tmp_path, caplog):
    nan, infinite = float("nan"), float("inf")
    trainer = toy_trainer(tmp_path, values(1.0, nan, 2.0, infinite, nan, 3.0), max_nonfinite_batches=3)
    trainer.train()
    # Three steps of 0.1 times the loss's slope; the others moved nothing.
    assert trainer.model.weight.item() == pytest.approx(1 - 0.1 * (1 + 2 + 3))
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert [text.split("batch of ")[1].split(";")[0] for text in said] == ["house_1@0", "house_3@0", "house_4@0"]
    assert "the loss is nan" in said[0] and "the loss is inf" in said[1]


def test_training_ends_where_it_goes_on_like_that(tmp_path):
    trainer = toy_trainer(tmp_path, values(1.0, *[float("nan")] * 5), max_nonfinite_batches=3)
    with pytest.raises(
        ValueError, match=r"not finite in 3 batches in a row, the last one of house_3@0; lower the lear"
    ):
        trainer.train()
    assert trainer.state.global_step == 3 and SimpleNamespace(**vars(trainer.args)).max_nonfinite_batches == 3
