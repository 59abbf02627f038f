"""Decoding a window's frames, and nothing else, at the moment a sample is asked for.

The table holds paths, no pixels. Navigation frames are never flipped or cropped: left and right would swap.
"""

import hashlib
import random
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modeling_pgn.prompting_pgn import Action
from pgn_vln.data.episodes import load_frame
from pgn_vln.data.windows import PromptLayout, check_window_settings, random_window


class Transforms:
    """Several transforms, one after the other (a class, so that it can be pickled).

    Args:
        transforms: each takes and gives a batch of rows.
    """

    def __init__(self, *transforms) -> None:
        self.transforms = transforms

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The batch after the last of them."""
        for transform in self.transforms:
            batch = transform(batch)
        return batch


class DecodeFrames:
    """Replace the paths of a batch of rows by RGB pictures; for `datasets.Dataset.with_transform`.

    Args:
        image_root: folder that the paths are relative to.
    """

    def __init__(self, image_root: str | Path) -> None:
        self.image_root = Path(image_root)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Decode ``frames``, lists of paths, to lists of RGB `PIL.Image`.

        Raises:
            FrameError: naming the file that is missing or cut short.
        """
        return {
            **batch,
            "frames": [[load_frame(self.image_root / path) for path in paths] for paths in batch["frames"]],
        }


class NoisyHistory:
    """Tell a window's past differently from how it was: some actions taken are replaced by random ones.

    Most actions equal the one before, so a model that can read its past copies it instead of looking. Frames and
    labels stay, and so does the stop that ends an episode. A window's noise is always the same, in any process and
    order.

    Args:
        share: of the steps whose action is drawn anew, from 0 to below 1.
        seed: another seed, other noise.
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        if not 0.0 <= share < 1.0:
            raise ValueError(f"history_noise {share} is out of range; expected a share from 0 to below 1, e.g. 0.5")
        self.share = share
        self.seed = seed

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Replace ``actions`` of a batch of windows."""
        if not self.share:
            return batch
        keys = zip(batch["episode_id"], batch["instruction"], batch["start"], batch["actions"], strict=True)
        return {**batch, "actions": [self._draw(*key) for key in keys]}

    def _draw(self, episode_id: str, instruction: str, start: int, actions: list[int]) -> list[int]:
        digest = hashlib.sha256(f"{self.seed}/{episode_id}/{start}/{instruction}".encode()).digest()
        rng = random.Random(int.from_bytes(digest[:8], "big"))
        moves = [action for action in Action if action is not Action.STOP]
        drawn = [int(rng.choice(moves)) if rng.random() < self.share else action for action in actions]
        return [action if action == Action.STOP else new for action, new in zip(actions, drawn, strict=True)]


class EpochWindows(torch.utils.data.Dataset):
    """One random window of every episode, another one each epoch, and the same on every process.

    Call `set_epoch` before each epoch; under the Trainer, `EpochCallback` does.

    Args:
        episodes: rows of the builder's configuration ``episodes``.
        image_root: folder that the frames' paths are relative to.
        layout: prompt layout.
        history_frames: see `pgn_vln.data.windows.random_window`.
        seed: with epoch and episode id, it decides the window, and the instruction where an episode has several.
        history_noise: see `NoisyHistory`.
    """

    def __init__(
        self,
        episodes: datasets.Dataset,
        image_root: str | Path,
        layout: PromptLayout,
        history_frames: int | None,
        seed: int = 0,
        history_noise: float = 0.0,
    ) -> None:
        check_window_settings(layout, history_frames)
        self.episodes = episodes
        self.transform = Transforms(NoisyHistory(history_noise, seed), DecodeFrames(image_root))
        self.layout = layout
        self.history_frames = history_frames
        self.seed = seed
        # In shared memory, so that persistent loader workers, forked in the first epoch, see the later ones too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that windows are drawn for."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.episodes)

    def row(self, index: int) -> dict[str, Any]:
        """The drawn window with the schema of the configuration ``windows``: paths, not pictures."""
        episode = self.episodes[index]
        drawn = {"seed": self.seed, "epoch": int(self._epoch), "episode_id": episode["episode_id"]}
        start, end = random_window(len(episode["actions"]), self.layout, self.history_frames, **drawn)
        texts = episode["instructions"]
        # Through the epochs every instruction has its turn.
        text = texts[(int(self._epoch) + self.seed) % len(texts)]
        return {
            "episode_id": episode["episode_id"],
            "instruction": text,
            "start": start,
            "length": end - start,
            **{key: episode[key][start:end] for key in ("frames", "actions", "expert_actions")},
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row(index)
        batch = self.transform({key: [value] for key, value in row.items()})
        return {key: values[0] for key, values in batch.items()}


class EpochCallback(TrainerCallback):
    """Tell what draws anew each epoch, an `EpochWindows` or a sampler, which epoch begins.

    The Trainer leaves that to accelerate, whose loader passes it on in one process, but not in several: there its
    seeded sampler is told in place of the data set, and every epoch would draw the windows of the first.
    """

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the epoch on; within an epoch, after a resume, it is a fraction."""
        self.drawn.set_epoch(int((state.epoch or 0.0) + 1e-6))
