import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from open_field import OpenField, Walker
from PIL import Image

from pgn_vln.evaluation.evaluate_vln import evaluate_policies
from pgn_vln.evaluation.records import read_records

HERE = Path(__file__).parent
SETTINGS = {"checkpoint": "a", "seed": 0}


def evaluate(out_dir, env, policies=None, **changes):
    arguments = {"settings": SETTINGS, "progress": False, **changes}
    episode_ids = arguments.pop("episode_ids", env.episodes())
    return evaluate_policies(
        env, policies or {"model": Walker(2), "lost": Walker(None)}, episode_ids, out_dir, **arguments
    )


class Killed(Exception):
    pass


class KilledAfter(Walker):
    def __init__(self, episodes):
        super().__init__(2)
        self.left = episodes

    def reset(self, instruction, episode_id):
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().reset(instruction, episode_id)


def test_numbers_by_hand_and_files(tmp_path):
    # The walker stops 2 m east: goals at 1..4 m are 1, 0, 1 and 2 m away. Strictly below 1 m: one of four.
    # Below 1.5 m: three of four. It passes 0 m from the goals at 1 and 2. The lost one walks 10 m and never stops.
    settings = {**SETTINGS, "max_steps": 10}
    summary = evaluate(tmp_path, OpenField(4), radius_m=[1.0, 1.5], split="val", settings=settings)
    assert summary["settings"] == {**settings, "success_radii_m": [1.0, 1.5]}
    model, lost = summary["policies"]["model"], summary["policies"]["lost"]
    assert (model["sr_1m"], model["sr_1.5m"], model["osr_1m"]) == (0.25, 0.75, 0.5)
    assert model["ne_m"] == pytest.approx(1.0) and model["tl_m"] == pytest.approx(2.0) and model["steps"] == 3
    # SPL at 1.5 m: 1/2 + 2/2 + 3/3 over four.
    assert model["spl_1.5m"] == pytest.approx(2.5 / 4)
    assert (lost["sr_1.5m"], lost["osr_1m"], lost["stop_rate"], lost["steps"]) == (0.0, 1.0, 0.0, 10.0)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "episodes.jsonl", "pictures", "report.html", "settings.json", "summary.json",
    ]  # fmt: skip
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [f"walk_{number}.png" for number in range(1, 5)]
    with Image.open(tmp_path / "pictures" / pictures[0]) as image:
        assert image.width > 1000
    records = read_records(tmp_path / "episodes.jsonl")
    assert [record.key for record in records[:2]] == [("model", "walk_1"), ("model", "walk_2")]
    assert records[0].actions == [1, 1, 0] and records[0].positions[-1] == [2.0, 0.0]


def test_interrupted_evaluation_goes_on(tmp_path, caplog):
    with pytest.raises(Killed):
        evaluate(tmp_path, OpenField(4), {"model": KilledAfter(2), "lost": Walker(None)})
    part = tmp_path / "episodes.part-0.jsonl"
    finished = part.read_text()
    assert len(finished.splitlines()) == 4  # two episodes by two policies
    part.write_text(finished + finished[:100])  # and a line that the kill cut short
    env = OpenField(4)
    summary = evaluate(tmp_path, env)
    assert env.resets == ["walk_3"] * 2 + ["walk_4"] * 2
    assert "4 episodes are taken from the earlier evaluation" in caplog.text
    reference = evaluate(tmp_path.with_name("straight"), OpenField(4))
    assert summary["policies"] == reference["policies"]
    assert not list(tmp_path.glob("*.part-*"))


def test_the_number_of_processes_may_change_between_runs(tmp_path):
    reference = evaluate(tmp_path / "straight", OpenField(4))
    lines = (tmp_path / "straight" / "episodes.jsonl").read_text().splitlines(keepends=True)
    out = tmp_path / "out"
    with pytest.raises(Killed):
        evaluate(out, OpenField(4), {"model": KilledAfter(0), "lost": Walker(None)})
    # What three processes would have left: walk_1 and walk_2 of each policy, in parts that one process does not write.
    for number, line in enumerate((lines[0], lines[1], lines[4] + lines[5])):
        (out / f"episodes.part-{number}.jsonl").write_text(line)
    env = OpenField(4)
    summary = evaluate(out, env)
    assert env.resets == ["walk_3"] * 2 + ["walk_4"] * 2 and summary["policies"] == reference["policies"]
    assert not list(out.glob("*.part-*"))


def test_settings_are_compared_by_value(tmp_path):
    evaluate(tmp_path, OpenField(2), settings={"fov": 90, "size": (2, 3), "by_turn": {15: "a"}, "seed": 0})
    env = OpenField(2)
    evaluate(tmp_path, env, settings={"seed": 0, "by_turn": {"15": "a"}, "size": [2, 3], "fov": 90.0})
    assert env.resets == []
    with pytest.raises(ValueError, match=r"\(fov: 90.0 -> 79; size: \[2, 3\] -> 'absent'\)"):
        evaluate(tmp_path, env, settings={"seed": 0, "by_turn": {15: "a"}, "fov": 79})
    # Its pictures would be shown under another policy's name.
    with pytest.raises(ValueError, match="model_policy: 'model' -> 'lost'"):
        evaluate(
            tmp_path, env, settings={"seed": 0, "by_turn": {15: "a"}, "size": [2, 3], "fov": 90}, model_policy="lost"
        )


class Nowhere(OpenField):
    """Its goals are unreachable, or their distance is unknown."""

    def __init__(self, distance):
        super().__init__(2)
        self.distance = distance

    def geodesic(self, a, b):
        return self.distance


@pytest.mark.parametrize("distance", [math.nan, math.inf])
def test_files_are_strict_json_whatever_is_unknown(tmp_path, distance):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    summary = evaluate(tmp_path, Nowhere(distance), pictures=1)
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all(
        json.loads(line, parse_constant=refuse)["metrics"]["ne_m"] is None for line in lines
    )
    for name in ("summary.json", "settings.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
    assert summary["policies"]["model"]["sr_1m"] == 0.0 and summary["policies"]["model"]["ne_m"] is None
    assert "nan" not in (tmp_path / "report.html").read_text().lower()


def test_policies_and_episodes_may_be_added(tmp_path):
    evaluate(tmp_path, OpenField(2), {"model": Walker(2)})
    env = OpenField(3)
    summary = evaluate(tmp_path, env)
    assert sorted(env.resets) == ["walk_1", "walk_2", "walk_3", "walk_3"]
    assert summary["episodes"] == 3 and set(summary["policies"]) == {"model", "lost"}


def test_other_settings_are_refused_unless_overwritten(tmp_path):
    evaluate(tmp_path, OpenField(2))
    with pytest.raises(ValueError, match="checkpoint: 'a' -> 'b'"):
        evaluate(tmp_path, OpenField(2), settings={**SETTINGS, "checkpoint": "b"})
    with pytest.raises(ValueError, match=r"radii_m: \[1.0\] -> \[3.0\]"):
        evaluate(tmp_path, OpenField(2), radius_m=3.0)
    env = OpenField(2)
    evaluate(tmp_path, env, settings={**SETTINGS, "checkpoint": "b"}, overwrite=True, pictures=1)
    assert len(env.resets) == 4
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["walk_1.png"]


def test_max_steps_cuts_off(tmp_path):
    summary = evaluate(tmp_path, OpenField(2), max_steps=1)
    assert summary["policies"]["model"]["steps"] == 1.0 and summary["policies"]["model"]["stop_rate"] == 0.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"episode_ids": []}, "no episodes"),
        ({"episode_ids": ["walk_1", "walk_1"]}, r"\['walk_1'\] are given more than once"),
        ({"radius_m": [1.0, -1.0]}, r"radius_m is \[1.0, -1.0\]"),
        ({"model_policy": "tuned"}, "model_policy is 'tuned'; expected one of the policies model, lost"),
        ({"settings": {"seed": math.nan}}, "JSON"),
    ],
)
def test_requests_that_make_no_sense(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path, OpenField(2), **changes)
    assert not list(tmp_path.iterdir())


def test_two_processes_share_the_episodes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[1])!r}]\n"
        "from accelerate import PartialState\n"
        "from open_field import OpenField, Walker\n"
        "from pgn_vln.evaluation.evaluate_vln import evaluate_policies\n"
        "state, env = PartialState(cpu=True), OpenField(5)\n"
        "policies = {'model': Walker(2), 'lost': Walker(None)}\n"
        f"out_dir, settings = {str(tmp_path / 'out')!r}, {SETTINGS!r}\n"
        "summary = evaluate_policies(env, policies, env.episodes(), out_dir, settings=settings)\n"
        f"open({str(tmp_path)!r} + f'/rank{{state.process_index}}', 'w').write(\n"
        "    f\"{len(env.resets)} {summary['policies']['model']['sr_1m']}\")\n"
        "state.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    # Episodes 1, 3, 5 and 2, 4, by two policies; of the five goals, only the one at 2 m is met.
    assert (tmp_path / "rank0").read_text() == "6 0.2"
    assert (tmp_path / "rank1").read_text() == "4 0.2"
    keys = [
        record.episode_id for record in read_records(tmp_path / "out" / "episodes.jsonl") if record.policy == "model"
    ]
    assert keys == [f"walk_{number}" for number in range(1, 6)]
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 5
