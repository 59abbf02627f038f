"""Grouping by length: every sample once, neighbours of like length, another order each epoch."""

import itertools
import random

from pgn_vln.training.sampler import LengthGroupedEpochs


def test_batches_hold_windows_of_like_length():
    draw = random.Random(0)
    lengths = [draw.randint(1, 40) for _ in range(1003)]
    sampler = LengthGroupedEpochs(lengths, 8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(1003)) and len(sampler) == 1003
    batches = [[lengths[index] for index in first[start : start + 8]] for start in range(0, 1003, 8)]
    waste = sum(8 * max(batch) - sum(batch) for batch in batches) / sum(lengths)
    plain = [lengths[start : start + 8] for start in range(0, 1003, 8)]
    assert waste < 0.05 < 0.5 < sum(8 * max(batch) - sum(batch) for batch in plain) / sum(lengths)
    # Long and short batches take turns, instead of going from long to short.
    means = [sum(batch) / len(batch) for batch in batches[:-1]]
    ups = sum(after > before for before, after in itertools.pairwise(means)) / len(means)
    assert 0.4 < ups < 0.6
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(second) == sorted(first) and second != first
    resumed = LengthGroupedEpochs(lengths, 8, seed=1)
    resumed.set_epoch(1)
    assert list(resumed) == second
    assert list(LengthGroupedEpochs(lengths, 8, seed=2)) != first
