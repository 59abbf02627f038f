"""Furnished houses, drawn from a seed: rooms by binary split, doors along a spanning tree, furniture with clearances.

A house depends on its level, split, seed and index, and on nothing else: the same in every process, and never the
same in two splits, because the split is part of the seed.
"""

import hashlib
import random
from dataclasses import dataclass

from pgn_vln.navigation.env import FloorPlan, Landmark, Rect
from pgn_vln.navigation.furniture import COLOURS, KINDS, FurnitureKind

SPLITS = ("train", "val", "test")
WALL_HEIGHT_M = 2.4
HALF_WALL_M = 0.06
DOOR_WIDTH_M = 1.0
DOOR_HEIGHT_M = 2.0
DOOR_CLEARANCE_M = 0.8
# The agent is 0.36 m wide; what is left between two pieces must let it pass between grid cells as well.
PASSAGE_M = 0.6
ROOM_TYPES = ("kitchen", "bedroom", "living room", "bathroom", "study")
ROOM_RGB = {
    "kitchen": (226, 236, 226),
    "bedroom": (232, 222, 238),
    "living room": (240, 226, 204),
    "bathroom": (212, 232, 240),
    "study": (226, 222, 208),
}


@dataclass(frozen=True)
class Level:
    """How large and how full the houses of a level are, and how long their episodes may take.

    Attributes:
        name: Identifier; also the start of every episode id.
        rooms: Least and greatest number of rooms.
        width_m: Range of the extent along x.
        depth_m: Range of the extent along y.
        objects_per_room: Least and greatest number of pieces in a room.
        max_steps: Actions after which an episode ends by itself.
        min_path_m: Shortest walk from start to goal that makes an episode.
        min_room_side_m: Shortest side of a room.
    """

    name: str
    rooms: tuple[int, int]
    width_m: tuple[float, float]
    depth_m: tuple[float, float]
    objects_per_room: tuple[int, int]
    max_steps: int
    min_path_m: float
    min_room_side_m: float = 2.8


LEVELS: dict[str, Level] = {}


def register_level(level: Level) -> Level:
    """Make a level known by its name.

    Raises:
        ValueError: if the name is taken, or is not made of letters, digits and single underscores.
    """
    if level.name in LEVELS:
        raise ValueError(f"level name {level.name!r} is already registered; choose another name")
    if not level.name.replace("_", "").isalnum() or not level.name.isascii():
        raise ValueError(f"level name {level.name!r} must be made of letters, digits and underscores")
    LEVELS[level.name] = level
    return level


register_level(Level("one_room", (1, 1), (4.2, 6.0), (4.0, 5.2), (3, 5), max_steps=80, min_path_m=1.5))
register_level(Level("two_rooms", (2, 2), (7.2, 9.0), (3.8, 4.8), (2, 4), max_steps=150, min_path_m=2.5))
register_level(Level("house", (3, 5), (8.0, 11.0), (6.5, 9.0), (2, 4), max_steps=250, min_path_m=3.0))


@dataclass(frozen=True)
class Room:
    """A room: its type, and its cell of the floor up to the middle of its walls, metres."""

    name: str
    cell: Rect

    @property
    def inner(self) -> Rect:
        """The floor between its walls, metres."""
        x0, y0, x1, y1 = self.cell
        return Rect(x0 + HALF_WALL_M, y0 + HALF_WALL_M, x1 - HALF_WALL_M, y1 - HALF_WALL_M)


@dataclass(frozen=True)
class Door:
    """A doorway between two rooms.

    Attributes:
        rooms: Indices of the two rooms.
        vertical: True if the wall runs along y (one walks through along x).
        line_m: Where that wall stands.
        centre_m: Middle of the opening along the wall.
    """

    rooms: tuple[int, int]
    vertical: bool
    line_m: float
    centre_m: float

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the opening on the floor, metres."""
        return (self.line_m, self.centre_m) if self.vertical else (self.centre_m, self.line_m)

    @property
    def keep_clear(self) -> Rect:
        """The floor in front of both sides of the opening, metres."""
        (x, y), half = self.centre, DOOR_WIDTH_M / 2
        along_x, along_y = (DOOR_CLEARANCE_M, half) if self.vertical else (half, DOOR_CLEARANCE_M)
        return Rect(x - along_x, y - along_y, x + along_x, y + along_y)


@dataclass(frozen=True)
class Furniture:
    """A piece of furniture in its place; `quarter_turns` counter-clockwise from its local frame."""

    kind: FurnitureKind
    colour: str
    room: int
    x: float
    y: float
    quarter_turns: int

    @property
    def name(self) -> str:
        """Colour and kind, e.g. ``"red chair"``: unique in its house."""
        return f"{self.colour} {self.kind.name}"

    @property
    def rect(self) -> Rect:
        """Its outline on the floor, metres."""
        half_x, half_y = self.kind.width_m / 2, self.kind.depth_m / 2
        if self.quarter_turns % 2:
            half_x, half_y = half_y, half_x
        return Rect(self.x - half_x, self.y - half_y, self.x + half_x, self.y + half_y)


@dataclass(frozen=True)
class House:
    """Rooms, the doors between them, and furniture; all coordinates in metres."""

    level: Level
    bounds: Rect
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    furniture: tuple[Furniture, ...]

    def room_at(self, x: float, y: float) -> int:
        """Index of the room whose cell holds a point; the doorway's middle line belongs to the upper one."""
        for index, room in enumerate(self.rooms):
            if room.cell.x0 <= x < room.cell.x1 and room.cell.y0 <= y < room.cell.y1:
                return index
        return -1

    def openings(self, room: int, side: str) -> list[tuple[float, float]]:
        """Doorways ``(from, to)`` in one wall of a room, metres along it; sides are ``"west east south north"``."""
        cell = self.rooms[room].cell
        line, vertical = {
            "west": (cell.x0, True), "east": (cell.x1, True), "south": (cell.y0, False), "north": (cell.y1, False),
        }[side]  # fmt: skip
        half = DOOR_WIDTH_M / 2
        return sorted(
            (door.centre_m - half, door.centre_m + half)
            for door in self.doors
            if room in door.rooms and door.vertical == vertical and door.line_m == line
        )

    def walls(self) -> tuple[Rect, ...]:
        """Solid wall pieces, half a wall's thickness each, cut at the doorways."""
        pieces = []
        for index, room in enumerate(self.rooms):
            x0, y0, x1, y1 = room.cell
            for side in ("west", "east", "south", "north"):
                low, high = (y0, y1) if side in ("west", "east") else (x0, x1)
                for start, end in solid_spans(low, high, self.openings(index, side)):
                    pieces.append(
                        {
                            "west": Rect(x0, start, x0 + HALF_WALL_M, end),
                            "east": Rect(x1 - HALF_WALL_M, start, x1, end),
                            "south": Rect(start, y0, end, y0 + HALF_WALL_M),
                            "north": Rect(start, y1 - HALF_WALL_M, end, y1),
                        }[side]
                    )
        return tuple(pieces)

    def floor_plan(self) -> FloorPlan:
        """The house as a report draws it."""
        return FloorPlan(
            bounds=self.bounds,
            walls=self.walls(),
            rooms=tuple(Landmark(room.name, room.cell, ROOM_RGB[room.name]) for room in self.rooms),
            objects=tuple(Landmark(piece.name, piece.rect, COLOURS[piece.colour]) for piece in self.furniture),
        )


def solid_spans(low: float, high: float, openings: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What is left of ``[low, high]`` between sorted openings."""
    spans, start = [], low
    for begin, end in openings:
        spans.append((start, begin))
        start = end
    return [*spans, (start, high)]


def seeded_random(*parts: str | int) -> random.Random:
    """A generator whose stream is a pure function of `parts`, in any process and Python version."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def build_house(level: Level, rng: random.Random) -> House:
    """Draw one house; rooms may turn out to be blocked by furniture, so whoever needs a way has to check for it."""
    bounds = Rect(0.0, 0.0, _centimetres(rng, *level.width_m), _centimetres(rng, *level.depth_m))
    cells = _split(bounds, rng.randint(*level.rooms), level.min_room_side_m, rng)
    names = rng.sample(ROOM_TYPES, len(cells))
    rooms = tuple(Room(name, cell) for name, cell in zip(names, cells, strict=True))
    doors = _place_doors(rooms, rng)
    return House(level, bounds, rooms, doors, _furnish(level, rooms, doors, rng))


def _centimetres(rng: random.Random, low: float, high: float) -> float:
    return rng.randint(round(low * 100), round(high * 100)) / 100


def _split(bounds: Rect, count: int, min_side_m: float, rng: random.Random) -> list[Rect]:
    """Cut the largest cell across its longer side until there are `count`, or none can be cut any more."""
    cells = [bounds]
    while len(cells) < count:
        cell = max(cells, key=lambda c: (c.x1 - c.x0) * (c.y1 - c.y0))
        width, depth = cell.x1 - cell.x0, cell.y1 - cell.y0
        if max(width, depth) < 2 * min_side_m:
            break
        margin = max(min_side_m, 0.4 * max(width, depth))
        cells.remove(cell)
        if width >= depth:
            cut = _centimetres(rng, cell.x0 + margin, cell.x1 - margin)
            cells += [Rect(cell.x0, cell.y0, cut, cell.y1), Rect(cut, cell.y0, cell.x1, cell.y1)]
        else:
            cut = _centimetres(rng, cell.y0 + margin, cell.y1 - margin)
            cells += [Rect(cell.x0, cell.y0, cell.x1, cut), Rect(cell.x0, cut, cell.x1, cell.y1)]
    return cells


def _place_doors(rooms: tuple[Room, ...], rng: random.Random) -> tuple[Door, ...]:
    """A spanning tree of doors over adjacent rooms, and now and then a door more, which makes a loop."""
    candidates = []
    margin = DOOR_WIDTH_M / 2 + 0.3
    for a in range(len(rooms)):
        for b in range(a + 1, len(rooms)):
            first, second = rooms[a].cell, rooms[b].cell
            for vertical in (True, False):
                lines = (first.x0, first.x1, second.x0, second.x1)
                spans = (first.y0, first.y1, second.y0, second.y1)
                if not vertical:
                    lines, spans = spans, lines
                low, high = max(spans[0], spans[2]) + margin, min(spans[1], spans[3]) - margin
                if high <= low or not (lines[1] == lines[2] or lines[0] == lines[3]):
                    continue
                line = lines[1] if lines[1] == lines[2] else lines[0]
                candidates.append(Door((a, b), vertical, line, _centimetres(rng, low, high)))
    rng.shuffle(candidates)
    group, doors = list(range(len(rooms))), []
    for door in candidates:
        a, b = (group[room] for room in door.rooms)
        if a != b:
            group = [a if g == b else g for g in group]
            doors.append(door)
        elif rng.random() < 0.2:
            doors.append(door)
    return tuple(doors)


def _furnish(
    level: Level, rooms: tuple[Room, ...], doors: tuple[Door, ...], rng: random.Random
) -> tuple[Furniture, ...]:
    """Fill every room; no two pieces of a house share both kind and colour, so that a name means one thing."""
    names = [(kind, colour) for kind in KINDS.values() for colour in kind.colours]
    rng.shuffle(names)
    placed: list[Furniture] = []
    for index, room in enumerate(rooms):
        wanted = rng.randint(*level.objects_per_room)
        kinds_here: list[str] = []
        for _ in range(wanted):
            # Two of a kind in one room are wanted (the colour has to be read), three are clutter.
            choice = next((n for n in names if kinds_here.count(n[0].name) < 2), None)
            if choice is None:
                break
            piece = _place(choice[0], choice[1], index, room, doors, placed, rng)
            names.remove(choice)
            if piece is not None:
                placed.append(piece)
                kinds_here.append(choice[0].name)
    return tuple(placed)


def _place(
    kind: FurnitureKind,
    colour: str,
    room_index: int,
    room: Room,
    doors: tuple[Door, ...],
    placed: list[Furniture],
    rng: random.Random,
) -> Furniture | None:
    """Try random places for a piece; None if it does not fit."""
    inner = room.inner
    for _ in range(30):
        turns = rng.randrange(4)
        half_x, half_y = kind.width_m / 2, kind.depth_m / 2
        if turns % 2:
            half_x, half_y = half_y, half_x
        gap = 0.03 if kind.against_wall else PASSAGE_M
        low_x, high_x = inner.x0 + half_x + gap, inner.x1 - half_x - gap
        low_y, high_y = inner.y0 + half_y + gap, inner.y1 - half_y - gap
        if high_x <= low_x or high_y <= low_y:
            continue
        x, y = rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)
        if kind.against_wall:
            # Its back, local +y, looks north, west, south, east after 0, 1, 2, 3 quarter turns.
            x = {1: low_x, 3: high_x}.get(turns, x)
            y = {0: high_y, 2: low_y}.get(turns, y)
        piece = Furniture(kind, colour, room_index, round(x, 3), round(y, 3), turns)
        clear_of_doors = all(_gap(piece.rect, door.keep_clear) > 0 for door in doors if room_index in door.rooms)
        if clear_of_doors and all(_gap(piece.rect, other.rect) >= PASSAGE_M for other in placed):
            return piece
    return None


def _gap(a: Rect, b: Rect) -> float:
    """Distance between two rectangles, metres; 0 if they touch or overlap."""
    dx = max(a.x0 - b.x1, b.x0 - a.x1, 0.0)
    dy = max(a.y0 - b.y1, b.y0 - a.y1, 0.0)
    return (dx * dx + dy * dy) ** 0.5
