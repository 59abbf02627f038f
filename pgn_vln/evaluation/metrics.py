"""The metrics of vision-language navigation, as pure functions of positions and geodesic distances.

Nothing here comes from a simulator's own bookkeeping, so that built-in houses and Habitat are measured alike.
Lengths are metres. `T` is the number of actions, so that an episode has `T + 1` positions, the start included.

Sources: NE, SR, OSR, TL: Anderson et al., "Vision-and-Language Navigation" (2018). SPL: Anderson et al., "On
Evaluation of Embodied Navigation Agents" (2018). CLS: Jain et al., "Stay on the Path" (2019). nDTW, SDTW: Ilharco
et al., "General Evaluation for Instruction Conditioned Navigation using Dynamic Time Warping" (2019).

What is undefined stays visible. A goal that cannot be reached has an infinite distance: its success metrics are 0,
its `ne_m` is infinite. A value that cannot be known is NaN. `aggregate` leaves both out of the means and counts them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
_SHARE_PREFIXES = ("sr_", "osr_", "stop_rate")
_UNIT_PREFIXES = (*_SHARE_PREFIXES, "spl_", "ndtw_", "sdtw_", "cls_")


def _as_path(points: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return `points` as [N, D] floats with D in {2, 3}; N may be 0."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        raise ValueError(f"{name} has shape {array.shape}; expected [N, 2] or [N, 3] coordinates in metres")
    return array


def _check_radius(radius_m: float) -> None:
    if not radius_m > 0:
        raise ValueError(f"radius_m is {radius_m}; expected a success radius above 0 metres")


def _as_pair(path: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    walked, wanted = _as_path(path, "path"), _as_path(reference, "reference")
    if len(walked) and len(wanted) and walked.shape[1] != wanted.shape[1]:
        raise ValueError(
            f"path has {walked.shape[1]} coordinates a point and reference {wanted.shape[1]}; expected the same number"
        )
    return walked, wanted


def skip_duplicates(path: ArrayLike) -> NDArray[np.float64]:
    """Drop every point that equals the one before it: turning on the spot is no new position."""
    points = _as_path(path, "path")
    if len(points) < 2:
        return points
    moved = np.any(points[1:] != points[:-1], axis=1)
    return points[np.concatenate(([True], moved))]


def path_length(positions: ArrayLike) -> float:
    """TL: the sum of the Euclidean step lengths of `positions` [N, 2 or 3]; 0 for a path of one point."""
    points = _as_path(positions, "positions")
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def navigation_error(goal_distances_m: ArrayLike) -> float:
    """NE: the last of the geodesic distances to the goal [T + 1]."""
    distances = _as_distances(goal_distances_m)
    return float(distances[-1])


def _as_distances(goal_distances_m: ArrayLike) -> NDArray[np.float64]:
    distances = np.asarray(goal_distances_m, dtype=np.float64)
    if distances.ndim != 1 or len(distances) == 0:
        raise ValueError(
            f"goal_distances_m has shape {distances.shape}; expected [T + 1], the start's distance included"
        )
    return distances


def success(stopped: bool, navigation_error_m: float, radius_m: float) -> float:
    """SR of one episode: 1 if STOP was called and the navigation error is strictly below the radius.

    Running out of steps is no success, nor is an infinite or unknown (NaN) navigation error.
    """
    _check_radius(radius_m)
    return float(bool(stopped) and navigation_error_m < radius_m)


def oracle_success(goal_distances_m: ArrayLike, radius_m: float) -> float:
    """OSR of one episode: 1 if any visited position, the start included, was strictly within the radius."""
    _check_radius(radius_m)
    return float(np.any(_as_distances(goal_distances_m) < radius_m))


def spl(success: float, shortest_m: float, path_length_m: float) -> float:
    """SPL of one episode: success * l / max(l, TL), with l the geodesic distance from start to goal.

    Where l and TL are both 0 (started at the goal, stayed there) the ratio is 1, so that SPL equals SR. A failure is 0
    whatever the lengths; a success over an infinite or unknown l has no SPL: NaN.
    """
    if shortest_m < 0 or path_length_m < 0:
        raise ValueError(
            f"shortest_m is {shortest_m} and path_length_m {path_length_m}; expected lengths of 0 or more"
        )
    if not success:
        return 0.0
    if not (math.isfinite(shortest_m) and math.isfinite(path_length_m)):
        return math.nan
    longest = max(shortest_m, path_length_m)
    return float(success) * (shortest_m / longest if longest > 0 else 1.0)


def dtw(path: ArrayLike, reference: ArrayLike) -> float:
    """Exact dynamic time warping distance between two paths [N, D] and [M, D], with Euclidean cost, in metres.

    Cell (i, j) depends on (i-1, j), (i, j-1) and (i-1, j-1) only, so that all cells of one anti-diagonal are computed
    at once: N + M vector operations instead of N * M Python steps. Empty or non-finite paths give NaN.
    """
    walked, wanted = _as_pair(path, reference)
    n, m = len(walked), len(wanted)
    if n == 0 or m == 0 or not (np.isfinite(walked).all() and np.isfinite(wanted).all()):
        return math.nan
    cost = np.linalg.norm(walked[:, None, :] - wanted[None, :, :], axis=2)
    # Entry i + 1 of a diagonal d holds cell (i, d - i); entry 0 and untouched entries are outside of the table.
    before_last, last = np.full(n + 1, np.inf), np.full(n + 1, np.inf)
    before_last[0] = 0.0  # the empty path before cell (0, 0)
    for diagonal in range(n + m - 1):
        first, end = max(0, diagonal - m + 1), min(n, diagonal + 1)
        rows = np.arange(first, end)
        current = np.full(n + 1, np.inf)
        cheapest = np.minimum(np.minimum(last[rows], last[rows + 1]), before_last[rows])
        current[rows + 1] = cost[rows, diagonal - rows] + cheapest
        before_last, last = last, current
    return float(last[n])


def ndtw(path: ArrayLike, reference: ArrayLike, radius_m: float) -> float:
    """nDTW: exp(-DTW(P, R) / (len(R) * radius)), consecutive duplicates skipped in both paths; len counts points.

    NaN without a reference path (an unreachable goal has none) or with non-finite coordinates.
    """
    _check_radius(radius_m)
    wanted = skip_duplicates(reference)
    distance = dtw(skip_duplicates(path), wanted)
    return math.nan if math.isnan(distance) else math.exp(-distance / (len(wanted) * radius_m))


def sdtw(success: float, ndtw: float) -> float:
    """SDTW: SR * nDTW; a failure is 0 even where nDTW is undefined."""
    return float(success) * ndtw if success else 0.0


def path_coverage(path: ArrayLike, reference: ArrayLike, radius_m: float) -> float:
    """PC: the mean over reference points r of exp(-min_p d(r, p) / radius). NaN as for `ndtw`."""
    _check_radius(radius_m)
    walked, wanted = _as_pair(path, reference)
    if len(walked) == 0 or len(wanted) == 0 or not (np.isfinite(walked).all() and np.isfinite(wanted).all()):
        return math.nan
    nearest = np.linalg.norm(wanted[:, None, :] - walked[None, :, :], axis=2).min(axis=1)
    return float(np.exp(-nearest / radius_m).mean())


def cls(path: ArrayLike, reference: ArrayLike, radius_m: float) -> float:
    """CLS: PC * LS with E = PC * length(R) and LS = E / (E + |E - length(P)|), lengths in metres.

    LS is 0 where it would be 0/0, that is for a path of no length along a reference of no length.
    """
    coverage = path_coverage(path, reference, radius_m)
    if math.isnan(coverage):
        return math.nan
    expected = coverage * path_length(reference)
    denominator = expected + abs(expected - path_length(path))
    return coverage * expected / denominator if denominator > 0 else 0.0


def radius_suffix(radius_m: float) -> str:
    """Name a radius in a metric's key: 1.0 is ``1m``, 0.5 is ``0.5m``."""
    _check_radius(radius_m)
    return f"{radius_m:g}m"


def episode_metrics(
    positions: ArrayLike,
    goal_distances_m: ArrayLike,
    stopped: bool,
    reference_path: ArrayLike,
    shortest_m: float,
    radius_m: float | Sequence[float] = 1.0,
) -> dict[str, float]:
    """Compute every metric of one episode.

    Args:
        positions: [T + 1, 2 or 3] visited positions, the start first.
        goal_distances_m: [T + 1] geodesic distance from each position to the goal.
        stopped: whether the agent called STOP (running out of steps is not that).
        reference_path: [R, 2 or 3]; the dataset's ground-truth locations, or the shortest path every 0.25 m.
        shortest_m: geodesic distance from start to goal.
        radius_m: success radius or radii; each gives its own keys, such as ``sr_1m`` and ``sr_3m``.

    Returns:
        ``ne_m, tl_m, shortest_m, steps, stop_rate`` and for each radius ``sr, osr, spl, ndtw, sdtw, cls`` with its
        suffix. Undefined values are NaN, unreachable distances infinite (see the module's docstring).

    Raises:
        ValueError: if lengths or shapes do not fit each other.
    """
    points, distances = _as_path(positions, "positions"), _as_distances(goal_distances_m)
    if len(points) != len(distances):
        raise ValueError(
            f"positions has {len(points)} points and goal_distances_m {len(distances)} values; expected one distance "
            "for each position"
        )
    error, length = navigation_error(distances), path_length(points)
    values = {
        "ne_m": error,
        "tl_m": length,
        "shortest_m": float(shortest_m),
        "steps": float(len(points) - 1),
        "stop_rate": float(bool(stopped)),
    }
    for radius in [radius_m] if np.isscalar(radius_m) else list(radius_m):
        suffix = radius_suffix(radius)
        reached = success(stopped, error, radius)
        warped = ndtw(points, reference_path, radius)
        values[f"sr_{suffix}"] = reached
        values[f"osr_{suffix}"] = oracle_success(distances, radius)
        values[f"spl_{suffix}"] = spl(reached, shortest_m, length)
        values[f"ndtw_{suffix}"] = warped
        values[f"sdtw_{suffix}"] = sdtw(reached, warped)
        values[f"cls_{suffix}"] = cls(points, reference_path, radius)
    return values


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson, 1927); unlike the normal one it is sound near 0 and 1."""
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(
            f"{successes} successes of {trials} trials; expected 0 <= successes <= trials, trials above 0"
        )
    share, z2 = successes / trials, _Z95 * _Z95
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: ArrayLike) -> tuple[float, float] | None:
    """95 % interval of a mean, mean ± 1.96 s / sqrt(n).

    None where it would say nothing true: below two values, and for equal ones, whose interval of no width would claim
    a certainty that a few failures in a row do not give.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or (sample == sample[0]).all():
        return None
    half = _Z95 * sample.std(ddof=1) / math.sqrt(len(sample))
    return float(sample.mean() - half), float(sample.mean() + half)


def _interval(key: str, values: NDArray[np.float64]) -> list[float] | None:
    if key.startswith(_SHARE_PREFIXES):
        return list(wilson_interval(float(values.sum()), len(values)))
    bounds = mean_interval(values)
    if bounds is None:
        return None
    if key.startswith(_UNIT_PREFIXES):
        return [max(0.0, bounds[0]), min(1.0, bounds[1])]
    return [max(0.0, bounds[0]), bounds[1]]


def aggregate(episodes: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Average the dictionaries of `episode_metrics`.

    Success rates are over all episodes (an unreachable goal counts as a failure). Infinite and NaN values of the other
    metrics are left out of their mean, and counted.

    Returns:
        The mean of each metric under its own key (None where no episode has a finite value), and
        ``episodes``: how many; ``unreachable``: how many have an infinite ``ne_m`` or ``shortest_m``;
        ``undefined``: how many have a NaN in any metric; ``left_out``: for each metric that lost values, how many;
        ``intervals``: 95 % intervals by metric, Wilson's for shares, the normal one for means, None where unknown.

    Raises:
        ValueError: for no episodes, or episodes whose metrics differ (measured with other settings).
    """
    if not episodes:
        raise ValueError("aggregate got no episodes; expected at least one")
    keys = list(episodes[0])
    for number, episode in enumerate(episodes):
        if set(episode) != set(keys):
            difference = sorted(set(episode) ^ set(keys))
            raise ValueError(f"episode number {number} differs from the first in {difference}; expected equal metrics")
    result: dict[str, Any] = {}
    left_out: dict[str, int] = {}
    intervals: dict[str, list[float] | None] = {}
    for key in keys:
        values = np.array([episode[key] for episode in episodes], dtype=np.float64)
        finite = values[np.isfinite(values)]
        if len(finite) < len(values):
            left_out[key] = len(values) - len(finite)
        result[key] = float(finite.mean()) if len(finite) else None
        intervals[key] = _interval(key, finite) if len(finite) else None
    distances = [[episode.get("ne_m", 0.0), episode.get("shortest_m", 0.0)] for episode in episodes]
    result["episodes"] = len(episodes)
    result["unreachable"] = int(np.isinf(np.array(distances, dtype=np.float64)).any(axis=1).sum())
    result["undefined"] = sum(any(math.isnan(value) for value in episode.values()) for episode in episodes)
    result["left_out"] = left_out
    result["intervals"] = intervals
    return result
