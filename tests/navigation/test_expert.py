import numpy as np
import pytest
from house_helpers import EPISODES_PER_LEVEL, LEVEL_NAMES, drive_expert, succeeded

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.house_env import HouseEnv
from pgn_vln.navigation.houses import LEVELS
from pgn_vln.navigation.visibility import Sight


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_the_searching_expert_succeeds(driven_by_level, level):
    walks = driven_by_level[level]
    assert len(walks) == EPISODES_PER_LEVEL[level]
    assert sum(map(succeeded, walks)) >= 0.98 * len(walks)
    assert max(len(driven.actions) for driven in walks) <= LEVELS[level].max_steps
    # No episode begins within reach of its goal.
    assert min(driven.start_distance_m for driven in walks) >= LEVELS[level].min_path_m


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_the_shortest_path_expert_succeeds_and_is_not_slower(driven_by_level, level):
    env = HouseEnv(level, "val", 30, render=False, expert="shortest_path")
    walks = [drive_expert(env, name) for name in env.episodes()]
    assert sum(map(succeeded, walks)) >= 0.98 * len(walks)
    searching = sum(len(driven.actions) for driven in driven_by_level[level][:30])
    assert sum(len(driven.actions) for driven in walks) <= searching


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_from_any_pose_the_expert_finds_the_goal(level):
    env = HouseEnv(level, "val", 12, render=False, max_steps=400)
    rng = np.random.default_rng(0)
    for name in env.episodes():
        env.reset(name)
        episode = env._cache[name]
        reachable = np.argwhere(np.isfinite(episode.grid.field(episode.goal).distances))
        for _ in range(2):
            env.reset(name)
            env.set_pose(episode.grid.centres(reachable[rng.integers(len(reachable))]), int(rng.integers(24)))
            done = False
            while not done:
                action = env.expert_action()
                _, done = env.step(action)
            assert action == Action.STOP
            assert env.geodesic(env.position(), episode.goal) < 1.0


@pytest.mark.parametrize("expert", ["searching", "shortest_path"])
def test_driven_about_by_somebody_else_it_still_gets_there(expert):
    env = HouseEnv("two_rooms", "val", 8, render=False, max_steps=400, expert=expert)
    rng = np.random.default_rng(1)
    for name in env.episodes():
        env.reset(name)
        for _ in range(60):
            assert env.expert_action() in set(Action)
            env.step(int(rng.integers(1, 4)))
        done = False
        while not done:
            action = env.expert_action()
            _, done = env.step(action)
        assert action == Action.STOP
        assert env.geodesic(env.position(), env.episode_info(name).goal_position) < 1.0


def test_asking_changes_nothing():
    env = HouseEnv("house", "val", 3, render=False)
    for name in env.episodes():
        once = drive_expert(env, name).actions
        env.reset(name)
        often, done = [], False
        while not done:
            answers = {env.expert_action() for _ in range(3)}
            assert len(answers) == 1
            often.append(int(answers.pop()))
            _, done = env.step(often[-1])
        assert often == once


def test_it_searches_by_turning_left_and_stops_in_front_of_what_it_sees():
    turned, faced = 0, 0
    for level in LEVEL_NAMES:
        env = HouseEnv(level, "val", 12, render=False)
        for name in env.episodes():
            env.reset(name)
            episode = env._cache[name]
            sight = Sight(episode.house, env.camera)
            doors = range(len(episode.house.doors))
            place, heading = env.position(), env.heading()
            if not sight.sees_furniture(place, heading, episode.target) and not any(
                sight.sees_door(place, heading, door)
                or np.hypot(*(np.array(episode.house.doors[door].centre) - place)) < 0.7
                for door in doors
            ):
                assert env.expert_action() == Action.TURN_LEFT
                turned += 1
            done = False
            while not done:
                _, done = env.step(env.expert_action())
            x, y = episode.house.furniture[episode.target].rect.centre
            bearing = np.degrees(np.arctan2(y - env.position()[1], x - env.position()[0]))
            assert abs((bearing - env.heading() + 180) % 360 - 180) <= 7.5 + 1e-6
            faced += sight.sees_furniture(env.position(), env.heading(), episode.target)
    assert turned >= 8
    assert faced == 36
