"""The contract between a simulator and everything that navigates in it.

Rollouts, DAgger, evaluation and reports know only `NavEnv`; which simulator stands behind it is a setting.
Positions are metres in the simulator's own frame, ``[x, y]`` or ``[x, y, z]``; headings are degrees.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from modeling_pgn.prompting_pgn import Action


class Rect(NamedTuple):
    """An axis-aligned rectangle on the floor, metres."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the rectangle, metres."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


@dataclass(frozen=True)
class Landmark:
    """Something on a floor plan that has a name: a room, a door or a piece of furniture.

    Attributes:
        name: What one would call it, e.g. ``"kitchen"`` or ``"red chair"``.
        rect: Its outline on the floor, metres.
        rgb: A colour to draw it in, three integers from 0 to 255.
    """

    name: str
    rect: Rect
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class FloorPlan:
    """What a report draws under a path; all in metres.

    Attributes:
        bounds: The outline of the building.
        walls: Solid wall pieces.
        rooms: Rooms, doorways included.
        objects: Furniture.
    """

    bounds: Rect
    walls: tuple[Rect, ...]
    rooms: tuple[Landmark, ...]
    objects: tuple[Landmark, ...]


@dataclass(frozen=True)
class Observation:
    """What the agent perceives at one step.

    Attributes:
        rgb: The frame, uint8 ``[H, W, 3]``.
        instruction: The instruction of the episode, the same at every step.
        info: ``info["collided"]`` says whether the last forward move was shortened or deflected.
    """

    rgb: np.ndarray
    instruction: str
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeInfo:
    """What is known about an episode without driving it.

    Attributes:
        episode_id: Letters, digits and underscores.
        level: Name of the level or data set split group the episode belongs to.
        start_position: ``[2]`` or ``[3]``, metres.
        start_heading: Degrees, counter-clockwise from +x.
        goal_position: Like `start_position`.
        instruction: The instruction, English.
        reference_path: ``[N, 2]`` or ``[N, 3]``, metres: the shortest path from start to goal, a point every 0.25 m
            (nDTW compares with it). It is never the walk of an expert that had to search.
        floor_plan: For drawing, where the simulator knows one.
    """

    episode_id: str
    level: str
    start_position: np.ndarray
    start_heading: float
    goal_position: np.ndarray
    instruction: str
    reference_path: np.ndarray
    floor_plan: FloorPlan | None = None


@runtime_checkable
class NavEnv(Protocol):
    """A simulator that runs one episode at a time."""

    def episodes(self) -> list[str]:
        """Ids of all episodes, in a fixed order."""
        ...

    def episode_info(self, episode_id: str) -> EpisodeInfo:
        """Describe an episode; it needs no `reset`."""
        ...

    def reset(self, episode_id: str) -> Observation:
        """Put the agent at the start of an episode and return what it sees there."""
        ...

    def step(self, action: Action | int) -> tuple[Observation, bool]:
        """Do one action; the flag says that the episode is over (STOP, or out of steps)."""
        ...

    def position(self) -> np.ndarray:
        """Where the agent stands, ``[2]`` or ``[3]``, metres."""
        ...

    def heading(self) -> float:
        """Where the agent looks, degrees counter-clockwise from +x."""
        ...

    def geodesic(self, a: np.ndarray, b: np.ndarray) -> float:
        """Walking distance from `a` to `b`, metres; ``inf`` where no way leads."""
        ...

    def expert_action(self) -> Action:
        """What the expert would do now; valid from any pose, whoever drove there, and without side effects."""
        ...

    def close(self) -> None:
        """Free what the simulator holds."""
        ...
