import heapq

import numpy as np
import pytest

from pgn_vln.navigation.env import Rect
from pgn_vln.navigation.geodesic import AGENT_RADIUS_M, OccupancyGrid, resample

ROOM = Rect(0.0, 0.0, 4.0, 3.0)


def test_cells_are_free_where_the_agent_fits():
    obstacle = Rect(1.0, 1.0, 2.0, 1.5)
    grid = OccupancyGrid(ROOM, [obstacle])
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            x, y = grid.centres(np.array([row, column]))
            dx, dy = max(obstacle.x0 - x, 0, x - obstacle.x1), max(obstacle.y0 - y, 0, y - obstacle.y1)
            assert grid.free[row, column] == (dx * dx + dy * dy >= AGENT_RADIUS_M**2)
    assert not grid.is_free(np.array([[-0.1, 1.0], [4.1, 1.0], [1.0, 3.1], [50.0, -50.0]])).any()


def test_without_obstacles_distances_are_euclidean():
    grid = OccupancyGrid(ROOM, [])
    rng = np.random.default_rng(0)
    for a, b in zip(rng.uniform((0, 0), (4, 3), (50, 2)), rng.uniform((0, 0), (4, 3), (50, 2)), strict=True):
        straight = float(np.hypot(*(a - b)))
        assert grid.geodesic(a, b) == pytest.approx(straight)
        # The field itself, which is used where no straight walk leads: at most 2.8 % longer, and a cell off.
        field = float(grid.field(b).at(a[None])[0])
        assert straight - 0.08 <= field <= 1.028 * straight + 0.08


def brute_force(free: np.ndarray, start: tuple[int, int], reach: int = 4) -> np.ndarray:
    """Distances in cells by a search that may jump to any cell up to `reach` away if the line to it is free."""
    distances = np.full(free.shape, np.inf)
    distances[start] = 0.0
    queue = [(0.0, start)]
    jumps = [(r, c) for r in range(-reach, reach + 1) for c in range(-reach, reach + 1) if (r, c) != (0, 0)]
    while queue:
        distance, (row, column) = heapq.heappop(queue)
        if distance > distances[row, column]:
            continue
        for r, c in jumps:
            to = row + r, column + c
            if not (0 <= to[0] < free.shape[0] and 0 <= to[1] < free.shape[1] and free[to]):
                continue
            line = [(row + 0.5 + r * t / 40, column + 0.5 + c * t / 40) for t in range(41)]
            if not all(free[int(i), int(j)] for i, j in line):
                continue
            if distance + np.hypot(r, c) < distances[to] - 1e-12:
                distances[to] = distance + np.hypot(r, c)
                heapq.heappush(queue, (distances[to], to))
    return distances


def test_around_obstacles_distances_agree_with_a_search_of_another_kind():
    grid = OccupancyGrid(Rect(0, 0, 2.0, 1.6), [Rect(0.9, 0.0, 1.0, 1.1), Rect(1.4, 0.7, 1.5, 1.6)], 0.1)
    goal = (4, 36)
    reference = brute_force(grid.free, goal) * grid.resolution_m
    cells = np.argwhere(grid.free)
    centres = grid.centres(cells)
    target = grid.centres(np.array(goal))
    found = np.array([grid.geodesic(point, target) for point in centres])
    expected = reference[cells[:, 0], cells[:, 1]]
    assert np.isfinite(expected).sum() > 300
    assert (np.isfinite(found) == np.isfinite(expected)).all()
    reachable = np.isfinite(expected)
    assert np.abs(found[reachable] - expected[reachable]).max() < 0.03 * expected[reachable].max() + 0.02


def test_what_cannot_be_reached_is_infinitely_far():
    grid = OccupancyGrid(ROOM, [Rect(1.9, 0.0, 2.1, 3.0)])
    left, right = np.array([0.5, 1.5]), np.array([3.5, 1.5])
    assert grid.geodesic(left, right) == float("inf")
    assert grid.geodesic(left, np.array([2.0, 1.5])) == float("inf")
    assert grid.geodesic(np.array([2.0, 1.5]), left) == float("inf")
    assert grid.geodesic(left, np.array([np.nan, 1.0])) == float("inf")
    assert grid.geodesic(left, np.array([40.0, 1.0])) == float("inf")
    with pytest.raises(ValueError, match="no way leads"):
        grid.shortest_path(left, right)


def test_the_shortest_path_turns_at_the_corner_and_is_evenly_sampled():
    grid = OccupancyGrid(ROOM, [Rect(1.9, 0.0, 2.1, 1.5)], agent_radius_m=0.1)
    a, b = np.array([1.0, 0.5]), np.array([3.0, 0.5])
    path = grid.shortest_path(a, b)
    assert np.array_equal(path[0], a) and np.array_equal(path[-1], b)
    gaps = np.hypot(*np.diff(path, axis=0).T)
    assert (gaps[:-1] <= 0.25 + 1e-9).all() and (gaps[:-1] > 0.2).all() and gaps[-1] <= 0.25 + 1e-9
    # Around the two corners, rounded by the agent's radius: never shorter than the taut string, hardly longer.
    string = 2 * np.hypot(0.9, 1.0) + 0.2
    dense = grid.shortest_path(a, b, spacing_m=0.01)
    length = np.hypot(*np.diff(dense, axis=0).T).sum()
    assert string < length < string + 0.35
    assert grid.is_free(dense).all()
    assert grid.geodesic(a, b) == pytest.approx(length, rel=0.03)


def test_resampling_keeps_the_ends_and_handles_a_point():
    assert resample(np.array([[1.0, 2.0], [1.0, 2.0]]), 0.25).tolist() == [[1.0, 2.0]]
    line = resample(np.array([[0.0, 0.0], [1.0, 0.0]]), 0.25)
    assert line.tolist() == [[0.0, 0.0], [0.25, 0.0], [0.5, 0.0], [0.75, 0.0], [1.0, 0.0]]
    assert resample(np.array([[0.0, 0.0], [0.6, 0.0]]), 0.25)[:, 0].tolist() == [0.0, 0.25, 0.5, 0.6]
