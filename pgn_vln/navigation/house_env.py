"""`HouseEnv`: built-in houses behind the `NavEnv` contract."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.env import EpisodeInfo, Observation
from pgn_vln.navigation.episodes import HouseEpisode, draw_episode, episode_id, parse_episode_id
from pgn_vln.navigation.expert import EXPERTS, Expert, ExpertName, SearchingExpert, ShortestPathExpert
from pgn_vln.navigation.houses import LEVELS, SPLITS
from pgn_vln.navigation.motion import move_forward
from pgn_vln.navigation.renderer import Renderer
from pgn_vln.navigation.visibility import Camera, Sight

_CACHED_EPISODES = 8


class HouseEnv:
    """Instruction following in procedural furnished houses; implements `NavEnv`.

    Every episode has its own house. Two environments with the same settings give the same episodes and the same
    pixels, in any process and in any order.

    Args:
        level: Name of a registered level: ``one_room``, ``two_rooms`` or ``house``.
        split: ``train``, ``val`` or ``test``; no house is in two of them.
        num_episodes: How many episodes, the first ones of the split. Give this or `episode_ids`.
        episode_ids: Which episodes, by name.
        seed: Another seed, other houses.
        image_size: Side of the square frames, pixels.
        turn_degrees: Angle of a turn; must divide 360.
        step_m: Length of a step forward.
        hfov_degrees: Horizontal field of view.
        expert: ``searching`` or ``shortest_path``, see `pgn_vln.navigation.expert`.
        max_steps: Actions after which an episode ends by itself; the level's own number by default.
        sliding: Whether the agent slides along what it bumps into.
        render: False gives black frames and needs no renderer: for experts and geodesics alone.

    Raises:
        ValueError: for a setting that makes no sense, naming it.
    """

    def __init__(
        self,
        level: str,
        split: str,
        num_episodes: int | None = None,
        *,
        episode_ids: Sequence[str] | None = None,
        seed: int = 0,
        image_size: int = 64,
        turn_degrees: int = 15,
        step_m: float = 0.25,
        hfov_degrees: float = 90.0,
        expert: ExpertName = "searching",
        max_steps: int | None = None,
        sliding: bool = True,
        render: bool = True,
    ) -> None:
        check_settings(
            level=level, split=split, seed=seed, image_size=image_size, turn_degrees=turn_degrees, step_m=step_m,
            hfov_degrees=hfov_degrees, expert=expert,
        )  # fmt: skip
        self._ids = _resolve_ids(level, split, seed, num_episodes, episode_ids)
        self.level = LEVELS[level]
        self.split = split
        self.seed = seed
        self.image_size = image_size
        self.turn_degrees = turn_degrees
        self.step_m = step_m
        self.expert = expert
        self.max_steps = int(_positive("max_steps", self.level.max_steps if max_steps is None else max_steps))
        self.sliding = sliding
        self.render = render
        self.camera = Camera(hfov_degrees=hfov_degrees)
        self._renderer: Renderer | None = None
        self._cache: OrderedDict[str, HouseEpisode] = OrderedDict()
        self._episode: HouseEpisode | None = None
        self._expert: Expert | None = None
        self._position = np.zeros(2)
        self._turns = 0
        self._steps = 0
        self._done = True

    def episodes(self) -> list[str]:
        """Ids of all episodes, in a fixed order."""
        return list(self._ids)

    def episode_info(self, episode_id: str) -> EpisodeInfo:
        """Describe an episode.

        Raises:
            ValueError: for an unknown id.
        """
        episode = self._load(episode_id)
        return EpisodeInfo(
            episode_id=episode.episode_id,
            level=self.level.name,
            start_position=episode.start.copy(),
            start_heading=episode.start_heading,
            goal_position=episode.goal.copy(),
            instruction=episode.instruction,
            reference_path=episode.grid.shortest_path(episode.start, episode.goal),
            floor_plan=episode.house.floor_plan(),
        )

    def reset(self, episode_id: str) -> Observation:
        """Put the agent at the start of an episode and return what it sees there.

        Raises:
            ValueError: for an unknown id.
        """
        episode = self._load(episode_id)
        self._episode = episode
        self._position = episode.start.copy()
        self._turns, self._steps, self._done = 0, 0, False
        self._expert = self._make_expert(episode)
        if self.render:
            if self._renderer is None:
                self._renderer = Renderer(self.image_size, self.camera)
            self._renderer.load(episode.house)
        self._expert.observe(self._position, self.heading())
        return self._observe(collided=False)

    def step(self, action: Action | int) -> tuple[Observation, bool]:
        """Do one action; the flag says that the episode is over (STOP, or out of steps).

        Raises:
            RuntimeError: before `reset`, or after the end of the episode.
            ValueError: for something that is no action.
        """
        if self._episode is None or self._done:
            when = "before an episode was begun" if self._episode is None else "after the episode was over"
            raise RuntimeError(f"step({action!r}) {when}; call reset(episode_id) first")
        try:
            action = Action(action)
        except ValueError:
            known = ", ".join(f"{member.value} {member.name}" for member in Action)
            raise ValueError(f"action {action!r} is unknown; expected one of {known}") from None
        collided = False
        if action is Action.MOVE_FORWARD:
            places, collisions = move_forward(
                self._episode.grid, self._position[None], np.array([self.heading()]), self.step_m, self.sliding
            )
            self._position, collided = places[0], bool(collisions[0])
        elif action is not Action.STOP:
            self._turns += 1 if action is Action.TURN_LEFT else -1
        self._steps += 1
        self._done = action is Action.STOP or self._steps >= self.max_steps
        self._expert.observe(self._position, self.heading())
        return self._observe(collided), self._done

    def position(self) -> np.ndarray:
        """Where the agent stands, ``[2]``, metres."""
        return self._position.copy()

    def heading(self) -> float:
        """Where the agent looks, degrees in [0, 360), counter-clockwise from +x."""
        start = self._episode.start_heading if self._episode is not None else 0.0
        return (start + self._turns * self.turn_degrees) % 360.0

    def set_pose(self, position: np.ndarray, turns: int) -> Observation:
        """Put the agent somewhere else, `turns` turns to the left of its start heading; for tests and probes.

        Raises:
            RuntimeError: before `reset`.
            ValueError: if the agent does not fit there.
        """
        if self._episode is None:
            raise RuntimeError("set_pose before an episode was begun; call reset(episode_id) first")
        position = np.asarray(position, dtype=np.float64)
        if not self._episode.grid.is_free(position):
            raise ValueError(f"position {position.tolist()} lies in an obstacle; choose a free point")
        self._position, self._turns = position.copy(), turns
        self._expert.observe(self._position, self.heading())
        return self._observe(collided=False)

    def geodesic(self, a: np.ndarray, b: np.ndarray) -> float:
        """Walking distance from `a` to `b` in the house of the current episode, metres; ``inf`` without a way.

        Raises:
            RuntimeError: before `reset`.
        """
        if self._episode is None:
            raise RuntimeError("geodesic before an episode was begun; call reset(episode_id) first")
        return self._episode.grid.geodesic(a, b)

    def expert_action(self) -> Action:
        """What the expert would do now; valid from any pose, and without side effects.

        Raises:
            RuntimeError: before `reset`.
        """
        if self._expert is None:
            raise RuntimeError("expert_action before an episode was begun; call reset(episode_id) first")
        return self._expert.action(self._position, self.heading())

    def close(self) -> None:
        """Free the renderer; the next `reset` makes a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _load(self, name: str) -> HouseEpisode:
        if name not in self._cache:
            level, split, *_ = parse_episode_id(name)
            if (level, split) != (self.level.name, self.split):
                raise ValueError(
                    f"unknown episode_id {name!r}: this environment has level {self.level.name!r} and split "
                    f"{self.split!r}; take an id from episodes()"
                )
            self._cache[name] = draw_episode(name, self.turn_degrees, self.camera)
            if len(self._cache) > _CACHED_EPISODES:
                self._cache.popitem(last=False)
        return self._cache[name]

    def _make_expert(self, episode: HouseEpisode) -> Expert:
        if self.expert == "shortest_path":
            return ShortestPathExpert(episode, self.turn_degrees, self.step_m, self.sliding)
        sight = Sight(episode.house, self.camera)
        return SearchingExpert(episode, self.turn_degrees, self.step_m, self.sliding, sight)

    def _observe(self, collided: bool) -> Observation:
        if self._renderer is not None:
            rgb = self._renderer.frame(self._position, self.heading())
        else:
            rgb = np.zeros((self.image_size, self.image_size, 3), dtype=np.uint8)
        return Observation(rgb, self._episode.instruction, {"collided": collided})


def check_settings(
    *,
    level: str,
    split: str,
    seed: int,
    image_size: int,
    turn_degrees: int,
    step_m: float,
    hfov_degrees: float,
    expert: str,
) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: naming the field, its value, what was expected, and what to do.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is unknown; expected one of {list(LEVELS)} (or register_level your own)")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; expected one of {list(SPLITS)}")
    if expert not in EXPERTS:
        raise ValueError(f"expert {expert!r} is unknown; expected one of {list(EXPERTS)}")
    if not isinstance(turn_degrees, int) or turn_degrees <= 0 or 360 % turn_degrees:
        raise ValueError(
            f"turn_degrees {turn_degrees!r} does not divide 360; expected e.g. 15 (R2R-CE) or 30 (RxR-CE)"
        )
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; expected 0 or more")
    if not 8 <= image_size <= 1024:
        raise ValueError(f"image_size {image_size} is out of range; expected 8 to 1024 pixels")
    if not 30 <= hfov_degrees <= 150:
        raise ValueError(f"hfov_degrees {hfov_degrees} is out of range; expected 30 to 150")
    _positive("step_m", step_m)


def _positive(field: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{field} {value} is not positive; give a number above 0")
    return value


def _resolve_ids(
    level: str, split: str, seed: int, num_episodes: int | None, episode_ids: Sequence[str] | None
) -> list[str]:
    if (num_episodes is None) == (episode_ids is None):
        raise ValueError("give either num_episodes or episode_ids, and not both")
    if episode_ids is None:
        count = int(_positive("num_episodes", num_episodes))
        return [episode_id(level, split, seed, index) for index in range(count)]
    for name in episode_ids:
        if parse_episode_id(name)[:2] != (level, split):
            raise ValueError(
                f"episode_id {name!r} does not belong to level {level!r} and split {split!r}; "
                "make one environment for each level and split"
            )
    return list(episode_ids)
