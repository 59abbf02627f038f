import numpy as np
import pytest
from house_helpers import LEVEL_NAMES

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.env import NavEnv
from pgn_vln.navigation.house_env import HouseEnv


def make(**settings) -> HouseEnv:
    return HouseEnv(**({"level": "one_room", "split": "test", "num_episodes": 3, "render": False} | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "castle"}, r"level 'castle' is unknown; expected one of \['one_room', 'two_rooms', 'house'"),
        ({"split": "dev"}, r"split 'dev' is unknown; expected one of \['train', 'val', 'test'\]"),
        ({"expert": "psychic"}, r"expert 'psychic' is unknown; expected one of \['searching', 'shortest_path'\]"),
        ({"turn_degrees": 25}, r"turn_degrees 25 does not divide 360; expected e.g. 15"),
        ({"turn_degrees": 0}, r"turn_degrees 0 does not divide 360"),
        ({"turn_degrees": 22.5}, r"turn_degrees 22.5 does not divide 360"),
        ({"image_size": 4}, r"image_size 4 is out of range; expected 8 to 1024"),
        ({"hfov_degrees": 180}, r"hfov_degrees 180 is out of range; expected 30 to 150"),
        ({"step_m": 0.0}, r"step_m 0.0 is not positive"),
        ({"step_m": float("nan")}, r"step_m nan is not positive"),
        ({"seed": -1}, r"seed -1 is negative"),
        ({"max_steps": 0}, r"max_steps 0 is not positive"),
        ({"num_episodes": 0}, r"num_episodes 0 is not positive"),
        ({"num_episodes": None}, r"give either num_episodes or episode_ids"),
        ({"episode_ids": ["one_room_test_000000"]}, r"give either num_episodes or episode_ids"),
        (
            {"num_episodes": None, "episode_ids": ["house_test_000000"]},
            r"episode_id 'house_test_000000' does not belong to level 'one_room' and split 'test'",
        ),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("name", ["nonsense", "one_room_test_12", "castle_test_000001", "one_room_dev_000001", ""])
def test_unknown_episodes_are_named(name):
    with pytest.raises(ValueError, match=f"unknown episode_id '{name}': expected <level>_<split>_<six digits>"):
        make().reset(name)


def test_an_episode_of_another_split_is_refused():
    with pytest.raises(ValueError, match="this environment has level 'one_room' and split 'test'"):
        make().reset("one_room_train_000000")


def test_using_it_out_of_turn_is_refused():
    env = make()
    for call in (lambda: env.step(1), env.expert_action, lambda: env.geodesic(np.zeros(2), np.zeros(2))):
        with pytest.raises(RuntimeError, match=r"before an episode was begun; call reset\(episode_id\) first"):
            call()
    env.reset(env.episodes()[0])
    with pytest.raises(ValueError, match="action 7 is unknown; expected one of 0 STOP, 1 MOVE_FORWARD"):
        env.step(7)
    env.step(Action.STOP)
    with pytest.raises(RuntimeError, match=r"after the episode was over; call reset\(episode_id\) first"):
        env.step(Action.MOVE_FORWARD)


def test_it_is_a_navenv_and_names_its_episodes():
    env = make(seed=3)
    assert isinstance(env, NavEnv)
    assert env.episodes() == ["one_room_test_s3_000000", "one_room_test_s3_000001", "one_room_test_s3_000002"]
    assert make().episodes()[2] == "one_room_test_000002"
    assert make(num_episodes=None, episode_ids=["one_room_test_000009"]).episodes() == ["one_room_test_000009"]
    # The seed of a house is in the name of its episode, so that a name always means one house.
    assert (
        env.episode_info("one_room_test_000002").instruction == make().episode_info(make().episodes()[2]).instruction
    )


@pytest.mark.parametrize("level", LEVEL_NAMES)
def test_what_is_told_about_an_episode(level):
    env = make(level=level, num_episodes=10)
    for name in env.episodes():
        info = env.episode_info(name)
        observation = env.reset(name)
        assert observation.instruction == info.instruction
        assert observation.info == {"collided": False}
        assert np.array_equal(env.position(), info.start_position) and env.heading() == info.start_heading
        assert info.start_heading % 15 == 0
        path = info.reference_path
        assert np.array_equal(path[0], info.start_position) and np.array_equal(path[-1], info.goal_position)
        length = np.hypot(*np.diff(path, axis=0).T).sum()
        assert length == pytest.approx(env.geodesic(info.start_position, info.goal_position), rel=0.05)
        plan = info.floor_plan
        assert len(plan.rooms) >= {"one_room": 1, "two_rooms": 2, "house": 3}[level]
        target = env._cache[name].house.furniture[env._cache[name].target]
        goal_gap = np.hypot(
            max(target.rect.x0 - path[-1][0], path[-1][0] - target.rect.x1, 0),
            max(target.rect.y0 - path[-1][1], path[-1][1] - target.rect.y1, 0),
        )
        assert 0.4 <= goal_gap <= 0.65
        # The first view is not a wall in front of one's nose.
        ahead = np.array([np.cos(np.radians(info.start_heading)), np.sin(np.radians(info.start_heading))])
        for distance in np.arange(0.0, 1.0, 0.05):
            x, y = info.start_position + distance * ahead
            assert not any(w.x0 <= x <= w.x1 and w.y0 <= y <= w.y1 for w in plan.walls)


def test_a_full_turn_and_a_step_and_its_end():
    env = make(max_steps=26)
    env.reset(env.episodes()[0])
    start, heading = env.position(), env.heading()
    for turn in range(1, 25):
        _, done = env.step(Action.TURN_LEFT)
        assert env.heading() == (heading + 15 * turn) % 360 and not done
    assert np.array_equal(env.position(), start)
    observation, done = env.step(Action.MOVE_FORWARD)
    assert not done and not observation.info["collided"]
    assert np.hypot(*(env.position() - start)) == pytest.approx(0.25)
    # The 26th action is the last one, whatever it is.
    assert env.step(Action.TURN_RIGHT)[1]
    assert env.heading() == (heading - 15) % 360


def test_bumping_into_a_wall_is_reported():
    env = make(max_steps=60)
    env.reset(env.episodes()[0])
    collisions = [env.step(Action.MOVE_FORWARD)[0].info["collided"] for _ in range(40)]
    # Six metres of room at most: sooner or later there is a wall, and a turn on the spot is no collision.
    assert not collisions[0] and collisions[-1]
    assert not env.step(Action.TURN_LEFT)[0].info["collided"]


def test_without_sliding_one_stays_where_one_bumped():
    for sliding in (True, False):
        env = make(sliding=sliding, num_episodes=20, max_steps=60)
        moved = []
        for name in env.episodes():
            env.reset(name)
            while not env.step(Action.MOVE_FORWARD)[0].info["collided"]:
                pass
            before = env.position()
            env.step(Action.MOVE_FORWARD)
            moved.append(np.hypot(*(env.position() - before)))
        assert (max(moved) > 0.1) == sliding


def test_frames_follow_the_agent(needs_renderer):
    env = make(render=True, image_size=32)
    first = env.reset(env.episodes()[0]).rgb
    assert first.shape == (32, 32, 3) and first.std() > 5
    turned = env.step(Action.TURN_LEFT)[0].rgb
    assert not np.array_equal(turned, first)
    assert np.array_equal(env.step(Action.TURN_RIGHT)[0].rgb, first)
    # An observation is the caller's own: a later step does not change it.
    assert not np.array_equal(turned, first)
    env.close()
    assert np.array_equal(env.reset(env.episodes()[0]).rgb, first)
    env.close()
