"""The command `pgn` in a process of its own: what it writes, what it says, what it refuses."""

import json
import subprocess
import sys

import pytest


def pgn(*arguments, launcher=(sys.executable, "-m", "pgn_vln"), ok=True, cwd=None):
    done = subprocess.run(
        [*map(str, launcher), *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=cwd
    )  # fmt: skip
    assert (done.returncode == 0) is ok, (done.stdout + done.stderr)[-4000:]
    assert ok or "Traceback" not in done.stderr
    return done


def test_help_lists_every_command():
    out = pgn("--help").stdout
    for command in ("new", "convert from-parts", "episodes generate", "episodes validate", "evaluate vln"):
        assert f"pgn {command}" in out
    assert "pgn convert inspect" in pgn("convert", "--help").stdout
    assert "--level" in pgn("episodes", "generate", "--help").stdout


def test_unknown_commands_and_values_are_named(tmp_path):
    assert "no command 'fly away'" in pgn("fly", "away", ok=False).stderr
    generate = ("episodes", "generate", "--split", "train", "--episodes", "1", "--out", tmp_path / "e")
    assert "castle" in pgn(*generate, "--level", "castle", ok=False).stderr
    done = pgn("evaluate", "vln", "--model", tmp_path, ok=False)
    assert str(tmp_path) in done.stderr and "config.json" in done.stderr
    assert "no_such_field" in pgn("new", "--out", tmp_path / "m", "--no_such_field", "1", ok=False).stderr


def test_what_a_command_is_about_needs_no_flag(tmp_path):
    """First or last; a recipe is then given with --config."""
    for words in (["nothing.pth"], ["--tensors", "true", "nothing.pth"], ["--path", "nothing.pth"]):
        refused = pgn("convert", "inspect", *words, ok=False, cwd=tmp_path).stderr
        assert "'nothing.pth' does not exist" in refused


def test_generate_then_validate_then_break(tmp_path, needs_renderer):
    folder = tmp_path / "episodes"
    options = ("--level", "one_room", "--split", "val", "--image_size", "32", "--out", folder)
    out = pgn("episodes", "generate", *options, "--episodes", "2").stdout
    assert "2 episodes" in out and "0 were there already" in out and "move forward" in out
    assert "3 episodes" in (again := pgn("episodes", "generate", *options, "--episodes", "3").stdout)
    assert "2 were there already" in again
    assert "0 refused" in pgn("episodes", "validate", "--dir", folder).stdout
    frame = sorted(folder.glob("ep_*_images/*.png"))[4]
    frame.write_bytes(frame.read_bytes()[:60])
    report = pgn("episodes", "validate", "--dir", folder, ok=False).stdout
    assert frame.name in report and "1 refused" in report


@pytest.fixture(scope="module")
def evaluated(tiny_dir, tmp_path_factory, needs_renderer):
    out = tmp_path_factory.mktemp("evaluation") / "report"
    done = pgn("evaluate", "vln", "--model", tiny_dir, "--episodes", 4, "--max_steps", 12, "--out", out)
    return out, done.stdout


def test_evaluation_writes_a_report(evaluated):
    out, printed = evaluated
    summary = json.loads((out / "summary.json").read_text())
    assert summary["level"] == "one_room" and summary["split"] == "test" and summary["episodes"] == 4
    assert list(summary["policies"]) == ["model", "random", "forward", "expert"]
    for policy in summary["policies"].values():
        assert 0 <= policy["spl_1m"] <= policy["sr_1m"] <= 1
    assert len((out / "episodes.jsonl").read_text().splitlines()) == 16
    assert len(list((out / "pictures").glob("*.png"))) == 4
    assert "report.html" in printed
    for name in summary["policies"]:
        assert name in printed


def test_evaluation_is_the_same_in_two_processes(evaluated, tiny_dir, tmp_path):
    expected = json.loads((evaluated[0] / "summary.json").read_text())
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    launcher = (*torchrun, "-m", "pgn_vln")
    done = pgn(
        "evaluate", "vln", "--model", tiny_dir, "--episodes", 4, "--max_steps", 12, "--out", tmp_path / "two",
        launcher=launcher,
    )  # fmt: skip
    assert done.stdout.count("report.html") == 1
    found = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert found["policies"] == expected["policies"]


def test_new_takes_an_image_size(tmp_path):
    pgn("new", "--out", tmp_path / "m", "--image_size", 32)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["vision_config"]["image_size"] == 32
    assert (
        json.loads((tmp_path / "m" / "processor_config.json").read_text())["image_processor"]["size"]["height"] == 32
    )
    refused = pgn("new", "--out", tmp_path / "n", "--image_size", 40, ok=False)
    assert "image_size=40 must be a multiple of the patch size 16" in refused.stderr and not (tmp_path / "n").exists()
