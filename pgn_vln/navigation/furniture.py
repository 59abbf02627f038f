"""Furniture kinds, their colours, and the boxes that they are built of.

A piece is all one named colour, in shades: what the instruction calls red is red on every large surface. Local frame,
metres: x to the right, y to the back (which stands against a wall), z up, the origin on the floor in the middle.
"""

from dataclasses import dataclass
from typing import NamedTuple

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (205, 28, 36),
    "blue": (36, 74, 214),
    "green": (30, 140, 48),
    "yellow": (242, 205, 24),
    "purple": (142, 44, 178),
    "black": (38, 38, 42),
}


class Part(NamedTuple):
    """One box of a piece of furniture, metres in its local frame; `shade` scales the named colour."""

    x0: float
    x1: float
    y0: float
    y1: float
    z0: float
    z1: float
    shade: float = 1.0
    rgb: RGB | None = None


@dataclass(frozen=True)
class FurnitureKind:
    """A kind of furniture.

    Attributes:
        name: Identifier, and the first of `nouns`.
        nouns: What instructions call it.
        width_m: Extent along its local x.
        depth_m: Extent along its local y.
        height_m: Extent along z.
        parts: Its boxes.
        against_wall: Whether it stands with its back to a wall.
        colours: The colours it comes in.
    """

    name: str
    nouns: tuple[str, ...]
    width_m: float
    depth_m: float
    height_m: float
    parts: tuple[Part, ...]
    against_wall: bool
    colours: tuple[str, ...] = tuple(COLOURS)


def _legs(half_width: float, half_depth: float, height: float, side: float) -> tuple[Part, ...]:
    """Four square legs in the corners of a footprint, a little darker than what they carry."""
    return tuple(
        Part(
            -half_width if sx < 0 else half_width - side,
            -half_width + side if sx < 0 else half_width,
            -half_depth if sy < 0 else half_depth - side,
            -half_depth + side if sy < 0 else half_depth,
            0.0,
            height,
            0.8,
        )
        for sx in (-1, 1)
        for sy in (-1, 1)
    )


_HANDLE: RGB = (225, 225, 220)
_PILLOW: RGB = (236, 234, 226)

_KINDS = (
    FurnitureKind(
        "chair", ("chair",), 0.5, 0.5, 1.05,
        (
            *_legs(0.25, 0.25, 0.44, 0.07),
            Part(-0.25, 0.25, -0.25, 0.25, 0.44, 0.54),
            Part(-0.25, 0.25, 0.17, 0.25, 0.54, 1.05, 0.95),
        ),
        against_wall=False,
    ),
    FurnitureKind(
        "table", ("table",), 1.1, 0.75, 0.78,
        (*_legs(0.5, 0.32, 0.68, 0.09), Part(-0.55, 0.55, -0.375, 0.375, 0.68, 0.78)),
        against_wall=False,
    ),
    FurnitureKind(
        "sofa", ("sofa", "couch"), 1.6, 0.75, 0.85,
        (
            Part(-0.62, 0.62, -0.375, 0.19, 0.06, 0.42),
            Part(-0.8, 0.8, 0.19, 0.375, 0.06, 0.85, 0.92),
            Part(-0.8, -0.62, -0.375, 0.19, 0.06, 0.62, 0.82),
            Part(0.62, 0.8, -0.375, 0.19, 0.06, 0.62, 0.82),
            Part(-0.012, 0.012, -0.385, 0.19, 0.06, 0.43, 0.55),
        ),
        against_wall=True,
    ),
    FurnitureKind(
        "bed", ("bed",), 1.1, 1.75, 0.95,
        (
            Part(-0.55, 0.55, -0.875, 0.8, 0.08, 0.3, 0.75),
            Part(-0.52, 0.52, -0.85, 0.8, 0.3, 0.52),
            Part(-0.36, 0.36, 0.42, 0.74, 0.52, 0.62, 1.0, _PILLOW),
            Part(-0.55, 0.55, 0.8, 0.875, 0.0, 0.95, 0.85),
        ),
        against_wall=True,
    ),
    FurnitureKind(
        "wardrobe", ("wardrobe", "cupboard"), 1.0, 0.55, 1.9,
        (
            Part(-0.5, 0.5, -0.25, 0.275, 0.0, 1.9, 0.85),
            Part(-0.48, -0.015, -0.275, -0.25, 0.1, 1.84),
            Part(0.015, 0.48, -0.275, -0.25, 0.1, 1.84),
            Part(-0.1, -0.05, -0.3, -0.275, 0.85, 1.1, 1.0, _HANDLE),
            Part(0.05, 0.1, -0.3, -0.275, 0.85, 1.1, 1.0, _HANDLE),
        ),
        against_wall=True,
    ),
    FurnitureKind(
        "lamp", ("lamp",), 0.5, 0.5, 1.6,
        (
            Part(-0.2, 0.2, -0.2, 0.2, 0.0, 0.08, 0.8),
            Part(-0.035, 0.035, -0.035, 0.035, 0.08, 1.12, 0.75),
            Part(-0.25, 0.25, -0.25, 0.25, 1.12, 1.36),
            Part(-0.18, 0.18, -0.18, 0.18, 1.36, 1.6, 1.0),
        ),
        against_wall=False,
    ),
    FurnitureKind(
        "plant", ("plant",), 0.6, 0.6, 1.25,
        (
            Part(-0.17, 0.17, -0.17, 0.17, 0.0, 0.36, 0.62),
            Part(-0.04, 0.04, -0.04, 0.04, 0.36, 0.6, 0.5),
            Part(-0.3, 0.04, -0.14, 0.18, 0.56, 0.84, 0.8),
            Part(-0.06, 0.3, -0.22, 0.12, 0.62, 0.92, 0.95),
            Part(-0.2, 0.14, -0.06, 0.3, 0.8, 1.08, 0.86),
            Part(-0.16, 0.18, -0.3, 0.0, 0.72, 1.0, 1.0),
            Part(-0.1, 0.12, -0.12, 0.12, 1.0, 1.25, 0.94),
        ),
        against_wall=False,
        colours=("red", "green", "yellow", "purple"),
    ),
    FurnitureKind(
        "shelf", ("shelf", "rack"), 1.0, 0.4, 1.7,
        (
            # Posts, no side panels: from its side it would look like a wardrobe.
            *_legs(0.5, 0.2, 1.7, 0.07),
            *(Part(-0.49, 0.49, -0.19, 0.19, z, z + 0.09) for z in (0.08, 0.46, 0.84, 1.22, 1.59)),
        ),
        against_wall=True,
    ),
)  # fmt: skip

KINDS: dict[str, FurnitureKind] = {kind.name: kind for kind in _KINDS}
