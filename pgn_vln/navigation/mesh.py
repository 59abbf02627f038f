"""Houses as coloured quads: vertices, shades and texture coordinates, without any renderer.

There are no lights: every face is as bright as its direction says, so that edges show and pixels are reproducible.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from pgn_vln.navigation.furniture import COLOURS, RGB, Part
from pgn_vln.navigation.houses import (
    DOOR_HEIGHT_M,
    DOOR_WIDTH_M,
    HALF_WALL_M,
    WALL_HEIGHT_M,
    Door,
    Furniture,
    House,
    solid_spans,
)

Point = tuple[float, float, float]
PLAIN = ""
TEXTURE_WIDTH_M = 1.2
_CEILING: RGB = (240, 240, 238)
_FRAME: RGB = (78, 50, 32)
_FRAME_WIDTH_M = 0.09
_WHITE: RGB = (255, 255, 255)
_NORMAL_SHADE = {(1, 0, 0): 0.86, (-1, 0, 0): 0.78, (0, 1, 0): 0.94, (0, -1, 0): 0.7, (0, 0, 1): 1.0, (0, 0, -1): 0.5}


@dataclass
class Quads:
    """Faces that share a texture.

    Attributes:
        vertices: ``[4, 3]`` each, metres, counter-clockwise seen from outside.
        colours: Three integers each.
        coordinates: Texture coordinates ``[4, 2]`` each.
        owners: What each belongs to: 0 for the building, 1 + i for the i-th piece of furniture, and behind these the
            doors.
    """

    vertices: list[list[Point]] = field(default_factory=list)
    colours: list[RGB] = field(default_factory=list)
    coordinates: list[list[tuple[float, float]]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


class HouseMesh:
    """All faces of a house by texture name: ``"<room>/floor"``, ``"<room>/wall"``, or `PLAIN` for untextured ones.

    Args:
        house: The house.
    """

    def __init__(self, house: House) -> None:
        self.groups: dict[str, Quads] = defaultdict(Quads)
        self._owner = 0
        for index in range(len(house.rooms)):
            self._add_room(house, index)
        for self._owner, piece in enumerate(house.furniture, 1):
            self._add_furniture(piece)
        for self._owner, door in enumerate(house.doors, 1 + len(house.furniture)):
            self._add_door_frame(door)

    def _add_room(self, house: House, index: int) -> None:
        room = house.rooms[index]
        (cx0, cy0, cx1, cy1), (x0, y0, x1, y1) = room.cell, room.inner
        # The floor reaches under the walls, so that no gap opens in a doorway.
        self._add(f"{room.name}/floor", [(cx0, cy0, 0), (cx1, cy0, 0), (cx1, cy1, 0), (cx0, cy1, 0)], (0, 0, 1))
        height = WALL_HEIGHT_M
        ceiling = [(cx0, cy0, height), (cx1, cy0, height), (cx1, cy1, height), (cx0, cy1, height)]
        self._add(PLAIN, ceiling, (0, 0, -1), _CEILING, shade=1.0)
        for side, line, low, high, normal in (
            ("west", x0, y0, y1, (1, 0, 0)),
            ("east", x1, y0, y1, (-1, 0, 0)),
            ("south", y0, x0, x1, (0, 1, 0)),
            ("north", y1, x0, x1, (0, -1, 0)),
        ):
            openings = house.openings(index, side)
            spans = [(start, end, 0.0) for start, end in solid_spans(low, high, openings)]
            spans += [(start, end, DOOR_HEIGHT_M) for start, end in openings]
            for start, end, bottom in spans:
                corners = [(start, bottom), (end, bottom), (end, height), (start, height)]
                vertices = [(line, a, z) if side in ("west", "east") else (a, line, z) for a, z in corners]
                self._add(f"{room.name}/wall", vertices, normal)

    def _add_door_frame(self, door: Door) -> None:
        """A dark frame around the opening: the cue for where one can walk through."""
        half, depth = DOOR_WIDTH_M / 2, HALF_WALL_M + 0.015
        for low, high, bottom, top in (
            (-half - _FRAME_WIDTH_M, -half, 0.0, DOOR_HEIGHT_M + _FRAME_WIDTH_M),
            (half, half + _FRAME_WIDTH_M, 0.0, DOOR_HEIGHT_M + _FRAME_WIDTH_M),
            (-half, half, DOOR_HEIGHT_M, DOOR_HEIGHT_M + _FRAME_WIDTH_M),
        ):
            along, across = (door.centre_m + low, door.centre_m + high), (door.line_m - depth, door.line_m + depth)
            x, y = (across, along) if door.vertical else (along, across)
            self._add_box(Part(*x, *y, bottom, top), _FRAME)

    def _add_furniture(self, piece: Furniture) -> None:
        for part in piece.kind.parts:
            # A quarter turn counter-clockwise takes (x, y) to (-y, x).
            xs, ys = (part.x0, part.x1), (part.y0, part.y1)
            for _ in range(piece.quarter_turns):
                xs, ys = (-ys[1], -ys[0]), xs
            box = Part(
                piece.x + xs[0], piece.x + xs[1], piece.y + ys[0], piece.y + ys[1], part.z0, part.z1, part.shade
            )
            self._add_box(box, part.rgb or COLOURS[piece.colour])

    def _add_box(self, box: Part, rgb: RGB) -> None:
        x0, x1, y0, y1, z0, z1 = box[:6]
        for corners, normal in (
            ([(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)], (1, 0, 0)),
            ([(x0, y0, z0), (x0, y1, z0), (x0, y1, z1), (x0, y0, z1)], (-1, 0, 0)),
            ([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], (0, 1, 0)),
            ([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], (0, -1, 0)),
            ([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], (0, 0, 1)),
            ([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], (0, 0, -1)),
        ):
            self._add(PLAIN, corners, normal, rgb, _NORMAL_SHADE[normal] * box.shade)

    def _add(
        self,
        texture: str,
        corners: list[Point],
        normal: tuple[int, int, int],
        rgb: RGB = _WHITE,
        shade: float | None = None,
    ) -> None:
        """Add a face, with its corners put counter-clockwise around its outward normal."""
        if _cross_along(corners, normal) < 0:
            corners = corners[::-1]
        shade = _NORMAL_SHADE[normal] if shade is None else shade
        quads = self.groups[texture]
        quads.vertices.append(corners)
        quads.owners.append(self._owner)
        quads.colours.append(tuple(min(255, round(channel * shade)) for channel in rgb))
        if normal[2]:
            quads.coordinates.append([(x / TEXTURE_WIDTH_M, y / TEXTURE_WIDTH_M) for x, y, _ in corners])
        else:
            quads.coordinates.append(
                [((y if normal[0] else x) / TEXTURE_WIDTH_M, z / WALL_HEIGHT_M) for x, y, z in corners]
            )


def _cross_along(corners: list[Point], normal: tuple[int, int, int]) -> float:
    """The first corner's turn, positive if it is counter-clockwise around an axis (NumPy is slow at such)."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners[:3]
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - bx, cy - by, cz - bz
    return normal[0] * (uy * vz - uz * vy) + normal[1] * (uz * vx - ux * vz) + normal[2] * (ux * vy - uy * vx)
