"""Drive one episode with a policy, and record where it went; plus the baselines that every result is compared with."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.env import NavEnv, Observation
from pgn_vln.navigation.houses import seeded_random


class Policy(Protocol):
    """Chooses actions. A model needs the instruction and the observations; the episode id only seeds randomness."""

    def reset(self, instruction: str, episode_id: str) -> None:
        """Begin an episode and forget the last one."""
        ...

    def act(self, observation: Observation) -> Action | int:
        """Answer one observation with an action."""
        ...


@dataclass(frozen=True)
class Trajectory:
    """One driven episode, T actions long.

    Attributes:
        episode_id: Which episode.
        instruction: Its instruction.
        positions: ``[T + 1, 2]`` or ``[T + 1, 3]``, metres, the start included.
        headings: ``[T + 1]``, degrees.
        actions: T actions.
        stopped: Whether the last action is STOP. Running out of steps is not stopping.
        collisions: Number of forward moves that were shortened or deflected.
        goal_position: ``[2]`` or ``[3]``, metres.
        reference_path: ``[N, 2]`` or ``[N, 3]``, metres, see `EpisodeInfo`.
        geodesic_start: Walking distance from start to goal, metres.
        geodesic_final: Walking distance from the final position to the goal, metres.
        geodesics: ``[T + 1]``, walking distance to the goal at every position, metres (oracle success needs them).
        frames: What was seen at each position, T + 1 of uint8 ``[H, W, 3]``, if they were kept.
    """

    episode_id: str
    instruction: str
    positions: np.ndarray
    headings: np.ndarray
    actions: list[int]
    stopped: bool
    collisions: int
    goal_position: np.ndarray
    reference_path: np.ndarray
    geodesic_start: float
    geodesic_final: float
    geodesics: np.ndarray
    frames: list[np.ndarray] | None = None


def rollout(
    env: NavEnv, policy: Policy, episode_id: str, max_steps: int | None = None, keep_frames: bool = False
) -> Trajectory:
    """Drive one episode.

    Args:
        env: The simulator.
        policy: Who drives.
        episode_id: Which episode.
        max_steps: Actions after which the episode is cut off; the simulator's own limit holds as well.
        keep_frames: Whether the trajectory holds the frames.

    Raises:
        ValueError: if `max_steps` is not positive.
    """
    if max_steps is not None and max_steps <= 0:
        raise ValueError(f"max_steps {max_steps} is not positive; give a number above 0, or None for no other limit")
    observation = env.reset(episode_id)
    info = env.episode_info(episode_id)
    policy.reset(observation.instruction, episode_id)
    positions, headings = [env.position()], [env.heading()]
    frames, actions, collisions, done = [observation.rgb], [], 0, False
    while not done and (max_steps is None or len(actions) < max_steps):
        action = Action(policy.act(observation))
        observation, done = env.step(action)
        actions.append(int(action))
        positions.append(env.position())
        headings.append(env.heading())
        collisions += bool(observation.info.get("collided", False))
        if keep_frames:
            frames.append(observation.rgb)
    geodesics = _geodesics(env, positions, info.goal_position)
    return Trajectory(
        episode_id=episode_id,
        instruction=observation.instruction,
        positions=np.stack(positions),
        headings=np.array(headings),
        actions=actions,
        stopped=actions[-1] == Action.STOP,
        collisions=collisions,
        goal_position=info.goal_position,
        reference_path=info.reference_path,
        geodesic_start=env.geodesic(info.start_position, info.goal_position),
        geodesic_final=float(geodesics[-1]),
        geodesics=geodesics,
        frames=frames if keep_frames else None,
    )


def _geodesics(env: NavEnv, positions: list[np.ndarray], goal: np.ndarray) -> np.ndarray:
    """Distances to the goal; a turn does not move, so its distance is that of the step before."""
    distances: list[float] = []
    for index, position in enumerate(positions):
        if index and np.array_equal(position, positions[index - 1]):
            distances.append(distances[-1])
        else:
            distances.append(env.geodesic(position, goal))
    return np.array(distances)


class RandomPolicy:
    """Random actions; STOP is as rare as in an expert's episodes, or every episode would be over after four steps.

    Args:
        seed: With the episode id it seeds every episode by itself: results do not depend on the order of episodes.
        stop_probability: Chance of STOP at every step; the rest is shared equally.
    """

    def __init__(self, seed: int = 0, stop_probability: float = 0.02) -> None:
        self.seed = seed
        self.stop_probability = stop_probability
        self._rng = random.Random(seed)

    def reset(self, instruction: str, episode_id: str) -> None:
        """Seed the generator for this episode."""
        self._rng = seeded_random("random-policy", self.seed, episode_id)

    def act(self, observation: Observation) -> Action:
        """Draw an action."""
        if self._rng.random() < self.stop_probability:
            return Action.STOP
        return self._rng.choice((Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT))


class ForwardPolicy:
    """Walks straight ahead and stops when it bumps into something, or after `num_steps` steps.

    It needs neither eyes nor ears: what it scores is what the layout of the episodes gives away.

    Args:
        num_steps: Steps after which it stops anyway.
    """

    def __init__(self, num_steps: int = 20) -> None:
        self.num_steps = num_steps
        self._steps = 0

    def reset(self, instruction: str, episode_id: str) -> None:
        """Begin to count."""
        self._steps = 0

    def act(self, observation: Observation) -> Action:
        """Forward, or STOP."""
        if observation.info.get("collided", False) or self._steps >= self.num_steps:
            return Action.STOP
        self._steps += 1
        return Action.MOVE_FORWARD


class ExpertPolicy:
    """Does what the simulator's expert says.

    Args:
        env: The simulator that is driven; it holds the expert.
    """

    def __init__(self, env: NavEnv) -> None:
        self.env = env

    def reset(self, instruction: str, episode_id: str) -> None:
        """Nothing: the simulator has just been reset."""

    def act(self, observation: Observation) -> Action:
        """The expert's action at the agent's pose."""
        return self.env.expert_action()


class NavigatorPolicy:
    """A policy around anything with ``reset(instruction)`` and ``act(frame)``, as a model's navigator has.

    Args:
        navigator: The object; it gets frames as uint8 ``[H, W, 3]`` and answers with action ids.
    """

    def __init__(self, navigator: Any) -> None:
        self.navigator = navigator

    def reset(self, instruction: str, episode_id: str) -> None:
        """Hand over the instruction."""
        self.navigator.reset(instruction)

    def act(self, observation: Observation) -> Action:
        """Hand over the frame."""
        return Action(self.navigator.act(observation.rgb))


class ShuffledPolicy:
    """A policy that is told the instruction of another episode: what is left of its success needs no language.

    Args:
        policy: Who drives.
        instructions: Of all episodes, by id; each episode is told the next other one, the last the first.
    """

    def __init__(self, policy: Policy, instructions: Mapping[str, str]) -> None:
        self.policy = policy
        names = list(instructions)
        self._told = {}
        for index, name in enumerate(names):
            others = (instructions[other] for other in names[index + 1 :] + names[:index])
            # With one instruction for all there is nothing to shuffle.
            self._told[name] = next((text for text in others if text != instructions[name]), instructions[name])

    def reset(self, instruction: str, episode_id: str) -> None:
        """Hand over the other instruction."""
        self.policy.reset(self._told[episode_id], episode_id)

    def act(self, observation: Observation) -> Action | int:
        """Hand over the observation."""
        return self.policy.act(observation)
