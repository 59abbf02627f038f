import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from modeling_pgn.prompting_pgn import SPECIAL_TOKENS
from pgn_vln.data.builder import data_fingerprint, load_windows, prepare_table
from pgn_vln.data.episodes import BadEpisodeError, FrameError
from pgn_vln.data.transform import EpochCallback

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_default_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "default_cache")


def rows(name, folder, tmp_path, **settings):
    settings.setdefault("cache_dir", tmp_path / "cache")
    return prepare_table(name, folder, **settings).as_dataset(split="train").to_list()


def test_episode_rows(folder, tmp_path):
    table = rows("episodes", folder, tmp_path)
    assert [row["episode_id"] for row in table] == ["a", "b", "c"]
    assert table[2] == {
        "episode_id": "c",
        "instructions": ["Find the red chair."],
        "frames": [f"ep_c_images/00{number}.png" for number in range(4)],
        "actions": [3, 3, 1, 0],
        "expert_actions": [2, 3, 1, 0],
    }


def test_window_rows(folder, tmp_path):
    table = rows("windows", folder, tmp_path, prompt_layout="stream", history_frames=3)
    assert [(row["episode_id"], row["start"], row["actions"]) for row in table] == [
        ("a", 0, [1, 1, 3]), ("a", 3, [1, 0]), ("b", 0, [1, 2, 0]), ("c", 0, [3, 3, 1]), ("c", 3, [0]),
    ]  # fmt: skip
    assert table[4] == {
        "episode_id": "c",
        "instruction": "Find the red chair.",
        "start": 3,
        "length": 1,
        "frames": ["ep_c_images/003.png"],
        "actions": [0],
        "expert_actions": [0],
    }
    window = rows("windows", folder, tmp_path, prompt_layout="window", history_frames=1)
    assert [(row["start"], len(row["frames"])) for row in window[:5]] == [(0, 1), (0, 2), (1, 2), (2, 2), (3, 2)]
    assert len(window) == 5 + 3 + 4


def test_every_instruction_of_an_episode_gives_its_windows(tmp_path, write_episode):
    write_episode(tmp_path / "e", "a", [1, 0], instructions=["one", "two"])
    table = rows("windows", tmp_path / "e", tmp_path, prompt_layout="stream")
    assert [(row["instruction"], row["actions"]) for row in table] == [("one", [1, 0]), ("two", [1, 0])]


def test_row_order_does_not_depend_on_the_number_of_processes(tmp_path, write_episode):
    for number in (3, 10, 1, 7, 2, 20, 5):
        write_episode(tmp_path / "e", f"n{number}", [1] * number + [0])
    bad = tmp_path / "e" / "traj_n7.json"
    bad.write_text("{")
    settings = {"history_frames": 2, "on_bad_episode": "skip"}
    one = prepare_table("windows", tmp_path / "e", cache_dir=tmp_path / "one", **settings)
    two = prepare_table("windows", tmp_path / "e", cache_dir=tmp_path / "two", num_proc=2, **settings)
    first, second = (builder.as_dataset(split="train") for builder in (one, two))
    assert len(second.cache_files) == 2 and first.to_list() == second.to_list()
    assert one.report() == two.report()
    assert [Path(entry.file).name for entry in two.report().bad] == ["traj_n7.json"]


def test_bad_episodes_are_all_named_and_leave_no_table(folder, tmp_path):
    (folder / "traj_a.json").write_text("{")
    (folder / "ep_c_images" / "001.png").write_bytes((folder / "ep_c_images" / "001.png").read_bytes()[:-20])
    for num_proc in (None, 2):
        with pytest.raises(BadEpisodeError) as caught:
            load_windows(folder, cache_dir=tmp_path / "cache", num_proc=num_proc)
        assert [Path(entry.file).name for entry in caught.value.bad] == ["traj_a.json", "traj_c.json"]
        assert "001.png: image cannot be decoded" in caught.value.bad[1].reason
        assert "on_bad_episode=skip" in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_skipping_counts_and_logs_and_the_cache_remembers(folder, tmp_path, caplog):
    (folder / "traj_a.json").write_text("{")
    for _ in range(2):
        caplog.clear()
        builder = prepare_table("episodes", folder, cache_dir=tmp_path, on_bad_episode="skip")
        assert len(builder.as_dataset(split="train")) == 2
        report = builder.report()
        assert (report.episodes, report.frames, len(report.bad)) == (2, 7, 1)
        assert "traj_a.json is not valid JSON" in caplog.text


def first_step(change):
    def edit(path):
        data = json.loads(path.read_text())
        data["steps"][0].update(change)
        path.write_text(json.dumps(data))

    return edit


def say(text):
    def edit(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), "instruction": text}))

    return edit


def enlarge(path):
    # 200,000 pixels in a file of a few bytes, where Pillow is told to refuse more than 2,000.
    Image.new("L", (500, 400)).save(path.parent / "ep_a_images" / "000.png")


def break_link(path):
    path.unlink()
    path.symlink_to("nowhere.json")


@pytest.mark.parametrize(
    "damage, reason",
    [
        (first_step({"pose": 3}), "step 0 pose is 3; expected a list of finite numbers"),
        (first_step({"pose": [None]}), "step 0 pose is [None]"),
        (first_step({"pose": "12"}), "step 0 pose is '12'"),
        (first_step({"pose": [10**400]}), "step 0 pose is [1000"),
        (first_step({"pose": [float("nan")]}), "step 0 pose is [nan]"),
        (first_step({"image_path": "x" * 300}), "cannot be read (File name too long)"),
        (first_step({"image_path": "\ud800.png"}), "step 0 image_path is '\\ud800.png'; expected a file name"),
        (first_step({"image_path": "a\0b"}), "step 0 image_path is 'a\\x00b'"),
        (enlarge, "000.png: image cannot be decoded (Image size (200000 pixels) exceeds limit of 2000 pixels"),
        (lambda path: path.write_text("[" * 100_000), "traj_a.json is not valid JSON (nested too deeply)"),
        (break_link, "traj_a.json cannot be read (No such file or directory)"),
        (say("red \ud800 chair"), "expected text without lone surrogates"),
        *((say(f"Find {token}."), f"contains the special token {token!r}") for token in SPECIAL_TOKENS),
    ],
)
def test_whatever_is_wrong_with_one_episode_skips_that_episode(folder, tmp_path, monkeypatch, damage, reason):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    damage(folder / "traj_a.json")
    builder = prepare_table("episodes", folder, cache_dir=tmp_path / "cache", on_bad_episode="skip")
    assert builder.as_dataset(split="train")["episode_id"][:] == ["b", "c"]
    (bad,) = builder.report().bad
    assert bad.file == str(folder / "traj_a.json") and reason in bad.reason
    with pytest.raises(BadEpisodeError, match=r"traj_a\.json"):
        prepare_table("episodes", folder, cache_dir=tmp_path / "cache")


def test_a_file_name_that_is_no_utf8_is_refused_in_words(folder, tmp_path):
    (folder / os.fsdecode(b"traj_\xff.json")).write_bytes((folder / "traj_a.json").read_bytes())
    builder = prepare_table("episodes", folder, cache_dir=tmp_path / "cache", on_bad_episode="skip")
    (bad,) = builder.report().bad
    assert bad.file.endswith("traj_\\udcff.json") and "expected traj_a.json" in bad.reason


def test_nothing_left_is_an_error_even_when_skipping(tmp_path, write_episode):
    write_episode(tmp_path / "e", "a", [1, 0]).write_text("{")
    with pytest.raises(BadEpisodeError):
        prepare_table("episodes", tmp_path / "e", cache_dir=tmp_path / "cache", on_bad_episode="skip")


def test_cache_is_used_and_notices_changed_data(folder, tmp_path):
    def build():
        builder = prepare_table("episodes", folder, cache_dir=tmp_path / "cache")
        (arrow,) = Path(builder.cache_dir).glob("*.arrow")
        return builder.as_dataset(split="train").to_list(), arrow, arrow.stat().st_mtime_ns

    before, again = build(), build()
    assert before == again
    path = folder / "traj_b.json"
    data = json.loads(path.read_text())
    data["steps"][0]["action"] = 3  # the size of the file stays the same
    path.write_text(json.dumps(data))
    os.utime(path, ns=(1, 1))
    after = build()
    assert after[1] != before[1] and after[0][1]["actions"] == [3, 2, 0]
    # A frame that vanishes leaves every JSON as it was, and must not hide behind the cache either.
    (folder / "ep_b_images" / "001.png").unlink()
    with pytest.raises(BadEpisodeError, match="ep_b_images/001.png is missing"):
        build()


def test_cache_notices_changed_code(folder, tmp_path, monkeypatch):
    before = data_fingerprint(folder)
    assert data_fingerprint(folder) == before
    copy = tmp_path / "windows.py"
    copy.write_text(Path(ROOT / "pgn_vln/data/windows.py").read_text() + "\n")
    monkeypatch.setattr("pgn_vln.data.windows.__file__", str(copy))
    assert data_fingerprint(folder) != before


def build_when_all_are_ready(barrier, results, folder, cache):
    barrier.wait()
    table = prepare_table("windows", folder, cache_dir=cache, history_frames=2).as_dataset(split="train")
    results.put((table.to_list(), table.cache_files))


def test_processes_build_one_cache_at_once(folder, tmp_path):
    context = multiprocessing.get_context("fork")  # forked only to spare the imports; they share nothing but files
    barrier, results = context.Barrier(3), context.Queue()
    arguments = (barrier, results, folder, tmp_path / "cache")
    processes = [context.Process(target=build_when_all_are_ready, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    built = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert built[0] == built[1] == built[2] and len(built[0][0]) == 3 + 2 + 2
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1


def test_samples_are_decoded_when_asked_for(folder, tmp_path):
    samples = load_windows(folder, cache_dir=tmp_path, history_frames=3)
    sample = samples[1]
    assert sample["episode_id"] == "a" and sample["actions"] == [1, 0] and sample["expert_actions"] == [1, 0]
    assert [frame.mode for frame in sample["frames"]] == ["RGB", "RGB"]
    # Steps 3 and 4 of the episode: red is 10 * t.
    assert [frame.getpixel((0, 0)) for frame in sample["frames"]] == [(30, 20, 30), (40, 20, 30)]
    os.remove(folder / "ep_c_images" / "003.png")
    assert len(samples[2]["frames"]) == 3  # other rows are not touched
    with pytest.raises(FrameError, match=r"ep_c_images/003\.png: image file is missing"):
        samples[4]


def test_the_table_holds_paths_and_no_pixels(tmp_path, write_episode):
    images = write_episode(tmp_path / "e", "a", [1] * 39 + [0]).parent / "ep_a_images"
    for path in images.iterdir():
        Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    pixels = sum(path.stat().st_size for path in images.iterdir())
    builder = prepare_table("windows", tmp_path / "e", cache_dir=tmp_path / "cache", history_frames=8)
    table = sum(path.stat().st_size for path in Path(builder.cache_dir).iterdir())
    assert pixels > 100_000 and table < 10_000


def test_history_noise_changes_what_is_told_and_nothing_else(tmp_path, write_episode):
    for name in "abcdefgh":
        write_episode(tmp_path / "e", name, [1] * 39 + [0], expert=[2] * 39 + [0])
    arguments = {"cache_dir": tmp_path / "cache", "history_frames": 20}
    clean, noisy = (load_windows(tmp_path / "e", history_noise=share, **arguments) for share in (0.0, 0.5))
    assert [row["actions"] for row in clean] == [[1] * 20, [1] * 19 + [0]] * 8
    again, other = (load_windows(tmp_path / "e", history_noise=0.5, seed=seed, **arguments) for seed in (0, 1))
    told = [row["actions"] for row in noisy]
    assert told == [again[index]["actions"] for index in reversed(range(16))][::-1]
    assert told != [row["actions"] for row in other] and len({tuple(actions) for actions in told}) == 16
    for before, after in zip(clean, noisy, strict=True):
        assert {**before, "actions": 0, "frames": 0} == {**after, "actions": 0, "frames": 0}
        assert [f.tobytes() for f in before["frames"]] == [f.tobytes() for f in after["frames"]]
    # A third of the half that is drawn anew is what it was; stop is never told in the midst, and stays at the end.
    moves = [action for actions in told for action in actions]
    assert moves.count(0) == 8 and all(actions[-1] == 0 for actions in told[1::2])
    assert 0.6 < moves.count(1) / (len(moves) - 8) < 0.74
    with pytest.raises(ValueError, match="history_noise 1.5"):
        load_windows(tmp_path / "e", history_noise=1.5, **arguments)


def test_windows_of_like_length_can_be_grouped_without_decoding(folder, tmp_path):
    samples = load_windows(folder, cache_dir=tmp_path / "cache", history_frames=3, verify_images=False)
    for images in folder.glob("ep_*_images"):
        for path in images.iterdir():
            path.unlink()
    assert list(samples.with_format(None)["length"]) == [3, 2, 3, 3, 1]


def test_random_windows_change_with_the_epoch_and_reach_workers(tmp_path, write_episode):
    for name in "ab":
        write_episode(tmp_path / "e", name, [1] * 24 + [0], instructions=["one", "two"])
    arguments = {"prompt_layout": "window", "history_frames": 2, "windows": "random", "cache_dir": tmp_path / "cache"}
    samples, others = (load_windows(tmp_path / "e", seed=seed, **arguments) for seed in (0, 1))
    assert len(samples) == 2

    def drawn(dataset, epoch):
        dataset.set_epoch(epoch)
        return [(dataset[index]["start"], len(dataset[index]["frames"])) for index in range(2)]

    epochs = [drawn(samples, epoch) for epoch in range(6)]
    assert epochs == [drawn(samples, epoch) for epoch in range(6)]
    assert len({tuple(epoch) for epoch in epochs}) > 3 and epochs != [drawn(others, epoch) for epoch in range(6)]
    assert {length for epoch in epochs for _, length in epoch} == {3}
    samples.set_epoch(0)
    item = samples[0]
    assert item["frames"][0].getpixel((0, 0))[0] == 10 * item["start"] and item["instruction"] == "one"

    loader = torch.utils.data.DataLoader(
        samples,
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        collate_fn=lambda batch: [w["start"] for w in batch],
    )
    seen = []
    for epoch in range(3):
        samples.set_epoch(epoch)
        seen += list(loader)
    assert seen == [[start for start, _ in epoch] for epoch in epochs[:3]]


class Recorder(torch.nn.Module):
    """Counts as a model for the Trainer, and writes down which windows it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, keys):
        self.seen.append(sorted(map(tuple, keys.tolist())))
        return {"loss": self.weight * 0.0}


def test_trainer_draws_other_windows_in_every_epoch(tmp_path, write_episode):
    for name in "ab":
        write_episode(tmp_path / "e", name, [1] * 24 + [0])
    arguments = {"prompt_layout": "window", "history_frames": 2, "windows": "random", "cache_dir": tmp_path / "cache"}
    windows, untouched = (load_windows(tmp_path / "e", **arguments) for _ in range(2))
    settings = TrainingArguments(
        str(tmp_path / "run"), num_train_epochs=3, per_device_train_batch_size=2, use_cpu=True, report_to="none",
        save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    model = Recorder()
    Trainer(
        model,
        settings,
        data_collator=lambda batch: {"keys": torch.tensor([[ord(w["episode_id"]), w["start"]] for w in batch])},
        train_dataset=windows,
        callbacks=[EpochCallback(windows)],
    ).train()
    expected = []
    for epoch in range(3):
        untouched.set_epoch(epoch)
        expected.append(sorted((ord(row["episode_id"]), row["start"]) for row in map(untouched.row, range(2))))
    assert model.seen == expected and len(set(map(tuple, expected))) == 3


@pytest.mark.parametrize("epoch, expected", [(None, 0), (0.0, 0), (2.0, 2), (2.9999999, 3), (2.4, 2)])
def test_epoch_callback_counts_whole_epochs(folder, tmp_path, epoch, expected):
    windows = load_windows(folder, windows="random", history_frames=1, cache_dir=tmp_path, seed=3)
    EpochCallback(windows).on_epoch_begin(None, TrainerState(epoch=epoch), TrainerControl())
    told = [windows.row(index) for index in range(3)]
    windows.set_epoch(expected)
    assert told == [windows.row(index) for index in range(3)]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"windows": "some"}, "windows is 'some'; expected one of all, random"),
        ({"on_bad_episode": "ignore"}, "on_bad_episode is 'ignore'; expected one of raise, skip"),
        ({"prompt_layout": "x"}, "prompt_layout is 'x'"),
        ({"history_frames": 0}, "history_frames is 0"),
    ],
)
def test_settings_are_checked_first(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load_windows(tmp_path / "nowhere", **settings)
