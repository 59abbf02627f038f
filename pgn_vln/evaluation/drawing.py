"""One picture an episode: the plan with the paths, and what the agent saw and did, in time order.

Drawn with Pillow alone: no display, no figure state, a few tens of milliseconds a picture.
Plan coordinates are metres with x to the right and y up; Habitat's [x, y, z] become (x, -z), its view from above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.env import FloorPlan, Rect

Colour = tuple[int, int, int]

_INK: Colour = (34, 40, 49)
_MUTED: Colour = (110, 118, 129)
_PAPER: Colour = (255, 255, 255)
_TAKEN: Colour = (29, 78, 216)
_SHORTEST: Colour = (90, 90, 90)
_GOAL: Colour = (190, 24, 160)
_GOOD: Colour = (22, 128, 61)
_BAD: Colour = (200, 30, 30)

_MARGIN = 16
_PLAN_SIZE = (560, 420)
_TILE = 176
_CAPTION = 26
_COLUMNS = 4
_LEGEND = 24
_TITLE_LINES = 3
_LINE = 22
# The plan is drawn larger and scaled down, because Pillow's lines are not smoothed.
_SMOOTHING = 2


@dataclass(frozen=True)
class EpisodePicture:
    """All that one picture shows.

    Attributes:
        instruction: the text of the episode.
        verdict: such as ``success`` or ``failed: stopped 2.3 m away``.
        succeeded: colours the verdict.
        positions: [T + 1, 2 or 3] visited positions, the start first.
        actions: [T] actions taken.
        frames: [T or T + 1] RGB pictures, uint8 [H, W, 3]; `frames[t]` was seen before `actions[t]`.
        goal: goal position, 2 or 3 coordinates.
        reference_path: [R, 2 or 3], the shortest or ground-truth path; may be empty.
        radius_m: success radius, drawn around the goal.
        start_heading: direction faced at the start in degrees, counter-clockwise from +x; None draws no arrow.
        floor_plan: rooms, walls and furniture, where the simulator knows them.
        target: index into `floor_plan.objects` of the one that the instruction asks for; None marks none.
    """

    instruction: str
    verdict: str
    succeeded: bool
    positions: ArrayLike
    actions: Sequence[int]
    frames: Sequence[NDArray[np.uint8]]
    goal: ArrayLike
    reference_path: ArrayLike
    radius_m: float
    start_heading: float | None = None
    floor_plan: FloorPlan | None = None
    target: int | None = None


def plan_view(points: ArrayLike) -> NDArray[np.float64]:
    """Project [N, 2] or Habitat's [N, 3] (y up) onto the plan [N, 2]; points that are not finite are dropped."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 2))
    array = np.atleast_2d(array)
    if array.shape[1] == 3:
        array = np.stack([array[:, 0], -array[:, 2]], axis=1)
    return array[np.isfinite(array).all(axis=1)]


def nearest_object(floor_plan: FloorPlan | None, goal: ArrayLike) -> int | None:
    """Index of the object whose outline is closest to the goal: what an object-goal instruction asks for."""
    point = plan_view(goal)
    if floor_plan is None or not floor_plan.objects or not len(point):
        return None
    rects = np.array([item.rect for item in floor_plan.objects], dtype=np.float64)
    outside = np.maximum(np.maximum(rects[:, :2] - point[0], point[0] - rects[:, 2:]), 0.0)
    return int(np.linalg.norm(outside, axis=1).argmin())


def _corners(rect: Rect) -> NDArray[np.float64]:
    x0, y0, x1, y1 = rect
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def sample_steps(count: int, wanted: int) -> list[int]:
    """Spread up to `wanted` steps evenly over `count`, the first and the last included, in time order."""
    if count <= wanted:
        return list(range(count))
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def draw_episode(episode: EpisodePicture, strip_frames: int = 8) -> Image.Image:
    """Draw one episode: title and verdict above, the plan on the left, a strip of frames with actions on the right.

    The size depends on `strip_frames` only, so that a gallery lines up.
    """
    rows = math.ceil(strip_frames / _COLUMNS)
    header = _MARGIN + (_TITLE_LINES + 1) * _LINE + 6
    body = max(_PLAN_SIZE[1] + _LEGEND, rows * (_TILE + _CAPTION))
    width = 3 * _MARGIN + _PLAN_SIZE[0] + _COLUMNS * (_TILE + 6)
    canvas = Image.new("RGB", (width, header + body + _MARGIN), _PAPER)
    _draw_title(canvas, episode)
    canvas.paste(_draw_plan(episode), (_MARGIN, header))
    _draw_legend(canvas, episode, (_MARGIN, header + _PLAN_SIZE[1] + 6))
    _draw_strip(canvas, episode, (2 * _MARGIN + _PLAN_SIZE[0], header), strip_frames)
    return canvas


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, font: ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Break `text` at spaces to `width` pixels; what does not fit in `lines` ends in an ellipsis."""
    wrapped: list[str] = []
    words = text.split()
    while words and len(wrapped) < lines:
        used = 1
        while used < len(words) and font.getlength(" ".join(words[: used + 1])) <= width:
            used += 1
        wrapped.append(" ".join(words[:used]))
        words = words[used:]
    if words:
        kept = wrapped[-1]
        while kept and font.getlength(kept + " …") > width:
            kept = kept[:-1]
        wrapped[-1] = kept + " …"
    return wrapped


def _draw_title(canvas: Image.Image, episode: EpisodePicture) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), episode.verdict, fill=_GOOD if episode.succeeded else _BAD, font=_font(18))
    lines = _wrap(episode.instruction, _font(15), canvas.width - 2 * _MARGIN, _TITLE_LINES)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + (number + 1) * _LINE + 4), line, fill=_INK, font=_font(15))


class _Plan:
    """Maps metres to the pixels of the enlarged plan and draws on it."""

    def __init__(self, episode: EpisodePicture) -> None:
        self.taken = plan_view(episode.positions)
        self.reference = plan_view(episode.reference_path)
        self.goal = plan_view(episode.goal)
        building = np.zeros((0, 2)) if episode.floor_plan is None else _corners(episode.floor_plan.bounds)
        everything = np.concatenate([self.taken, self.reference, self.goal, building])
        if not len(everything):
            everything = np.zeros((1, 2))
        low, high = everything.min(axis=0) - 0.3, everything.max(axis=0) + 0.3
        size = np.array(_PLAN_SIZE, dtype=np.float64) * _SMOOTHING
        self.pixels_per_metre = float((size / (high - low)).min())
        self.centre, self.middle = (low + high) / 2, size / 2
        self.image = Image.new("RGB", (int(size[0]), int(size[1])), (247, 247, 245))
        self.draw = ImageDraw.Draw(self.image)

    def pixels(self, points: NDArray[np.float64]) -> list[tuple[float, float]]:
        offsets = (np.atleast_2d(points) - self.centre) * self.pixels_per_metre
        return [(float(self.middle[0] + x), float(self.middle[1] - y)) for x, y in offsets]

    def line(self, points: NDArray[np.float64], colour: Colour, width: int) -> None:
        if len(points) > 1:
            self.draw.line(self.pixels(points), fill=colour, width=width * _SMOOTHING, joint="curve")

    def dashed(self, points: NDArray[np.float64], colour: Colour, width: int, dash_px: float = 12.0) -> None:
        """Draw every other `dash_px` of the path; the phase runs on through its corners."""
        corners = np.array(self.pixels(points)) if len(points) else np.zeros((0, 2))
        travelled = 0.0
        for start, end in zip(corners[:-1], corners[1:], strict=True):
            length = float(np.linalg.norm(end - start))
            done = 0.0
            while done < length - 1e-9:
                until = min(length, done + dash_px - travelled % dash_px)
                if int(travelled // dash_px) % 2 == 0:
                    piece = [tuple(start + (end - start) * at / length) for at in (done, until)]
                    self.draw.line(piece, fill=colour, width=width * _SMOOTHING)
                # Without the floor, rounding could leave a step of no length and the loop would not end.
                travelled += max(until - done, 1e-6)
                done = max(until, done + 1e-6)

    def disc(self, point: NDArray[np.float64], radius_px: float, fill: Colour, outline: Colour) -> None:
        ((x, y),) = self.pixels(point)
        radius = radius_px * _SMOOTHING
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, fill=fill, outline=outline, width=2 * _SMOOTHING)

    def label(self, point: NDArray[np.float64], text: str, colour: Colour, size: int) -> None:
        ((x, y),) = self.pixels(point)
        # A halo keeps it readable on furniture and paths.
        halo = {"stroke_width": 2 * _SMOOTHING, "stroke_fill": _PAPER}
        self.draw.text((x, y), text, fill=colour, font=_font(size * _SMOOTHING), anchor="mm", **halo)


def _draw_plan(episode: EpisodePicture) -> Image.Image:
    plan = _Plan(episode)
    if episode.floor_plan is not None:
        _draw_building(plan, episode.floor_plan, episode.target)
    _draw_goal(plan, episode)
    plan.dashed(plan.reference, _SHORTEST, 2)
    plan.line(plan.taken, _TAKEN, 3)
    for point in plan.taken:
        plan.disc(point, 2.0, _TAKEN, _TAKEN)
    _draw_ends(plan, episode)
    if episode.floor_plan is not None and episode.target is not None:
        wanted = episode.floor_plan.objects[episode.target]
        plan.label(np.array([wanted.rect.centre[0], wanted.rect.y1 + 0.25]), wanted.name, _GOAL, 12)
    return plan.image.resize(_PLAN_SIZE, Image.Resampling.BOX)


def _draw_building(plan: _Plan, floor_plan: FloorPlan, target: int | None) -> None:
    for room in floor_plan.rooms:
        plan.draw.polygon(plan.pixels(_corners(room.rect)), fill=room.rgb)
    for index, item in enumerate(floor_plan.objects):
        outline, width = (_GOAL, 4) if index == target else (_INK, 1)
        corners = plan.pixels(_corners(item.rect))
        plan.draw.polygon(corners, fill=item.rgb, outline=outline, width=width * _SMOOTHING)
    for wall in floor_plan.walls:
        plan.draw.polygon(plan.pixels(_corners(wall)), fill=_INK)
    for room in floor_plan.rooms:
        plan.label(np.array([room.rect.centre[0], room.rect.y1 - 0.35]), room.name, _MUTED, 11)


def _draw_goal(plan: _Plan, episode: EpisodePicture) -> None:
    if not len(plan.goal):
        return
    angles = np.linspace(0.0, 2 * math.pi, 49)
    circle = plan.goal[0] + episode.radius_m * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    plan.dashed(circle, _GOAL, 2, dash_px=9.0)
    plan.disc(plan.goal[0], 4.0, _PAPER, _GOAL)


def _draw_ends(plan: _Plan, episode: EpisodePicture) -> None:
    if not len(plan.taken):
        return
    start, end = plan.taken[0], plan.taken[-1]
    if episode.start_heading is not None:
        radians = math.radians(episode.start_heading)
        direction = np.array([math.cos(radians), math.sin(radians)])
        side = np.array([-direction[1], direction[0]])
        reach = 34 / plan.pixels_per_metre * _SMOOTHING
        tip = start + direction * reach
        plan.line(np.stack([start, tip]), _GOOD, 3)
        head = np.stack([tip + direction * reach * 0.3, tip + side * reach * 0.2, tip - side * reach * 0.2])
        plan.draw.polygon(plan.pixels(head), fill=_GOOD)
    plan.disc(start, 7.0, _PAPER, _GOOD)
    colour = _GOOD if episode.succeeded else _BAD
    arm = 8 / plan.pixels_per_metre * _SMOOTHING
    for corner in ((arm, arm), (arm, -arm)):
        plan.line(np.stack([end - corner, end + corner]), colour, 4)


def _draw_legend(canvas: Image.Image, episode: EpisodePicture, corner: tuple[int, int]) -> None:
    draw, font = ImageDraw.Draw(canvas), _font(12)
    x, y = corner
    entries = (
        (_GOOD, "start"),
        (_TAKEN, "path taken"),
        (_SHORTEST, "reference path"),
        (_GOOD if episode.succeeded else _BAD, "end"),
        (_GOAL, f"goal and {episode.radius_m:g} m radius"),
    )
    for colour, text in entries:
        draw.rectangle((x, y + 3, x + 12, y + 13), fill=colour)
        draw.text((x + 18, y), text, fill=_INK, font=font)
        x += 18 + int(font.getlength(text)) + 18


def _draw_strip(canvas: Image.Image, episode: EpisodePicture, corner: tuple[int, int], wanted: int) -> None:
    draw = ImageDraw.Draw(canvas)
    steps = sample_steps(min(len(episode.frames), len(episode.actions)), wanted)
    for place, step in enumerate(steps):
        x = corner[0] + place % _COLUMNS * (_TILE + 6)
        y = corner[1] + place // _COLUMNS * (_TILE + _CAPTION)
        frame = Image.fromarray(np.ascontiguousarray(episode.frames[step], dtype=np.uint8))
        scale = _TILE / max(frame.size)
        size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        canvas.paste(frame.resize(size, Image.Resampling.BILINEAR), (x, y))
        name = Action(episode.actions[step]).name.lower().replace("_", " ")
        draw.text((x + 2, y + size[1] + 3), f"{step}: {name}", fill=_INK, font=_font(13))
