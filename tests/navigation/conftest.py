import pytest
from house_helpers import EPISODES_PER_LEVEL, LEVEL_NAMES, Driven, drive_expert

from pgn_vln.navigation.house_env import HouseEnv


@pytest.fixture(scope="session")
def driven_by_level() -> dict[str, list[Driven]]:
    """The searching expert's walks through the first validation episodes of every level, without frames."""
    walks = {}
    for level in LEVEL_NAMES:
        env = HouseEnv(level, "val", EPISODES_PER_LEVEL[level], render=False)
        walks[level] = [drive_expert(env, name) for name in env.episodes()]
    return walks
