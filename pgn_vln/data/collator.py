"""Windows to a batch: prompts are written, frames are processed, and nothing is padded with frames."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from modeling_pgn.prompting_pgn import IGNORE_INDEX, NavigationPrompt

logger = logging.getLogger(__name__)


@dataclass
class NavigationCollator:
    """Collate decoded windows (``frames``, ``instruction``, ``actions``, ``expert_actions``).

    Text is padded on the right, to the longest sample. Frames are concatenated: a shorter window adds fewer of them,
    never black ones.

    Args:
        processor: a `PGNProcessor`.
        prompt: the prompt of the layout that is trained.
        max_length: tokens of a sample; a longer one loses its oldest steps, which is said once.
    """

    processor: Any
    prompt: NavigationPrompt
    max_length: int | None = None
    _warned: bool = field(default=False, init=False)

    def __call__(self, windows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch: ``input_ids``, ``attention_mask``, ``labels`` ``[B, L]`` and ``pixel_values [F, 3, H, W]``.

        ``sample_ids`` are no input of the model: they name the windows where something is wrong with their batch.
        """
        encoded, frames = [], []
        for window in windows:
            sample = self.prompt.encode(
                window["instruction"], window["actions"], window["expert_actions"], self.max_length
            )
            if sample.first_step and not self._warned:
                self._warned = True
                logger.warning(
                    "windows are longer than max_length=%s: the oldest %d of %d steps of one are left out; raise "
                    "max_length or lower history_frames to train them",
                    self.max_length,
                    sample.first_step,
                    len(window["frames"]),
                )
            encoded.append(sample)
            frames += window["frames"][sample.first_step :]
        ids = [torch.tensor(sample.input_ids) for sample in encoded]
        labels = [torch.tensor(sample.labels) for sample in encoded]
        ones = [torch.ones_like(row) for row in ids]
        pad = torch.nn.utils.rnn.pad_sequence
        pad_id = self.processor.tokenizer.pad_token_id
        return {
            # Without a pad token any id serves: these positions are masked.
            "input_ids": pad(ids, batch_first=True, padding_value=0 if pad_id is None else pad_id),
            "attention_mask": pad(ones, batch_first=True, padding_value=0),
            "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX),
            "pixel_values": self.processor.image_processor(frames, return_tensors="pt")["pixel_values"],
            "sample_ids": [f"{window['episode_id']}@{window['start']}" for window in windows],
        }
