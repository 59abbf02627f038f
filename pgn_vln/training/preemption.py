"""SIGTERM, as a scheduler sends it before it takes a machine away: save, and end."""

import logging
import signal

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class SaveOnSigterm(TrainerCallback):
    """After the step in which any process got SIGTERM, all of them save a checkpoint and stop training.

    `stopped` then says so. The signal is asked for between steps only: a step is never cut.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._before = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Listen."""
        self._before = signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number, frame):
        self._asked = True

    def on_step_end(self, args, state, control, **kwargs):
        """Save and stop where it is asked for, in all processes after the same step."""
        asked = torch.tensor(float(self._asked), device=args.device)
        if PartialState().num_processes > 1:
            asked = reduce(asked, "sum")
        if asked.item():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        """Give the signal back."""
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
        if self.stopped:
            logger.info(
                "SIGTERM: stopped after step %d with a checkpoint; --resume_from_checkpoint last goes on from there",
                state.global_step,
            )
