"""Batches of windows of like length, drawn anew each epoch, the same after a resume."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroupedEpochs(Sampler[int]):
    """The Trainer's grouping by length, but for two things.

    Its own draws from the global generator, so that a resumed epoch has other batches than the one that was
    interrupted. And it goes from long to short again and again: short windows are the ends of episodes, so that stop
    comes in bursts, and is not learned. Here the batches are shuffled.

    Args:
        lengths: of every sample.
        batch_size: samples of an optimizer step; fifty times as many, drawn at random, are sorted by length.
        seed: with the epoch it decides the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        # An incomplete batch stays the last one.
        whole = len(order) // self.batch_size
        for index in [*torch.randperm(whole, generator=generator).tolist(), *range(whole, len(batches))]:
            yield from batches[index]
