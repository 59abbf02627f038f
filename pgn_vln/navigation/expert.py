"""Experts: what should be done at a pose.

`SearchingExpert` is realisable: it uses what the agent could have seen. While neither the target nor the next door on
the way is in view it keeps turning left; then it goes. A shortest-path expert turns towards things that nobody can
know yet, and cannot be imitated from frames.
"""

from typing import Literal, Protocol, get_args

import numpy as np

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.episodes import HouseEpisode
from pgn_vln.navigation.motion import move_forward
from pgn_vln.navigation.visibility import Sight

ExpertName = Literal["searching", "shortest_path"]
EXPERTS: tuple[str, ...] = get_args(ExpertName)

ARRIVED_M = 0.3
# A heading as good as the best one, up to this, is kept: turning by 15 degrees to save a centimetre is no gain.
HEADING_TOLERANCE_M = 0.02
COLLISION_COST_M = 0.05
AT_THE_DOOR_M = 0.6


class Expert(Protocol):
    """Tells the right action at a pose."""

    def observe(self, position: np.ndarray, heading: float) -> None:
        """Take note of a pose that the agent has reached (``[2]`` metres, degrees); called once per pose."""
        ...

    def action(self, position: np.ndarray, heading: float) -> Action:
        """The right action at the pose that was observed last; changes nothing."""
        ...


class ShortestPathExpert:
    """Goes the shortest way to the goal, faces the target, and stops.

    Args:
        episode: The episode.
        turn_degrees: Angle of a turn.
        step_m: Length of a step.
        sliding: Whether the agent slides along obstacles.
    """

    def __init__(self, episode: HouseEpisode, turn_degrees: int, step_m: float, sliding: bool) -> None:
        self.episode = episode
        self.turn_degrees = turn_degrees
        self.step_m = step_m
        self.sliding = sliding
        self._field = episode.grid.field(episode.goal)
        self._turns = np.arange(360 // turn_degrees)
        # 0, 1, -1, 2, -2, ... turns to the left: among equals the nearest heading wins, left before right.
        signed = np.where(self._turns * 2 > len(self._turns), self._turns - len(self._turns), self._turns)
        self._signed_turns = signed[np.lexsort((-signed, np.abs(signed)))]

    def observe(self, position: np.ndarray, heading: float) -> None:
        """Nothing: every pose tells all."""

    def action(self, position: np.ndarray, heading: float) -> Action:
        """The right action at the pose that was observed last (``[2]`` metres, degrees)."""
        if float(self._field.at(position[None])[0]) <= ARRIVED_M:
            return self._face_target(position, heading)
        return self._approach(position, heading)

    def _face_target(self, position: np.ndarray, heading: float) -> Action:
        x, y = self.episode.house.furniture[self.episode.target].rect.centre
        bearing = np.degrees(np.arctan2(y - position[1], x - position[0]))
        error = (bearing - heading + 180.0) % 360.0 - 180.0
        if abs(error) <= self.turn_degrees / 2 + 1e-6:
            return Action.STOP
        return Action.TURN_LEFT if error > 0 else Action.TURN_RIGHT

    def _approach(self, position: np.ndarray, heading: float) -> Action:
        """Turn to, or follow, the heading that leaves the shortest way after two steps.

        The best heading depends on the position alone, so turning towards it never oscillates (aiming at waypoints
        does).
        """
        headings = heading + self._signed_turns * self.turn_degrees
        places, scores = np.repeat(position[None], len(headings), axis=0), None
        collisions = np.zeros(len(headings))
        for _ in range(2):
            places, collided = move_forward(self.episode.grid, places, headings, self.step_m, self.sliding)
            collisions += collided
            left = self._field.at(places)
            # The nearer of the two: right before the goal a second step walks past it.
            scores = left if scores is None else np.minimum(left, scores)
        scores = np.round(scores + COLLISION_COST_M * collisions, 6)
        best = int(scores.argmin())
        if scores[0] <= scores[best] + HEADING_TOLERANCE_M:
            return Action.MOVE_FORWARD
        return Action.TURN_LEFT if self._signed_turns[best] > 0 else Action.TURN_RIGHT


class SearchingExpert(ShortestPathExpert):
    """Looks around to the left until the target, or the next door on the way to it, is in view; then goes.

    What it has seen it remembers for a while, as a way around a table leads the target out of view. If a whole turn on
    one spot shows nothing, it goes on without (the target stands behind something), until something is in view.
    It may be asked at any pose: a jump, or being driven about by somebody else, only makes it forget.

    Args:
        episode: The episode.
        turn_degrees: Angle of a turn.
        step_m: Length of a step.
        sliding: Whether the agent slides along obstacles.
        sight: What is in view.
    """

    def __init__(self, episode: HouseEpisode, turn_degrees: int, step_m: float, sliding: bool, sight: Sight) -> None:
        super().__init__(episode, turn_degrees, step_m, sliding)
        self.sight = sight
        self._rooms = _room_of_cells(episode)
        self._memory = 360 // turn_degrees
        self._last_position: np.ndarray | None = None
        self._door_ahead: int | None = None
        # The way is known by: the index of a door, or -1 for the target itself, with the observations since.
        self._known: dict[int, int] = {}
        self._looked: set[int] = set()
        self._blind = False

    def observe(self, position: np.ndarray, heading: float) -> None:
        """Take note of what is in view at a pose (``[2]`` metres, degrees)."""
        last = self._last_position
        if last is None or float(np.hypot(*(position - last))) > 1.5 * self.step_m:
            self._known, self._blind = {}, False
        if last is None or not np.array_equal(position, last):
            self._looked = set()
            self._door_ahead = self._next_door(position)
        self._last_position = position.copy()
        self._known = {key: age + 1 for key, age in self._known.items() if age + 1 <= self._memory}
        seen = self._landmark_in_view(position, heading)
        if seen is not None:
            self._known[seen] = 0
            self._blind, self._looked = False, set()
            return
        self._looked.add(round(heading / self.turn_degrees) % len(self._turns))
        if len(self._looked) == len(self._turns):
            self._blind = True

    def action(self, position: np.ndarray, heading: float) -> Action:
        """The right action at the pose that was observed last (``[2]`` metres, degrees)."""
        if float(self._field.at(position[None])[0]) <= ARRIVED_M:
            return self._face_target(position, heading)
        if self._blind or -1 in self._known or self._door_ahead in self._known:
            return self._approach(position, heading)
        return Action.TURN_LEFT

    def _landmark_in_view(self, position: np.ndarray, heading: float) -> int | None:
        """-1 if the target is in view, else the index of the next door if that is, else None."""
        if self.sight.sees_furniture(position, heading, self.episode.target):
            return -1
        door = self._door_ahead
        if door is None:
            return None
        centre = self.episode.house.doors[door].centre
        # Standing in a doorway one knows it, though it is not in view.
        near = float(np.hypot(centre[0] - position[0], centre[1] - position[1])) < AT_THE_DOOR_M
        return door if near or self.sight.sees_door(position, heading, door) else None

    def _next_door(self, position: np.ndarray) -> int | None:
        """Index of the first door on the shortest way from here to the goal, or None within the target's room."""
        house = self.episode.house
        room = house.room_at(*position)
        if len(house.rooms) == 1 or room == house.room_at(*self.episode.goal):
            return None
        way = self._field.trace(position)
        if way is None:
            return None
        rooms = self._rooms[way[:, 0], way[:, 1]]
        elsewhere = np.flatnonzero(rooms != room)
        if not len(elsewhere):
            return None
        # Two rooms share one wall, and a wall has one door.
        pair = tuple(sorted((room, int(rooms[elsewhere[0]]))))
        return next((index for index, door in enumerate(house.doors) if door.rooms == pair), None)


def _room_of_cells(episode: HouseEpisode) -> np.ndarray:
    """Index of the room of every grid cell, by the same rule as `House.room_at`."""
    rows, columns = np.indices(episode.grid.shape)
    centres = episode.grid.centres(np.stack([rows, columns], axis=-1))
    rooms = np.full(episode.grid.shape, -1)
    for index, room in enumerate(episode.house.rooms):
        x0, y0, x1, y1 = room.cell
        inside = (centres >= (x0, y0)) & (centres < (x1, y1))
        rooms[inside.all(axis=-1)] = index
    return rooms
