"""What the camera can see: frustum and line of sight, from geometry alone (nothing is rendered)."""

import math
from dataclasses import dataclass

import numpy as np

from pgn_vln.navigation.houses import WALL_HEIGHT_M, Door, Furniture, House

# A share of an object's sample points: less in view is not enough to recognise it by.
VISIBLE_SHARE = 0.3
SIGHT_RANGE_M = 7.0


@dataclass(frozen=True)
class Camera:
    """The agent's camera: square frames.

    Attributes:
        hfov_degrees: Horizontal (and vertical) field of view.
        height_m: Height of its centre above the floor.
        pitch_degrees: Downward is negative. Low furniture in front of the agent must stay in view.
    """

    hfov_degrees: float = 90.0
    height_m: float = 1.1
    pitch_degrees: float = -15.0


class Sight:
    """Answers whether a door or a piece of furniture is in view.

    Args:
        house: The house.
        camera: The camera that looks.
    """

    def __init__(self, house: House, camera: Camera) -> None:
        self.house = house
        self.camera = camera
        walls = [(wall.x0, wall.y0, 0.0, wall.x1, wall.y1, WALL_HEIGHT_M) for wall in house.walls()]
        pieces = []
        for piece in house.furniture:
            x0, y0, x1, y1 = piece.rect
            pieces.append((x0, y0, 0.0, x1, y1, piece.kind.height_m))
        self._boxes = np.array(walls + pieces)
        self._first_piece = len(walls)
        self._furniture_points = [_furniture_points(piece) for piece in house.furniture]
        self._door_points = [_door_points(door) for door in house.doors]
        half = math.radians(camera.hfov_degrees / 2)
        # The outermost pixels do not count as seen.
        self._tangent = 0.95 * math.tan(half)
        self._pitch = math.radians(camera.pitch_degrees)

    def furniture_share(self, position: np.ndarray, heading: float | None, index: int) -> float:
        """Share of a piece's sample points in view from ``[2]`` metres; without a heading, from any."""
        return self._share(position, heading, self._furniture_points[index], ignore=self._first_piece + index)

    def sees_furniture(self, position: np.ndarray, heading: float, index: int) -> bool:
        """Whether a piece can be recognised from a pose (metres, degrees)."""
        return self.furniture_share(position, heading, index) >= VISIBLE_SHARE

    def sees_door(self, position: np.ndarray, heading: float, index: int) -> bool:
        """Whether a doorway can be recognised from a pose (metres, degrees)."""
        return self._share(position, heading, self._door_points[index]) >= VISIBLE_SHARE

    def _share(self, position: np.ndarray, heading: float | None, points: np.ndarray, ignore: int = -1) -> float:
        offsets = points - (position[0], position[1], self.camera.height_m)
        if math.hypot(*(offsets[:, :2].mean(axis=0))) > SIGHT_RANGE_M:
            return 0.0
        seen = np.ones(len(points), dtype=bool)
        if heading is not None:
            seen = self._in_frustum(offsets, math.radians(heading))
        if seen.any():
            seen &= ~self._blocked(np.array([position[0], position[1], self.camera.height_m]), offsets, ignore)
        return float(seen.mean())

    def _in_frustum(self, offsets: np.ndarray, heading: float) -> np.ndarray:
        cos, sin = math.cos(heading), math.sin(heading)
        ahead, left = offsets[:, 0] * cos + offsets[:, 1] * sin, offsets[:, 1] * cos - offsets[:, 0] * sin
        cos, sin = math.cos(self._pitch), math.sin(self._pitch)
        depth, up = ahead * cos + offsets[:, 2] * sin, offsets[:, 2] * cos - ahead * sin
        return (depth > 0.05) & (np.abs(left) <= self._tangent * depth) & (np.abs(up) <= self._tangent * depth)

    def _blocked(self, eye: np.ndarray, offsets: np.ndarray, ignore: int) -> np.ndarray:
        """Whether a box stands between the eye and each point: the slab test for segments against boxes."""
        direction = np.where(np.abs(offsets) < 1e-9, 1e-9, offsets)[:, None, :]
        near = (self._boxes[None, :, :3] - eye) / direction
        far = (self._boxes[None, :, 3:] - eye) / direction
        enter = np.minimum(near, far).max(axis=-1)
        leave = np.maximum(near, far).min(axis=-1)
        hit = (enter < leave) & (leave > 0.0) & (enter < 0.999)
        if ignore >= 0:
            hit[:, ignore] = False
        return hit.any(axis=1)


def _furniture_points(piece: Furniture) -> np.ndarray:
    """Points ``[18, 3]``, metres, spread over a piece of furniture."""
    x0, y0, x1, y1 = piece.rect
    return np.array(
        [
            (x0 + u * (x1 - x0), y0 + v * (y1 - y0), w * piece.kind.height_m)
            for u in (0.15, 0.5, 0.85)
            for v in (0.15, 0.5, 0.85)
            for w in (0.35, 0.85)
        ]
    )


def _door_points(door: Door) -> np.ndarray:
    """Points ``[9, 3]``, metres, in the plane of a doorway."""
    x, y = door.centre
    return np.array(
        [
            (x, y + side, height) if door.vertical else (x + side, y, height)
            for side in (-0.3, 0.0, 0.3)
            for height in (0.3, 0.9, 1.5)
        ]
    )
