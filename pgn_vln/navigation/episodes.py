"""Episodes in built-in houses: where to start, what to find, where its goal is, and how it is told.

`draw_episode` rejects what would make a bad episode, and draws again: houses that furniture has cut in two, targets
without a place to stand from which they are seen, starts in front of a bare wall.
"""

import math
import random
import re
from dataclasses import dataclass

import numpy as np

from pgn_vln.navigation.env import Rect
from pgn_vln.navigation.geodesic import OccupancyGrid
from pgn_vln.navigation.houses import LEVELS, SPLITS, House, Level, build_house, seeded_random
from pgn_vln.navigation.instructions import MAX_DOORS, write_instruction
from pgn_vln.navigation.visibility import Camera, Sight

# The goal is a place to stand this far from the target: near enough to say "next to", far enough to see it whole.
GOAL_GAP_M = (0.4, 0.65)
# A goal this near to a doorway would be in it: one stops in the room, not on its threshold.
GOAL_OFF_DOOR_M = 0.45
START_VIEW_M = 1.5
ATTEMPTS = 200
_EPISODE_ID = re.compile(r"(?P<level>\w+?)_(?P<split>train|val|test)(_s(?P<seed>\d+))?_(?P<index>\d{6})")


class NoValidEpisodeError(ValueError):
    """A level whose settings leave no valid episode."""


@dataclass(frozen=True)
class HouseEpisode:
    """One episode in one house.

    Attributes:
        episode_id: See `episode_id`.
        house: The house.
        grid: Where the agent fits in it.
        target: Index of the piece of furniture to find.
        start: ``[2]``, metres.
        start_heading: Degrees, counter-clockwise from +x.
        goal: ``[2]``, metres.
        instruction: English.
    """

    episode_id: str
    house: House
    grid: OccupancyGrid
    target: int
    start: np.ndarray
    start_heading: float
    goal: np.ndarray
    instruction: str


def episode_id(level: str, split: str, seed: int, index: int) -> str:
    """Name an episode, e.g. ``one_room_test_000012``; a seed other than 0 is named: ``one_room_test_s3_000012``."""
    return f"{level}_{split}_{f's{seed}_' if seed else ''}{index:06d}"


def parse_episode_id(name: str) -> tuple[str, str, int, int]:
    """Level, split, seed and index of an episode id.

    Raises:
        ValueError: if it is not the name of an episode in a built-in house.
    """
    match = _EPISODE_ID.fullmatch(name)
    if match is None or match["level"] not in LEVELS:
        raise ValueError(
            f"unknown episode_id {name!r}: expected <level>_<split>_<six digits>, e.g. 'one_room_test_000012', "
            f"with a level of {sorted(LEVELS)} and a split of {list(SPLITS)}; list the ids with `episodes()`"
        )
    return match["level"], match["split"], int(match["seed"] or 0), int(match["index"])


def draw_episode(name: str, turn_degrees: int, camera: Camera) -> HouseEpisode:
    """Build the episode of an id; always the same one.

    Raises:
        ValueError: for an unknown id.
        NoValidEpisodeError: if a level's settings leave no valid episode.
    """
    level_name, split, seed, index = parse_episode_id(name)
    level = LEVELS[level_name]
    for attempt in range(ATTEMPTS):
        rng = seeded_random("house", level_name, split, seed, index, attempt)
        house = build_house(level, rng)
        episode = _try_episode(name, level, house, turn_degrees, camera, rng)
        if episode is not None:
            return episode
    raise NoValidEpisodeError(
        f"episode {name}: {ATTEMPTS} houses of level {level_name!r} gave no valid episode; "
        "enlarge the level's width_m and depth_m or lower its objects_per_room or min_path_m"
    )


def _try_episode(
    name: str, level: Level, house: House, turn_degrees: int, camera: Camera, rng: random.Random
) -> HouseEpisode | None:
    if len(house.rooms) < level.rooms[0] or len(house.furniture) < level.objects_per_room[0]:
        return None
    grid = OccupancyGrid(house.bounds, [*house.walls(), *(piece.rect for piece in house.furniture)])
    target = rng.randrange(len(house.furniture))
    start = _draw_start(level, house, grid, target, rng)
    if start is None:
        return None
    sight = Sight(house, camera)
    goal = _choose_goal(house, grid, sight, start, target)
    if goal is None or grid.geodesic(start, goal) < level.min_path_m:
        return None
    route = _route(house, grid, start, goal)
    if route is None or len(route) - 1 > MAX_DOORS:
        return None
    headings = [turn * turn_degrees for turn in range(360 // turn_degrees)]
    tall = [piece.rect for piece in house.furniture if piece.kind.height_m > 1.0]
    boxes = np.array([*house.walls(), *tall])
    open_headings = [heading for heading in headings if _sees_space(boxes, start, heading)]
    if not open_headings:
        return None
    piece = house.furniture[target]
    text = write_instruction(piece.kind.name, piece.colour, [house.rooms[room].name for room in route], rng)
    return HouseEpisode(name, house, grid, target, start, float(rng.choice(open_headings)), goal, text)


def _draw_start(level: Level, house: House, grid: OccupancyGrid, target: int, rng: random.Random) -> np.ndarray | None:
    """A free point; where there are several rooms, in another room than the target, out of the doorways."""
    target_room = house.furniture[target].room
    rooms = [index for index in range(len(house.rooms)) if index != target_room] or [target_room]
    inner = house.rooms[rng.choice(rooms)].inner
    for _ in range(30):
        point = np.array([rng.uniform(inner.x0, inner.x1), rng.uniform(inner.y0, inner.y1)]).round(3)
        if grid.is_free(point):
            return point
    return None


def _choose_goal(house: House, grid: OccupancyGrid, sight: Sight, start: np.ndarray, target: int) -> np.ndarray | None:
    """The place next to the target where one who comes from the start naturally stops.

    Of all cells that near to the target from which it is in view, the one that costs the shortest walk, with a
    preference for the middle of its side: then whoever stops anywhere on that side is less than 1 m away.
    """
    rect = house.furniture[target].rect
    cells = grid.cells(np.array([[rect.x0, rect.y0], [rect.x1, rect.y1]]))
    reach = math.ceil(GOAL_GAP_M[1] / grid.resolution_m) + 1
    low, high = np.maximum(cells[0] - reach, 0), cells[1] + reach + 1
    candidates = np.argwhere(grid.free[low[0] : high[0], low[1] : high[1]]) + low
    points = grid.centres(candidates)
    gaps = _distance_to_rect(points, rect)
    near = (gaps >= GOAL_GAP_M[0]) & (gaps <= GOAL_GAP_M[1])
    walks = grid.field(start).distances[candidates[:, 0], candidates[:, 1]]
    near &= np.isfinite(walks)
    for door in house.doors:
        near &= np.hypot(*(points - door.centre).T) >= GOAL_OFF_DOOR_M
    cell = house.rooms[house.furniture[target].room].cell
    near &= (points > (cell.x0, cell.y0)).all(axis=1) & (points < (cell.x1, cell.y1)).all(axis=1)
    costs = walks + 1.5 * np.hypot(*(points - rect.centre).T)
    for index in np.flatnonzero(near)[np.argsort(costs[near], kind="stable")]:
        if sight.furniture_share(points[index], None, target) >= 0.6:
            return points[index]
    return None


def _distance_to_rect(points: np.ndarray, rect: Rect) -> np.ndarray:
    dx = np.maximum(np.maximum(rect.x0 - points[:, 0], points[:, 0] - rect.x1), 0.0)
    dy = np.maximum(np.maximum(rect.y0 - points[:, 1], points[:, 1] - rect.y1), 0.0)
    return np.hypot(dx, dy)


def _route(house: House, grid: OccupancyGrid, start: np.ndarray, goal: np.ndarray) -> list[int] | None:
    """Rooms that the shortest path passes, in order, or None if there is no path."""
    if not np.isfinite(grid.geodesic(start, goal)):
        return None
    route: list[int] = []
    for x, y in grid.shortest_path(start, goal, spacing_m=0.1):
        room = house.room_at(x, y)
        if not route or room != route[-1]:
            route.append(room)
    return route


def _sees_space(boxes: np.ndarray, start: np.ndarray, heading: int) -> bool:
    """Whether nothing fills the view: straight ahead and to both sides the next of `boxes` is some way off."""
    for offset, distance in ((0, START_VIEW_M), (-25, 1.0), (25, 1.0)):
        radians = math.radians(heading + offset)
        line = start + np.linspace(0.0, distance, 30)[:, None] * (math.cos(radians), math.sin(radians))
        x, y = line[:, :1], line[:, 1:]
        if ((x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])).any():
            return False
    return True
