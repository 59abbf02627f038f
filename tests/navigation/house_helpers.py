"""The expert's walks, for the tests of houses."""

from dataclasses import dataclass

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.episodes import HouseEpisode, draw_episode
from pgn_vln.navigation.house_env import HouseEnv

LEVEL_NAMES = ("one_room", "two_rooms", "house")
EPISODES_PER_LEVEL = {"one_room": 100, "two_rooms": 100, "house": 60}


@dataclass
class Driven:
    episode: HouseEpisode
    actions: list[int]
    final_distance_m: float
    start_distance_m: float


def drive_expert(env: HouseEnv, name: str) -> Driven:
    env.reset(name)
    info = env.episode_info(name)
    start_distance = env.geodesic(info.start_position, info.goal_position)
    actions, done = [], False
    while not done:
        actions.append(int(env.expert_action()))
        _, done = env.step(actions[-1])
    episode = draw_episode(name, env.turn_degrees, env.camera) if name not in env._cache else env._cache[name]
    return Driven(episode, actions, env.geodesic(env.position(), info.goal_position), start_distance)


def succeeded(driven: Driven) -> bool:
    return driven.actions[-1] == Action.STOP and driven.final_distance_m < 1.0
