"""Grouping by length: every sample once, neighbours of like length, another order each epoch."""

import random

from pgn_vln.training.sampler import LengthGroupedEpochs


def test_batches_hold_windows_of_like_length():
    draw = random.Random(0)
    lengths = [draw.randint(1, 40) for _ in range(1000)]
    sampler = LengthGroupedEpochs(lengths, 8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(1000)) and len(sampler) == 1000
    batches = [[lengths[index] for index in first[start : start + 8]] for start in range(0, 1000, 8)]
    waste = sum(8 * max(batch) - sum(batch) for batch in batches) / sum(lengths)
    plain = [lengths[start : start + 8] for start in range(0, 1000, 8)]
    assert waste < 0.05 < 0.5 < sum(8 * max(batch) - sum(batch) for batch in plain) / sum(lengths)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == sorted(first) and second != first
    resumed = LengthGroupedEpochs(lengths, 8, seed=1)
    resumed.set_epoch(1)
    assert list(resumed) == second
    assert list(LengthGroupedEpochs(lengths, 8, seed=2)) != first
