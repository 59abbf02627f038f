import numpy as np
import pytest

from modeling_pgn.prompting_pgn import Action
from pgn_vln.navigation.house_env import HouseEnv
from pgn_vln.navigation.rollout import (
    ExpertPolicy,
    ForwardPolicy,
    NavigatorPolicy,
    RandomPolicy,
    ShuffledPolicy,
    rollout,
)


@pytest.fixture
def env():
    return HouseEnv("one_room", "test", 6, render=False)


def test_a_trajectory_of_the_expert(env):
    for name in env.episodes():
        walk = rollout(env, ExpertPolicy(env), name, keep_frames=True)
        info = env.episode_info(name)
        steps = len(walk.actions)
        assert walk.positions.shape == (steps + 1, 2) and walk.headings.shape == (steps + 1,)
        assert walk.geodesics.shape == (steps + 1,) and len(walk.frames) == steps + 1
        assert walk.stopped and walk.geodesic_final < 1.0
        assert walk.instruction == info.instruction and walk.episode_id == name
        assert walk.geodesic_start == walk.geodesics[0] == env.geodesic(info.start_position, info.goal_position)
        assert walk.geodesic_final == env.geodesic(env.position(), info.goal_position) == walk.geodesics[-1]
        for index, action in enumerate(walk.actions):
            length = np.hypot(*(walk.positions[index + 1] - walk.positions[index]))
            assert length <= 0.25 + 1e-9 if action == Action.MOVE_FORWARD else length == 0
            turn = (walk.headings[index + 1] - walk.headings[index]) % 360
            assert turn == {Action.TURN_LEFT: 15, Action.TURN_RIGHT: 345}.get(action, 0)
            assert walk.geodesics[index] == env.geodesic(walk.positions[index], info.goal_position)


def test_random_episodes_do_not_depend_on_their_order(env):
    names = env.episodes()
    forward = {name: rollout(env, RandomPolicy(5), name).actions for name in names}
    policy = RandomPolicy(5)
    backward = {name: rollout(env, policy, name).actions for name in reversed(names)}
    assert forward == backward
    assert len({tuple(actions) for actions in forward.values()}) == len(names)
    assert {name: rollout(env, RandomPolicy(6), name).actions for name in names} != forward


def test_forward_walks_until_it_bumps_or_is_tired(env):
    for name in env.episodes():
        walk = rollout(env, ForwardPolicy(), name)
        assert walk.actions == [1] * (len(walk.actions) - 1) + [0] and walk.stopped
        assert walk.collisions == 1 or len(walk.actions) == 21
        assert rollout(env, ForwardPolicy(num_steps=1), name).actions == [1, 0]


def test_out_of_steps_is_not_stopped(env):
    name = env.episodes()[0]

    class Turning:
        def reset(self, instruction, episode_id):
            pass

        def act(self, observation):
            return 2

    assert not rollout(env, Turning(), name).stopped
    assert len(rollout(env, Turning(), name).actions) == env.max_steps
    assert len(rollout(env, Turning(), name, max_steps=7).actions) == 7
    with pytest.raises(ValueError, match="max_steps 0 is not positive"):
        rollout(env, Turning(), name, max_steps=0)


def test_a_navigator_needs_only_words_and_frames(env):
    heard = []

    class Navigator:
        def reset(self, instruction):
            heard.append(instruction)

        def act(self, frame):
            heard.append(frame.shape)
            return 1 if len(heard) < 4 else 0

    walk = rollout(env, NavigatorPolicy(Navigator()), env.episodes()[1])
    assert heard == [env.episode_info(env.episodes()[1]).instruction] + [(64, 64, 3)] * 3
    assert walk.actions == [1, 1, 0]


def test_shuffled_instructions_are_those_of_other_episodes(env):
    told = []

    class Listening:
        def reset(self, instruction, episode_id):
            told.append((instruction, episode_id))

        def act(self, observation):
            return 0

    instructions = {name: env.episode_info(name).instruction for name in env.episodes()}
    policy = ShuffledPolicy(Listening(), instructions)
    walks = [rollout(env, policy, name) for name in instructions]
    assert [name for _, name in told] == list(instructions)
    assert all(text != instructions[name] and text in instructions.values() for text, name in told)
    # What is reported is the episode's own instruction, and what was done is what the policy does.
    assert [walk.instruction for walk in walks] == list(instructions.values())
    assert all(walk.actions == [0] for walk in walks)
    # The next *other* one: equal instructions are no shuffling.
    listening = ShuffledPolicy(Listening(), {"a": "go", "b": "go", "c": "stay"})
    told.clear()
    for name in "abc":
        listening.reset("?", name)
    assert [text for text, _ in told] == ["stay", "stay", "go"]
