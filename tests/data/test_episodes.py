import json
import os
import pickle

import pytest
from PIL import Image, ImageFile

from pgn_vln.data.episodes import (
    BadEpisode,
    BadEpisodeError,
    FrameError,
    list_trajectories,
    load_frame,
    read_generation_settings,
    read_trajectory,
    validate_trajectories,
)


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refusal(path, **options):
    with pytest.raises(BadEpisodeError) as caught:
        read_trajectory(path, **options)
    (bad,) = caught.value.bad
    assert bad.file == str(path) and bad.file in str(caught.value) and bad.reason in str(caught.value)
    return bad.reason


def test_reads_an_episode(folder):
    episode = read_trajectory(folder / "traj_c.json", verify_images=True)
    assert (episode.id, episode.instructions) == ("c", ("Find the red chair.",))
    assert episode.frames == tuple(f"ep_c_images/{number:03d}.png" for number in range(4))
    assert episode.actions == (3, 3, 1, 0) and episode.expert_actions == (2, 3, 1, 0)
    assert episode.poses is None and episode.meta == {} and episode.warnings == ()


def test_expert_defaults_to_what_was_done_and_extras_are_kept(tmp_path, write_episode):
    path = write_episode(tmp_path, "x", [1, 0], scene="s1", instructions=["one", "two"])
    edit(path, lambda data: [step.update(pose=[number, 2, 0.5]) for number, step in enumerate(data["steps"])])
    episode = read_trajectory(path)
    assert episode.expert_actions == (1, 0) and episode.instructions == ("one", "two")
    assert episode.meta == {"scene": "s1"} and episode.poses == ((0.0, 2.0, 0.5), (1.0, 2.0, 0.5))


def test_images_may_lie_elsewhere_and_ids_may_be_numbers(tmp_path, write_episode):
    path = write_episode(tmp_path / "images", "7", [1, 0])
    edit(path, lambda data: data.update(episode_id=7))
    moved = path.rename(tmp_path / path.name)
    assert read_trajectory(moved, tmp_path / "images", verify_images=True).id == "7"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda d: d["steps"][1].update(action=9), "step 1 action is 9; expected one of 0 stop, 1 move_forward"),
        (lambda d: d["steps"][1].update(action="1"), "step 1 action is '1'"),
        (lambda d: d["steps"][1].update(action=True), "step 1 action is True"),
        (lambda d: d["steps"][1].update(expert_action=-1), "step 1 expert_action is -1"),
        (lambda d: d["steps"][1].update(action=0), "step 1 of 5 is stop; nothing may follow"),
        (lambda d: d["steps"][3].pop("action"), "step 3 lacks image_path or action"),
        (lambda d: d["steps"][4].pop("image_path"), "step 4 lacks image_path or action"),
        (lambda d: d.update(steps=[]), "steps is missing or empty"),
        (lambda d: d.pop("steps"), "steps is missing or empty"),
        (lambda d: d.pop("episode_id"), "episode_id is missing"),
        (lambda d: d.update(episode_id="../a"), "episode_id is '../a'; expected letters"),
        (lambda d: d.update(episode_id="b"), "'b' in a file named traj_a.json; expected traj_b.json"),
        (lambda d: d.update(instruction=" "), r"instruction is [' ']; expected a text"),
        (lambda d: d.pop("instruction"), "instruction is [None]"),
        (lambda d: d["steps"][0].update(image_path="../ep_b_images/000.png"), "'../ep_b_images/000.png' leaves"),
        (lambda d: d["steps"][0].update(image_path="/etc/hosts"), "'/etc/hosts' leaves ep_a_images"),
        (lambda d: d["steps"][0].update(image_path="none.png"), "step 0 image ep_a_images/none.png is missing"),
        (lambda d: d["steps"][0].update(image_path=3), "step 0 image_path is 3"),
        (lambda d: d["steps"][0].update(pose=[1, 2]), "1 of 5 steps have a pose"),
    ],
)
def test_refusals_name_field_value_and_expectation(folder, change, reason):
    path = folder / "traj_a.json"
    edit(path, change)
    assert reason in refusal(path)


def test_files_that_are_no_json(folder):
    path = folder / "traj_a.json"
    path.write_text(path.read_text()[:-10])
    assert refusal(path).startswith("traj_a.json is not valid JSON (")
    path.write_bytes(b"\xff\xfe")
    assert "is not valid JSON" in refusal(path)
    path.write_text("[]")
    assert refusal(path) == "traj_a.json holds a list; expected a JSON object"


@pytest.mark.parametrize("name, options", [("x.png", {}), ("x.jpg", {"quality": 95})])
def test_truncated_images_are_found_wherever_they_end(tmp_path, write_episode, name, options):
    path = write_episode(tmp_path, "x", [0])
    edit(path, lambda data: data["steps"][0].update(image_path=name))
    image = tmp_path / "ep_x_images" / name
    Image.effect_noise((40, 40), 90).convert("RGB").save(image, **options)
    whole = image.read_bytes()
    read_trajectory(path, verify_images=True)
    for kept in (0, 10, len(whole) // 2, len(whole) - 30):
        image.write_bytes(whole[:kept])
        assert read_trajectory(path).id == "x"  # it exists; only decoding tells
        assert f"step 0: {image}: image cannot be decoded (" in refusal(path, verify_images=True)


def test_a_truncated_frame_never_turns_black(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    Image.effect_noise((40, 40), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries do for the whole process
    with pytest.raises(FrameError, match=r"x\.jpg: image cannot be decoded"):
        load_frame(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    with pytest.raises(FrameError, match=r"y\.jpg: image file is missing"):
        load_frame(tmp_path / "y.jpg")


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    outside = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(outside)
    frame = folder / "ep_a_images" / "000.png"
    frame.unlink()
    os.symlink(outside, frame)
    assert "image_path '000.png' leaves ep_a_images" in refusal(folder / "traj_a.json")
    (folder / "ep_b_images").rename(tmp_path / "moved")
    os.symlink(tmp_path / "moved", folder / "ep_b_images")
    assert "ep_b_images is a link that leaves" in refusal(folder / "traj_b.json")


def test_a_linked_image_root_is_fine(folder, tmp_path):
    os.symlink(folder, tmp_path / "link")
    assert read_trajectory(tmp_path / "link" / "traj_a.json").id == "a"


def test_listing_is_sorted_and_says_what_it_missed(folder, tmp_path):
    assert [path.name for path in list_trajectories(folder)] == ["traj_a.json", "traj_b.json", "traj_c.json"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no traj_\*\.json"):
        list_trajectories(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        list_trajectories(tmp_path / "nowhere")


def test_validation_reports_counts_refusals_and_warnings(folder):
    edit(folder / "traj_b.json", lambda data: data["steps"][2].update(action=1))
    edit(folder / "traj_a.json", lambda data: data["steps"][0].update(action=5))
    report = validate_trajectories(folder)
    assert (report.episodes, report.frames) == (2, 7)
    # b does 1, 2, 1; c should do 2, 3, 1, 0.
    assert report.actions == {"move_forward": 3, "turn_left": 2, "turn_right": 1, "stop": 1}
    (bad,), (warning,) = report.bad, report.warnings
    assert bad.file.endswith("traj_a.json") and warning.file.endswith("traj_b.json")
    assert warning.reason == "the last action is move_forward, not stop"
    assert "2 episodes, 7 frames" in str(report) and "refused" in str(report)


def test_validation_shows_a_bar_on_a_terminal_only(folder, capsys, monkeypatch):
    validate_trajectories(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    validate_trajectories(folder)
    assert "validating" in capsys.readouterr().err


def test_values_nested_too_deeply_to_be_shown(folder):
    path, depth = folder / "traj_a.json", 900
    path.write_text(path.read_text().replace('"Find the red chair."', "[" * depth + "]" * depth))
    reason = refusal(path)
    assert "nested too deeply" in reason or reason.startswith("instruction is [[")


def test_generation_settings(folder):
    assert read_generation_settings(folder) is None
    (folder / "generation.json").write_text('{"turn_degrees": 30}')
    assert read_generation_settings(folder) == {"turn_degrees": 30}
    (folder / "generation.json").write_text("{")
    with pytest.raises(ValueError, match="generation.json is not valid JSON"):
        read_generation_settings(folder)


def test_bad_episode_error_survives_pickling():
    error = BadEpisodeError([BadEpisode(f"f{number}", "r") for number in range(12)])
    again = pickle.loads(pickle.dumps(error))
    assert again.bad == error.bad and "12 episode(s)" in str(again) and "2 more" in str(again)
