"""What a training says while it runs: rates, padding, memory, time left; one line on the console for each log."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers import PrinterCallback, ProgressCallback

from modeling_pgn.prompting_pgn import IGNORE_INDEX


class Meter:
    """Counts what has been trained on since it was last read, on the device, so that counting never waits for it."""

    # Answers, tokens without padding, tokens with it, frames.
    _COUNTS = 4

    def __init__(self) -> None:
        self._counts: torch.Tensor | None = None
        self._first_step = 0
        # What comes before the first batch, such as skipping data after a resume, is no training.
        self._began: float | None = None
        self._away = 0.0

    def count(self, batch: Mapping[str, torch.Tensor], step: int) -> None:
        """Add a batch of `NavigationCollator`, read when so many optimizer steps were done."""
        supervised_BL = batch["labels"] != IGNORE_INDEX
        # An answer begins where supervision does.
        begins_BL = supervised_BL[:, 1:] & ~supervised_BL[:, :-1]
        tokens = torch.full_like(batch["attention_mask"].sum(), batch["input_ids"].numel())
        frames = torch.full_like(tokens, len(batch["pixel_values"]))
        # No double precision: collectives of some accelerators have none.
        counts = torch.stack([begins_BL.sum(), batch["attention_mask"].sum(), tokens, frames]).float()
        if self._began is None:
            self._began, self._away = time.monotonic(), 0.0
        if self._counts is None:
            self._first_step = step
            self._counts = torch.zeros_like(counts)
        self._counts += counts

    @contextmanager
    def away(self) -> Iterator[None]:
        """Time in this block is not training: evaluation, checkpoints."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._away += time.monotonic() - began

    def read(self, add_up, device: torch.device, step: int, last_step: int) -> dict[str, float]:
        """Rates over all processes since the last reading, which every process has to call together.

        Args:
            add_up: sums a tensor over the processes.
            device: where nothing has been counted yet.
            step: optimizer steps that are done.
            last_step: and how many there will be.

        Returns:
            ``actions_per_second`` (supervised answers), ``tokens_per_second`` (padding left out), ``padding_share``,
            ``frames_per_second``, ``peak_memory_gb`` (of this process), ``eta_seconds``; empty if nothing was counted.
        """
        counts = torch.zeros(self._COUNTS, device=device) if self._counts is None else self._counts
        answers, tokens, with_padding, frames = add_up(counts).tolist()
        now, steps = time.monotonic(), step - self._first_step
        seconds = now - (now if self._began is None else self._began) - self._away
        self._counts, self._began, self._away = None, now, 0.0
        if not with_padding or steps < 1:
            return {}
        return {
            "actions_per_second": answers / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_share": 1 - tokens / with_padding,
            "frames_per_second": frames / seconds,
            "peak_memory_gb": peak_memory_gb(),
            "eta_seconds": seconds / steps * (last_step - step),
        }


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, on its accelerator or else on the CPU, in 10⁹ bytes."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def one_line(logs: Mapping[str, float], step: int, max_steps: int) -> str:
    """A log as a person reads it."""
    known = {
        "loss": lambda value: f"loss {value:.4g}",
        "learning_rate": lambda value: f"lr {value:.2e}",
        "grad_norm": lambda value: f"grad {value:.3g}",
        "actions_per_second": lambda value: f"{_rate(value)} actions/s",
        "tokens_per_second": lambda value: f"{_rate(value)} tokens/s",
        "padding_share": lambda value: f"{value:.0%} padding",
        "frames_per_second": lambda value: f"{_rate(value)} frames/s",
        "peak_memory_gb": lambda value: f"{value:.2f} GB",
        "eta_seconds": lambda value: f"{_clock(value)} left",
    }
    parts = [f"step {step}/{max_steps}"]
    for name, value in logs.items():
        if name in known:
            parts.append(known[name](float(value)))
        elif name not in ("epoch", "total_flos"):
            parts.append(f"{name} {float(value):.4g}" if isinstance(value, int | float) else f"{name} {value}")
    return " · ".join(parts)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class OneLineProgress(ProgressCallback):
    """The Trainer's progress bar, with logs as `one_line` writes them."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write a line above the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            self.training_bar.write(one_line(logs, state.global_step, state.max_steps))


class OneLinePrinter(PrinterCallback):
    """The same without a bar, for ``disable_tqdm``."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print a line."""
        if state.is_world_process_zero and logs:
            sys.stdout.write(one_line(logs, state.global_step, state.max_steps) + "\n")
            sys.stdout.flush()
