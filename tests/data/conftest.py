import json

import pytest
from PIL import Image


@pytest.fixture
def write_episode():
    """Write one episode; frame t is a picture of 8 x 8 pixels whose red is 10 * t."""

    def write(folder, episode_id, actions, instruction="Find the red chair.", expert=None, **changes):
        images = folder / f"ep_{episode_id}_images"
        images.mkdir(parents=True)
        steps = []
        for number, action in enumerate(actions):
            name = f"{number:03d}.png"
            Image.new("RGB", (8, 8), (10 * number % 256, 20, 30)).save(images / name)
            steps.append({"image_path": name, "action": action})
            if expert is not None:
                steps[-1]["expert_action"] = expert[number]
        data = {"episode_id": episode_id, "instruction": instruction, "steps": steps, **changes}
        path = folder / f"traj_{episode_id}.json"
        path.write_text(json.dumps(data))
        return path

    return write


@pytest.fixture
def folder(tmp_path, write_episode):
    """Three episodes of 5, 3 and 4 steps."""
    made = tmp_path / "episodes"
    write_episode(made, "b", [1, 2, 0])
    write_episode(made, "a", [1, 1, 3, 1, 0])
    write_episode(made, "c", [3, 3, 1, 0], expert=[2, 3, 1, 0])
    return made
