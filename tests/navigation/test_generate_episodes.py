import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgn_vln.formats import GENERATION_FILE
from pgn_vln.navigation import episodes, generate
from pgn_vln.navigation.generate import generate_episodes
from pgn_vln.navigation.house_env import HouseEnv

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("needs_renderer")


def write(out_dir, num_episodes=4, **settings):
    settings = {"level": "one_room", "split": "train", "image_size": 32, "progress": False} | settings
    return generate_episodes(num_episodes=num_episodes, out_dir=out_dir, **settings)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_every_json_has_its_frames(folder: Path) -> int:
    trajectories = sorted(folder.glob("traj_*.json"))
    for path in trajectories:
        trajectory = json.loads(path.read_text())
        images = folder / f"ep_{trajectory['episode_id']}_images"
        assert sorted(image.name for image in images.iterdir()) == [s["image_path"] for s in trajectory["steps"]]
        for step in trajectory["steps"]:
            Image.open(images / step["image_path"]).load()
    return len(trajectories)


@pytest.fixture(scope="module")
def four_episodes(tmp_path_factory, needs_renderer) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    write(folder)
    return folder


def test_the_format(four_episodes):
    report = write(four_episodes)
    assert report.present == report.episodes == 4 and not report.refused
    frames, histogram = 0, dict.fromkeys(report.actions, 0)
    names = ["stop", "move_forward", "turn_left", "turn_right"]
    env = HouseEnv("one_room", "train", 4, image_size=32)
    for name in env.episodes():
        trajectory = json.loads((four_episodes / f"traj_{name}.json").read_text())
        assert list(trajectory) == ["episode_id", "instruction", "steps"]
        assert trajectory["episode_id"] == name
        observation, done = env.reset(name), False
        assert trajectory["instruction"] == observation.instruction
        for index, step in enumerate(trajectory["steps"]):
            assert step.keys() == {"image_path", "action"}
            assert step["image_path"] == f"{index:06d}.png"
            # What is seen before the action, without any loss.
            seen = np.asarray(Image.open(four_episodes / f"ep_{name}_images" / step["image_path"]))
            assert np.array_equal(seen, observation.rgb)
            assert step["action"] == env.expert_action() and not done
            observation, done = env.step(step["action"])
            histogram[names[step["action"]]] += 1
            frames += 1
        assert step["action"] == 0 and done
    env.close()
    assert (report.frames, report.actions) == (frames, histogram)
    settings = json.loads((four_episodes / GENERATION_FILE).read_text())
    assert settings["level"] == "one_room" and settings["turn_degrees"] == 15 and settings["expert"] == "searching"


def test_two_processes_write_the_same_bytes(four_episodes, tmp_path):
    report = write(tmp_path / "two", num_proc=2)
    assert report.episodes == 4
    assert content(tmp_path / "two") == content(four_episodes)


def test_more_episodes_are_added_to_those_present(four_episodes, tmp_path):
    assert write(tmp_path, num_episodes=2).present == 0
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    report = write(tmp_path, num_episodes=4)
    assert (report.present, report.episodes) == (2, 4)
    assert content(tmp_path) == content(four_episodes)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())


@pytest.mark.parametrize("where", ["in the frames", "before the json", "in the json"])
def test_a_run_that_dies_is_continued(four_episodes, tmp_path, monkeypatch, where):
    calls = {"count": 0}

    def dying(function, at):
        def wrapped(*args, **kwargs):
            calls["count"] += 1
            if calls["count"] == at:
                if where == "in the json":
                    # What a kill leaves while the file is being written beside its place.
                    Path(args[0]).with_name(f".{Path(args[0]).name}.x1").write_text('{"episode_id": ')
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        if where == "in the frames":
            patch.setattr(Image.Image, "save", dying(Image.Image.save, 25))
        else:
            # The first call writes the settings.
            patch.setattr(generate, "write_json_atomic", dying(generate.write_json_atomic, 4))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    done = check_every_json_has_its_frames(tmp_path)
    assert 0 < done < 4
    assert content(tmp_path) != content(four_episodes)
    report = write(tmp_path)
    assert (report.present, report.episodes) == (done, 4)
    assert content(tmp_path) == content(four_episodes)


def test_a_killed_process_leaves_whole_episodes(tmp_path):
    script = (
        "from pgn_vln.navigation.generate import generate_episodes\n"
        f"generate_episodes('one_room', 'train', 500, {str(tmp_path)!r}, image_size=32, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("traj_*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another run is writing episodes into .*; wait until it has ended"):
            write(tmp_path, num_episodes=3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 3 <= check_every_json_has_its_frames(tmp_path) < 500
    # The lock of the dead is nobody's.
    assert write(tmp_path, num_episodes=3).present == 3


def test_what_no_run_wrote_is_left_alone(four_episodes, tmp_path):
    foreign = [f"ep_{name}_images" for name in ("17DRP5sb8fy", "one_room_val_000000", "one_room_train_s2_000000")]
    foreign += ["ep_one_room_train_s0_000001_images", "notes"]
    for name in foreign:
        (tmp_path / name).mkdir()
        (tmp_path / name / "000000.png").write_bytes(b"mine")
    for _ in range(2):
        write(tmp_path)
        found = content(tmp_path)
        assert all(found.pop(f"{name}/000000.png") for name in foreign)
        assert found == content(four_episodes)


def test_leftovers_of_a_larger_run_are_removed(four_episodes, tmp_path):
    write(tmp_path)
    for name in ("ep_one_room_train_000007_images", ".unfinished_ep_one_room_train_000008_images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000000.png").write_bytes(b"half")
    (tmp_path / ".generation.json.x1").write_text("{")
    write(tmp_path)
    assert content(tmp_path) == content(four_episodes)


def test_frames_that_a_run_would_replace_are_refused_without_settings(tmp_path):
    picture = tmp_path / "ep_one_room_train_000002_images" / "000000.png"
    picture.parent.mkdir()
    picture.write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds episodes but no generation.json"):
        write(tmp_path)
    assert picture.read_bytes() == b"mine"


@pytest.mark.parametrize("broken", [b'{"level": "one', b"[1]", b"\xff\xfe"])
def test_broken_settings_are_named(tmp_path, broken):
    (tmp_path / GENERATION_FILE).write_bytes(broken)
    with pytest.raises(ValueError, match="generation.json is broken .*; restore it, or choose another out_dir"):
        write(tmp_path)
    assert (tmp_path / GENERATION_FILE).read_bytes() == broken


@pytest.mark.parametrize(
    "broken",
    [
        b'{"episode_id": "one',
        b"[]",
        b"{}",
        b'{"steps": []}',
        b'{"steps": [{"image_path": "000000.png", "action": 9}]}',
    ],
)
def test_a_broken_episode_is_written_anew(four_episodes, tmp_path, caplog, broken):
    shutil.copytree(four_episodes, tmp_path, dirs_exist_ok=True)
    (tmp_path / "traj_one_room_train_000001.json").write_bytes(broken)
    report = write(tmp_path)
    assert (report.present, report.episodes) == (3, 4)
    assert "traj_one_room_train_000001.json" in caplog.text and "writing the episode anew" in caplog.text
    assert content(tmp_path) == content(four_episodes)


def test_an_episode_that_cannot_be_drawn_is_refused_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(episodes, "ATTEMPTS", 0)
    report = write(tmp_path, num_episodes=1)
    assert report.episodes == 0
    assert "gave no valid episode" in report.refused["one_room_train_000000"]


def test_lost_frames_are_written_anew(four_episodes, tmp_path):
    write(tmp_path)
    (tmp_path / "ep_one_room_train_000001_images" / "000003.png").unlink()
    report = write(tmp_path)
    assert (report.present, report.episodes) == (3, 4)
    assert content(tmp_path) == content(four_episodes)


@pytest.mark.parametrize(
    ("setting", "value", "old"),
    [("image_size", 48, 32), ("expert", "shortest_path", "'searching'"), ("seed", 2, 0), ("perturb", 0.2, 0.0)],
)
def test_other_settings_are_refused(four_episodes, setting, value, old):
    before = content(four_episodes)
    with pytest.raises(ValueError, match=f"{setting} is {value!r}, but .* with {setting}={old}; continue with"):
        write(four_episodes, **{setting: value})
    assert content(four_episodes) == before


def test_a_folder_of_unknown_settings_is_refused(tmp_path):
    (tmp_path / "traj_1.json").write_text("{}")
    with pytest.raises(ValueError, match="holds episodes but no generation.json"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_episodes": 0}, "num_episodes 0 is not positive"),
        ({"num_proc": 0}, "num_proc 0 is not positive"),
        ({"success_radius_m": -1.0}, "success_radius_m -1.0 is not positive"),
        ({"perturb": 1.0}, "perturb 1.0 is out of range; expected a share from 0 to below 1"),
        ({"level": "castle"}, "level 'castle' is unknown"),
    ],
)
def test_wrong_settings_leave_nothing_behind(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_perturbed_episodes_are_labelled_by_the_expert(tmp_path):
    report = write(tmp_path, num_episodes=30, perturb=0.25, image_size=16)
    assert report.episodes >= 28
    env = HouseEnv("one_room", "train", 30, render=False, max_steps=1000)
    executed = wrong = 0
    for path in sorted(tmp_path.glob("traj_*.json")):
        trajectory = json.loads(path.read_text())
        env.reset(trajectory["episode_id"])
        for step in trajectory["steps"]:
            assert step["expert_action"] == env.expert_action()
            # Nothing random ever stops an episode, and the expert's stop is always carried out.
            assert (step["action"] == 0) == (step["expert_action"] == 0)
            executed += 1
            wrong += step["action"] != step["expert_action"]
            env.step(step["action"])
        info = env.episode_info(trajectory["episode_id"])
        assert step["action"] == 0 and env.geodesic(env.position(), info.goal_position) < 1.0
    # A random action agrees with the expert's by chance about once in three.
    assert 0.25 * 0.45 < wrong / executed < 0.25


def test_what_the_expert_fails_is_refused_and_said(tmp_path):
    report = write(tmp_path, num_episodes=3, success_radius_m=0.001, image_size=16)
    assert report.episodes == 0 and report.frames == 0
    assert len(report.refused) == 3
    assert all("the expert stopped" in reason and "m from the goal" in reason for reason in report.refused.values())
    assert not list(tmp_path.glob("*_images")) and not list(tmp_path.glob("traj_*"))
