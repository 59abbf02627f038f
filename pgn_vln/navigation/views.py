"""Views of furnished houses with what can be seen in them: rendered when asked for, from an index, always the same.

These are not episodes: nobody walks. Houses are drawn as those of the episodes are, from a seed that holds the split,
so that no house is in two splits.
"""

import math
import random
from dataclasses import dataclass

import numpy as np

from pgn_vln.navigation.env import Rect
from pgn_vln.navigation.furniture import COLOURS, KINDS
from pgn_vln.navigation.geodesic import OccupancyGrid
from pgn_vln.navigation.houses import LEVELS, SPLITS, House, build_house, seeded_random
from pgn_vln.navigation.renderer import Renderer
from pgn_vln.navigation.visibility import Camera

DOOR = "door"
# Everything that a pixel can show, by the index that `View.labels` holds; 0 is the building.
LABELS = ("", DOOR, *(f"{colour} {kind.name}" for kind in KINDS.values() for colour in kind.colours))
# The kind and the colour of each label, as indices; 0 for the building, and for the colour of a door.
LABEL_KINDS = (0, 1, *(2 + index for index, kind in enumerate(KINDS.values()) for _ in kind.colours))
LABEL_COLOURS = (0, 0, *(1 + list(COLOURS).index(colour) for kind in KINDS.values() for colour in kind.colours))
# A patch shows what covers at least this share of it.
_PATCH_SHARE = 0.2
# Fewer pixels than this at 64 x 64 are not recognised (a chair leg, the edge of a bed); in proportion at other sizes.
VISIBLE_PIXELS = 12
# Half of the views look at something from nearby, as a robot does that is about to stop.
_NEAR_SHARE, _NEAR_M, _NEAR_DEGREES = 0.5, 2.5, 50.0


@dataclass(frozen=True)
class Sighting:
    """A piece of furniture, or a door, as seen from a pose.

    Attributes:
        name: Of `LABELS`; unique in its house but for doors.
        pixels: How many show it; 0 where it is hidden or behind the camera.
        bearing: Degrees to its middle, positive to the left.
        distance_m: To the nearest point of its outline on the floor.
    """

    name: str
    pixels: int
    bearing: float
    distance_m: float


@dataclass(frozen=True)
class View:
    """What a camera sees.

    Attributes:
        rgb: uint8 ``[H, W, 3]``.
        labels: uint8 ``[H, W]``, indices of `LABELS`.
        sightings: Every piece and door of the house, in the house's order, seen or not.
    """

    rgb: np.ndarray
    labels: np.ndarray
    sightings: tuple[Sighting, ...]

    def visible(self) -> list[Sighting]:
        """What can be recognised, from left to right."""
        least = VISIBLE_PIXELS * self.labels.size / 64**2
        return sorted((s for s in self.sightings if s.pixels >= least), key=lambda s: -s.bearing)


class HouseViews:
    """Views of house after house.

    Args:
        levels: Names of registered levels; house ``i`` is of level ``i`` modulo their number.
        split: ``train``, ``val`` or ``test``.
        views_per_house: How many.
        seed: Another seed, other houses.
        image_size: Side of the square frames, pixels.
        hfov_degrees: Horizontal field of view.

    Raises:
        ValueError: naming a setting that makes no sense.
    """

    def __init__(
        self,
        levels: tuple[str, ...],
        split: str,
        views_per_house: int,
        seed: int = 0,
        image_size: int = 64,
        hfov_degrees: float = 90.0,
    ) -> None:
        unknown = [name for name in levels if name not in LEVELS]
        if unknown or not levels:
            raise ValueError(f"levels {list(levels)} holds {unknown or 'none'}; choose some of {sorted(LEVELS)}")
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; expected one of {list(SPLITS)}")
        if views_per_house < 1:
            raise ValueError(f"views_per_house {views_per_house} is not positive; give 1 or more")
        self.levels = levels
        self.split = split
        self.views_per_house = views_per_house
        self.seed = seed
        self.image_size = image_size
        self.camera = Camera(hfov_degrees=hfov_degrees)
        self._renderer: Renderer | None = None

    def views(self, index: int) -> list[View]:
        """The views of house number `index`.

        Raises:
            RendererUnavailableError: naming what to install.
        """
        if self._renderer is None:
            # Not before: a renderer does not survive the fork of a loader's workers.
            self._renderer = Renderer(self.image_size, self.camera)
        rng = seeded_random("views", self.split, self.seed, index)
        house, grid = self._draw_house(LEVELS[self.levels[index % len(self.levels)]], rng)
        self._renderer.load(house)
        return [self._draw_view(house, grid, rng) for _ in range(self.views_per_house)]

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    @staticmethod
    def _draw_house(level, rng: random.Random) -> tuple[House, OccupancyGrid]:
        while True:
            house = build_house(level, rng)
            if len(house.rooms) >= level.rooms[0] and len(house.furniture) >= level.objects_per_room[0]:
                return house, OccupancyGrid(house.bounds, [*house.walls(), *(piece.rect for piece in house.furniture)])

    def _draw_view(self, house: House, grid: OccupancyGrid, rng: random.Random) -> View:
        position, heading = _draw_pose(house, grid, rng)
        rgb, owners = self._renderer.frame(position, heading), self._renderer.owners(position, heading)
        names = [piece.name for piece in house.furniture] + [DOOR] * len(house.doors)
        outlines = [piece.rect for piece in house.furniture]
        outlines += [Rect(*door.centre, *door.centre) for door in house.doors]
        pixels = np.bincount(owners.ravel(), minlength=1 + len(names))
        table = np.array([0, *(LABELS.index(name) for name in names)], dtype=np.uint8)
        sightings = tuple(
            Sighting(name, int(count), *_bearing_and_distance(outline, position, heading))
            for name, count, outline in zip(names, pixels[1:], outlines, strict=True)
        )
        return View(rgb, table[owners], sightings)


def _draw_pose(house: House, grid: OccupancyGrid, rng: random.Random) -> tuple[np.ndarray, float]:
    """A free place (``[2]`` metres) and a heading (degrees)."""
    near = rng.random() < _NEAR_SHARE
    rect = rng.choice(house.furniture).rect
    while True:
        if near:
            x = rng.uniform(rect.x0 - _NEAR_M, rect.x1 + _NEAR_M)
            y = rng.uniform(rect.y0 - _NEAR_M, rect.y1 + _NEAR_M)
        else:
            inner = rng.choice(house.rooms).inner
            x, y = rng.uniform(inner.x0, inner.x1), rng.uniform(inner.y0, inner.y1)
        heading = rng.uniform(0.0, 360.0)
        if near:
            towards = math.degrees(math.atan2(rect.centre[1] - y, rect.centre[0] - x))
            heading = (towards + rng.uniform(-_NEAR_DEGREES, _NEAR_DEGREES)) % 360.0
        position = np.array([x, y])
        if house.room_at(x, y) >= 0 and grid.is_free(position):
            return position, heading


def _bearing_and_distance(rect: Rect, position: np.ndarray, heading: float) -> tuple[float, float]:
    x, y = float(position[0]), float(position[1])
    towards = math.degrees(math.atan2(rect.centre[1] - y, rect.centre[0] - x))
    dx, dy = max(rect.x0 - x, 0.0, x - rect.x1), max(rect.y0 - y, 0.0, y - rect.y1)
    return (towards - heading + 180.0) % 360.0 - 180.0, math.hypot(dx, dy)


def patch_labels(labels: np.ndarray, patch_size: int) -> np.ndarray:
    """What each patch shows: ``[F, H, W]`` pixels to ``[F, H / p * W / p]``, 0 where nothing covers enough of it."""
    frames, height, width = labels.shape
    rows, columns = height // patch_size, width // patch_size
    patches = labels.reshape(frames, rows, patch_size, columns, patch_size).transpose(0, 1, 3, 2, 4)
    least = _PATCH_SHARE * patch_size**2
    return _largest(patches.reshape(frames * rows * columns, -1), least).reshape(frames, rows * columns)


def strip_labels(labels: np.ndarray, strips: int) -> np.ndarray:
    """What fills most of each upright strip, from left to right: ``[F, H, W]`` pixels to ``[F, strips]``.

    0 where nothing can be recognised; where the strips do not divide the width, the last one is wider.
    """
    frames, height, width = labels.shape
    least = VISIBLE_PIXELS * height * width / 64**2
    edges = [*range(0, width - width // strips + 1, width // strips)][:strips] + [width]
    columns = [labels[:, :, a:b].reshape(frames, -1) for a, b in zip(edges, edges[1:], strict=False)]
    return np.stack([_largest(column, least) for column in columns], axis=1)


def _largest(pixels: np.ndarray, least: float) -> np.ndarray:
    """The commonest label but 0 in each row, 0 where it is on fewer than `least` pixels: ``[R, P]`` to ``[R]``."""
    counts = np.zeros((len(pixels), len(LABELS)), dtype=np.int64)
    np.add.at(counts, (np.arange(len(pixels))[:, None], pixels), 1)
    counts[:, 0] = 0
    best = counts.argmax(axis=1)
    best[counts.max(axis=1) < least] = 0
    return best
