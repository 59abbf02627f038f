import itertools
import math

import numpy as np
import pytest

from pgn_vln.evaluation import metrics

# An L-shaped walk, 1 m a step: two steps east, one north. The reference goes straight east, 3 m.
WALK = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0]]
STRAIGHT = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]


def dtw_over_all_alignments(path, reference):
    """Cheapest of all monotone alignments, written out one by one: exponential, and independent of any table."""
    n, m = len(path), len(reference)
    best = math.inf

    def extend(i, j, total):
        nonlocal best
        total += math.dist(path[i], reference[j])
        if (i, j) == (n - 1, m - 1):
            best = min(best, total)
            return
        for di, dj in ((1, 0), (0, 1), (1, 1)):
            if i + di < n and j + dj < m:
                extend(i + di, j + dj, total)

    extend(0, 0, 0.0)
    return best


@pytest.mark.parametrize("n, m, dimensions", list(itertools.product([1, 2, 5, 6], [1, 3, 6], [2, 3])))
def test_dtw_equals_the_cheapest_of_all_alignments(n, m, dimensions):
    generator = np.random.default_rng(100 * n + 10 * m + dimensions)
    path, reference = generator.normal(size=(n, dimensions)), generator.normal(size=(m, dimensions))
    assert metrics.dtw(path, reference) == pytest.approx(dtw_over_all_alignments(path.tolist(), reference.tolist()))


def test_ndtw_by_hand():
    # Points 0..2 match exactly; the last of the walk, (2, 1), meets (3, 0): DTW = sqrt(2). Any other way adds 1.
    # nDTW = exp(-sqrt(2) / (4 points * 1 m)).
    assert metrics.dtw(WALK, STRAIGHT) == pytest.approx(math.sqrt(2))
    assert metrics.ndtw(WALK, STRAIGHT, 1.0) == pytest.approx(0.702189, abs=1e-6)
    assert metrics.ndtw(WALK, STRAIGHT, 3.0) == pytest.approx(math.exp(-math.sqrt(2) / 12))
    assert metrics.ndtw(STRAIGHT, STRAIGHT, 1.0) == 1.0


def test_ndtw_skips_consecutive_duplicates_only():
    turning = [WALK[0], WALK[0], WALK[1], WALK[1], WALK[1], WALK[2], WALK[3], WALK[3]]
    waiting_reference = [STRAIGHT[0], STRAIGHT[0], *STRAIGHT[1:]]
    assert metrics.ndtw(turning, STRAIGHT, 1.0) == metrics.ndtw(WALK, STRAIGHT, 1.0)
    assert metrics.ndtw(WALK, waiting_reference, 1.0) == metrics.ndtw(WALK, STRAIGHT, 1.0)
    there_and_back = [[0, 0], [1, 0], [0, 0]]
    assert len(metrics.skip_duplicates(there_and_back)) == 3
    # (0,0)-(0,0), (1,0)-(1,0), (0,0)-(1,0): 1 m over 2 reference points.
    assert metrics.ndtw(there_and_back, [[0, 0], [1, 0]], 1.0) == pytest.approx(math.exp(-0.5))


def test_path_length_by_hand():
    assert metrics.path_length(WALK) == pytest.approx(3.0)
    assert metrics.path_length([[0, 0, 0], [1, 2, 2]]) == pytest.approx(3.0)  # sqrt(1 + 4 + 4)
    assert metrics.path_length([[5.0, 5.0]]) == 0.0
    assert metrics.path_length([]) == 0.0


@pytest.mark.parametrize(
    "stopped, error, expected",
    [
        (True, 0.99, 1.0),
        (True, 1.0, 0.0),  # strictly below
        (False, 0.1, 0.0),  # ran out of steps
        (True, math.inf, 0.0),
        (True, math.nan, 0.0),
    ],
)
def test_success(stopped, error, expected):
    assert metrics.success(stopped, error, 1.0) == expected


def test_oracle_success_counts_the_start_and_needs_no_stop():
    assert metrics.oracle_success([0.5, 2.0, 3.0], 1.0) == 1.0
    assert metrics.oracle_success([3.0, 0.9, 3.0], 1.0) == 1.0
    assert metrics.oracle_success([3.0, 1.0, 3.0], 1.0) == 0.0
    assert metrics.oracle_success([math.inf, math.inf], 1.0) == 0.0
    assert metrics.oracle_success([math.nan, 0.5], 1.0) == 1.0


@pytest.mark.parametrize(
    "reached, shortest, length, expected",
    [
        (1.0, 6.0, 8.0, 0.75),
        (1.0, 6.0, 5.0, 1.0),  # shorter than the geodesic (the radius spares the last metre): no more than 1
        (0.0, 6.0, 8.0, 0.0),
        (1.0, 0.0, 0.0, 1.0),
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 2.0, 0.0),  # the formula: 0 / 2
        (0.0, math.inf, 2.0, 0.0),
    ],
)
def test_spl(reached, shortest, length, expected):
    assert metrics.spl(reached, shortest, length) == pytest.approx(expected)


def test_spl_of_a_success_over_an_unknown_distance_is_undefined():
    assert math.isnan(metrics.spl(1.0, math.inf, 2.0))
    assert math.isnan(metrics.spl(1.0, math.nan, 2.0))


def test_sdtw():
    assert metrics.sdtw(1.0, 0.7) == pytest.approx(0.7)
    assert metrics.sdtw(0.0, 0.7) == 0.0
    assert metrics.sdtw(0.0, math.nan) == 0.0


def test_cls_by_hand():
    # Nearest walk point of each reference point: 0, 0, 0 and (3,0)-(2,0) = 1 m. PC = (3 + e^-1) / 4 = 0.841970.
    # E = 0.841970 * 3 m = 2.525910; |E - 3| = 0.474090; LS = 2.525910 / 3.0 = 0.841970; CLS = PC * LS = 0.708913.
    assert metrics.path_coverage(WALK, STRAIGHT, 1.0) == pytest.approx(0.841970, abs=1e-6)
    assert metrics.cls(WALK, STRAIGHT, 1.0) == pytest.approx(0.708913, abs=1e-6)
    assert metrics.cls(STRAIGHT, STRAIGHT, 1.0) == pytest.approx(1.0)


def test_cls_punishes_a_detour_that_covers_the_reference():
    # Covers all of the reference (PC = 1), but walks 9 m instead of 3: LS = 3 / (3 + 6) = 1/3.
    assert metrics.cls([*STRAIGHT, *STRAIGHT[::-1], *STRAIGHT], STRAIGHT, 1.0) == pytest.approx(1 / 3)


def test_paths_of_no_length():
    here = [[1.0, 1.0]]
    assert metrics.ndtw(here, here, 1.0) == 1.0
    assert metrics.cls(here, here, 1.0) == 0.0  # 0/0
    assert metrics.cls(WALK, [[0.0, 0.0]], 1.0) == 0.0  # E = 0
    values = metrics.episode_metrics(here, [0.0], True, here, 0.0, 1.0)
    assert (values["sr_1m"], values["spl_1m"], values["tl_m"], values["steps"]) == (1.0, 1.0, 0.0, 0.0)
    # Standing still 3 m short of the goal: DTW to the four reference points is 0 + 1 + 2 + 3.
    assert metrics.ndtw([[0.0, 0.0]], STRAIGHT, 1.0) == pytest.approx(math.exp(-6 / 4))


def test_episode_metrics_of_two_radii():
    values = metrics.episode_metrics(WALK, [3.0, 2.0, 1.0, 1.4], True, STRAIGHT, 3.0, [1.0, 3.0])
    assert values["ne_m"] == 1.4 and values["steps"] == 3 and values["stop_rate"] == 1.0
    assert (values["sr_1m"], values["osr_1m"], values["spl_1m"], values["sdtw_1m"]) == (0.0, 0.0, 0.0, 0.0)
    assert (values["sr_3m"], values["osr_3m"], values["spl_3m"]) == (1.0, 1.0, 1.0)
    assert values["sdtw_3m"] == values["ndtw_3m"] == pytest.approx(math.exp(-math.sqrt(2) / 12))


def test_unreachable_goal():
    values = metrics.episode_metrics(WALK, [math.inf] * 4, True, [], math.inf, 1.0)
    assert math.isinf(values["ne_m"]) and math.isnan(values["ndtw_1m"]) and math.isnan(values["cls_1m"])
    assert [values[key] for key in ("sr_1m", "osr_1m", "spl_1m", "sdtw_1m")] == [0.0] * 4
    assert values["tl_m"] == pytest.approx(3.0)


def test_non_finite_position_is_visible():
    broken = [[0.0, 0.0], [math.nan, 0.0]]
    values = metrics.episode_metrics(broken, [1.0, 0.5], True, STRAIGHT, 1.0, 1.0)
    assert all(math.isnan(values[key]) for key in ("tl_m", "spl_1m", "ndtw_1m", "sdtw_1m", "cls_1m"))


@pytest.mark.parametrize("radius, suffix", [(1.0, "1m"), (3, "3m"), (0.5, "0.5m"), (0.25, "0.25m")])
def test_radius_suffix(radius, suffix):
    assert metrics.radius_suffix(radius) == suffix


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.success(True, 0.5, 0.0), "radius_m is 0.0"),
        (lambda: metrics.ndtw(WALK, STRAIGHT, math.nan), "radius_m is nan"),
        (lambda: metrics.path_length([1.0, 2.0]), r"positions has shape \(2,\)"),
        (lambda: metrics.dtw(WALK, [[0, 0, 0]]), "path has 2 coordinates a point and reference 3"),
        (lambda: metrics.navigation_error([]), "goal_distances_m has shape"),
        (lambda: metrics.spl(1.0, -1.0, 2.0), "shortest_m is -1.0"),
        (lambda: metrics.episode_metrics(WALK, [1.0], True, STRAIGHT, 3.0), "4 points and goal_distances_m 1 values"),
        (lambda: metrics.aggregate([]), "no episodes"),
        (lambda: metrics.aggregate([{"sr_1m": 1.0}, {"sr_3m": 1.0}]), "number 1 differs from the first"),
        (lambda: metrics.wilson_interval(3, 2), "3 successes of 2 trials"),
    ],
)
def test_errors_say_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wilson_interval_of_published_values():
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3: 81/263, 15/148,
    # 0/20 and 1/29.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert metrics.wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_aggregate_counts_what_it_leaves_out():
    good = metrics.episode_metrics(WALK, [3.0, 2.0, 1.0, 0.5], True, STRAIGHT, 3.0, 1.0)
    far = metrics.episode_metrics(WALK, [3.0, 2.0, 1.0, 1.5], True, STRAIGHT, 3.0, 1.0)
    unreachable = metrics.episode_metrics(WALK, [math.inf] * 4, False, [], math.inf, 1.0)
    unknown = metrics.episode_metrics(WALK, [math.nan] * 4, False, STRAIGHT, 3.0, 1.0)
    result = metrics.aggregate([good, far, unreachable, unknown])
    assert (result["episodes"], result["unreachable"], result["undefined"]) == (4, 1, 2)
    assert result["sr_1m"] == 0.25  # one of all four
    assert result["ne_m"] == pytest.approx(1.0)  # (0.5 + 1.5) / 2
    assert result["left_out"] == {"ne_m": 2, "shortest_m": 1, "ndtw_1m": 1, "cls_1m": 1}
    assert result["stop_rate"] == 0.5
    assert result["intervals"]["sr_1m"] == pytest.approx(metrics.wilson_interval(1, 4))
    # NE 0.5 and 1.5: s = 0.7071, s / sqrt(2) = 0.5, so 1 ± 1.96 * 0.5, cut at 0.
    assert result["intervals"]["ne_m"] == pytest.approx([0.02, 1.98], abs=1e-3)


def test_aggregate_without_a_finite_value_reports_none():
    episode = metrics.episode_metrics(WALK, [math.inf] * 4, True, [], math.inf, 1.0)
    result = metrics.aggregate([episode, episode])
    assert result["ne_m"] is None and result["intervals"]["ne_m"] is None
    assert result["sr_1m"] == 0.0 and result["left_out"]["ne_m"] == 2


def test_mean_interval_claims_no_certainty_from_equal_values():
    assert metrics.mean_interval([0.0] * 12) is None and metrics.mean_interval([0.4]) is None
    # s of 0, 0, 0, 1 is 0.5, so 0.25 ± 1.96 * 0.25.
    assert metrics.mean_interval([0, 0, 0, 1]) == pytest.approx((-0.24, 0.74), abs=1e-3)
