"""An open plain to walk on: the smallest simulator that speaks `NavEnv`."""

import math

import numpy as np

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.env import EpisodeInfo, Observation


class OpenField:
    """Episode ``walk_k`` has its goal k metres east of the start; steps are 1 m, geodesics Euclidean."""

    def __init__(self, count, max_steps=10):
        self.ids = [f"walk_{number}" for number in range(1, count + 1)]
        self.max_steps = max_steps
        self.resets = []

    def episodes(self):
        return list(self.ids)

    def episode_info(self, episode_id):
        goal = np.array([float(episode_id.split("_")[1]), 0.0])
        start = np.zeros(2)
        path = np.stack([start, goal])
        return EpisodeInfo(episode_id, "plain", start, 0.0, goal, f"Walk to {goal[0]:g}.", path)

    def reset(self, episode_id):
        self.resets.append(episode_id)
        self.at, self.facing, self.steps = np.zeros(2), 0.0, 0
        self.instruction = self.episode_info(episode_id).instruction
        return self._observe()

    def step(self, action):
        if action == Action.MOVE_FORWARD:
            angle = math.radians(self.facing)
            self.at = self.at + np.array([math.cos(angle), math.sin(angle)])
        elif action != Action.STOP:
            self.facing += 15.0 if action == Action.TURN_LEFT else -15.0
        self.steps += 1
        return self._observe(), action == Action.STOP or self.steps >= self.max_steps

    def _observe(self):
        return Observation(np.full((6, 6, 3), 90, dtype=np.uint8), self.instruction, {"collided": False})

    def position(self):
        return self.at.copy()

    def heading(self):
        return self.facing

    def geodesic(self, a, b):
        return float(np.linalg.norm(np.asarray(a) - np.asarray(b)))

    def expert_action(self):
        raise NotImplementedError

    def close(self):
        pass


class Walker:
    """Walks a number of steps and stops; None never stops."""

    def __init__(self, steps):
        self.steps = steps

    def reset(self, instruction, episode_id):
        self.done = 0

    def act(self, observation):
        self.done += 1
        return Action.STOP if self.steps is not None and self.done > self.steps else Action.MOVE_FORWARD
