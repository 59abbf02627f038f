"""`train_vln.py` as users start it: a run directory, resume, several processes, DeepSpeed, and what it refuses."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch")


@pytest.fixture(scope="module")
def recipe(small_dir, episodes_dir, tmp_path_factory):
    """A recipe of two epochs over eight episodes, eight optimizer steps."""
    folder = tmp_path_factory.mktemp("recipe")
    values = {
        "model_name_or_path": str(small_dir), "train_dir": str(episodes_dir), "eval_dir": str(episodes_dir),
        "history_frames": 8, "per_device_train_batch_size": 6, "num_train_epochs": 2, "learning_rate": 1e-3,
        "logging_steps": 1, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 3, "use_cpu": True,
        "disable_tqdm": True, "cache_dir": str(folder / "cache"), "seed": 3, "history_noise": 0.3,
        "train_sampling_strategy": "group_by_length", "save_total_limit": 10,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def finished(recipe, run_script, tmp_path_factory):
    """The run directory of that recipe, trained without interruption."""
    out = tmp_path_factory.mktemp("run") / "vln"
    launch = (*ACCELERATE, "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no")
    run_script("train_vln.py", recipe, "--output_dir", out, launcher=launch)
    return out


def logged(folder, key):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: float(line[key]) for line in lines if key in line}


def steps_of(folder):
    return max(logged(folder, "loss"))


def test_the_run_directory_is_complete(finished, small_dir, episodes_dir):
    names = {path.name for path in finished.iterdir()}
    assert {"recipe.yaml", "versions.json", "metrics.jsonl", "README.md", "model.safetensors", "runs"} <= names
    assert {path.name for path in small_dir.iterdir()} <= names
    losses = logged(finished, "loss")
    assert len(losses) == steps_of(finished) and all(map(math.isfinite, losses.values()))
    accuracy = logged(finished, "eval_accuracy")
    assert accuracy and set(logged(finished, "eval_accuracy_stop")) == set(accuracy)
    assert json.loads((finished / "config.json").read_text())["navigation"] == {
        "turn_degrees": 15, "step_m": 0.25, "hfov_degrees": 90.0, "history_frames": 8, "prompt_layout": "stream",
    }  # fmt: skip
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["learning_rate"] == 1e-3 and recipe["train_dir"] == str(episodes_dir)
    assert "turn_degrees" in (finished / "README.md").read_text()
    assert "torch" in json.loads((finished / "versions.json").read_text())


def test_everything_trains(finished, small_dir):
    before, after = (load_file(folder / "model.safetensors") for folder in (small_dir, finished))
    still = [name for name in before if torch.equal(before[name], after[name])]
    # The key bias of attention shifts all scores of a row alike: softmax does not see it, its gradient is round-off.
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


def test_rates_are_logged(finished):
    for name in ("actions_per_second", "tokens_per_second", "frames_per_second", "peak_memory_gb"):
        rates = logged(finished, name)
        assert set(rates) == set(logged(finished, "loss")) and all(value > 0 for value in rates.values()), name
    assert all(0 <= share < 0.7 for share in logged(finished, "padding_share").values())
    left = logged(finished, "eta_seconds")
    assert left[steps_of(finished)] == 0 < left[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_ends_and_the_run_goes_on_from_there(
    processes, finished, recipe, request, run_script, tmp_path
):
    """A scheduler takes the machine away in the midst of a run; the weights come out as if it had not.

    Of two processes only one gets the signal: both stop after the same step.
    """
    out = tmp_path / "vln"
    python = [sys.executable]
    options = ["--output_dir", str(out), "--save_strategy", "no"]
    if processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        options += ["--per_device_train_batch_size", str(6 // processes)]
    process = subprocess.Popen(
        [*python, "train_vln.py", str(recipe), *options], cwd=request.config.rootpath,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (out / "metrics.jsonl").exists() or not logged(out, "loss"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    trainer = psutil.Process(process.pid).children()[-1] if processes > 1 else process
    trainer.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors[-3000:]
    (saved,) = out.glob("checkpoint-*")
    step = int(saved.name.split("-")[1])
    assert 1 <= step < steps_of(finished) and f"SIGTERM: stopped after step {step} with a checkpoint" in errors
    assert not (out / "model.safetensors").exists()
    if processes > 1:
        return
    run_script("train_vln.py", recipe, "--output_dir", out, "--resume_from_checkpoint", "last")
    expected, found = (load_file(folder / "model.safetensors") for folder in (finished, out))
    assert all(torch.allclose(value, found[name], atol=1e-6) for name, value in expected.items())


def test_a_loss_that_stays_infinite_names_its_samples(recipe, run_script, tmp_path):
    options = ("--learning_rate", "1e30", "--max_grad_norm", "0", "--warmup_steps", "0", "--save_strategy", "no")
    done = run_script("train_vln.py", recipe, "--output_dir", tmp_path / "vln", *options,
                      "--max_nonfinite_batches", 2, ok=False)  # fmt: skip
    assert "error: the loss was not finite in 2 batches in a row, the last one of one_room_train_" in done.stderr
    assert "Traceback" not in done.stderr


def test_action_weights_count_in_the_loss(finished, recipe, run_script, tmp_path):
    """All actions twice as heavy: the loss of the first step, from the same weights, is twice the plain one."""
    options = ("--save_strategy", "no", "--eval_strategy", "no", "--max_steps", "1", "--action_weights")
    heavy = [f"{name}=2" for name in ("stop", "move_forward", "turn_left", "turn_right")]
    run_script("train_vln.py", recipe, "--output_dir", tmp_path / "vln", *options, *heavy)
    assert logged(tmp_path / "vln", "loss")[1] == pytest.approx(2 * logged(finished, "loss")[1], rel=1e-5)


def test_resume_gives_the_same_weights(finished, recipe, run_script, tmp_path):
    """Stopped within an epoch and continued, the run ends with the weights of the run that was not stopped."""
    out = tmp_path / "vln"
    shutil.copytree(finished / "checkpoint-3", out / "checkpoint-3")
    # Killed while it wrote the next ones: they are not taken for checkpoints.
    shutil.copytree(finished / "checkpoint-6", out / "checkpoint-6")
    state = out / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    shutil.copytree(finished / "checkpoint-6", out / "checkpoint-7", ignore=shutil.ignore_patterns("trainer_state*"))
    refused = run_script("train_vln.py", recipe, "--output_dir", out, ok=False)
    assert "error: output_dir" in refused.stderr and "--resume_from_checkpoint last" in refused.stderr
    run_script("train_vln.py", recipe, "--output_dir", out, "--resume_from_checkpoint", "last")
    assert min(logged(out, "loss")) == 4
    assert logged(out, "loss") == {k: v for k, v in logged(finished, "loss").items() if k > 3}
    expected, found = (load_file(folder / "model.safetensors") for folder in (finished, out))
    for name, value in expected.items():
        assert torch.allclose(value, found[name], atol=1e-6), name


@pytest.mark.parametrize("windows", ["all", "random"])
def test_two_processes_learn_what_one_does(windows, recipe, run_script, tmp_path):
    """Data-parallel training over gloo; the loss of the global batch is that of one process."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    # Without drop_last, accelerate fills up the last batch of an epoch with samples from its beginning.
    options = ("--windows", windows, "--save_strategy", "no", "--eval_strategy", "no", "--dataloader_drop_last", True)
    options += ("--train_sampling_strategy", "group_by_length" if windows == "all" else "random")
    options += ("--per_device_train_batch_size",)
    run_script("train_vln.py", recipe, "--output_dir", tmp_path / "one", *options, 4)
    run_script(
        "train_vln.py", recipe, "--output_dir", tmp_path / "two", *options, 2, launcher=torchrun,
    )  # fmt: skip
    one, two = logged(tmp_path / "one", "loss"), logged(tmp_path / "two", "loss")
    assert len(one) == len(two) > 2
    for step, loss in one.items():
        assert abs(loss - two[step]) < 1e-5, (step, one, two)


@pytest.fixture(scope="module")
def plain_losses(recipe, run_script, tmp_path_factory):
    """Losses of three steps of one process, without DeepSpeed."""
    out = tmp_path_factory.mktemp("plain") / "vln"
    options = ("--save_strategy", "no", "--eval_strategy", "no", "--max_steps", "3", "--dataloader_drop_last", True)
    run_script("train_vln.py", recipe, "--output_dir", out, *options)
    return logged(out, "loss")


@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles an op: it needs the system package g++")
@pytest.mark.parametrize(
    ("config", "processes"), [("zero2", 2), ("zero2_offload", 2), ("zero3", 1), ("zero3_offload", 1)]
)
def test_deepspeed_gives_the_losses_of_plain_training(
    config, processes, plain_losses, recipe, small_dir, run_script, tmp_path
):
    """On the CPU; two processes have half the batch each. The whole model is saved, whoever held which part.

    ZeRO-3 runs in one process: over gloo, two of them abort now and then at the end of a run.
    """
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes)
    options = ("--save_strategy", "no", "--eval_strategy", "no", "--max_steps", "3", "--dataloader_drop_last", True)
    run_script(
        "train_vln.py", recipe, "--output_dir", tmp_path / "zero", *options, "--per_device_train_batch_size",
        6 // processes, "--deepspeed", f"ds_configs/{config}.json", launcher=torchrun,
    )  # fmt: skip
    losses = logged(tmp_path / "zero", "loss")
    assert set(plain_losses) == set(losses) == {1, 2, 3}
    for step, loss in plain_losses.items():
        assert abs(loss - losses[step]) < 1e-4
    before, after = (load_file(folder / "model.safetensors") for folder in (small_dir, tmp_path / "zero"))
    assert {name: value.shape for name, value in before.items()} == {name: v.shape for name, v in after.items()}
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_such.yaml",), "the recipe 'no_such.yaml' does not exist"),
        (("RECIPE", "--prompt_layout", "dense"), "prompt_layout='dense' is not known; choose one of stream, window"),
        (("RECIPE", "--model_name_or_path", "nowhere"), "the model 'nowhere' is no checkpoint"),
        (("RECIPE", "--resume_from_checkpoint", "nowhere"), "resume_from_checkpoint='nowhere' is no complete"),
        (("RECIPE", "--learning_rat", "1e-3"), "--learning_rat"),
        (("RECIPE", "--train_dir", "nowhere"), "nowhere is not a folder; expected one that holds traj_"),
        (("RECIPE", "--history_frames", "0"), "navigation.history_frames=0, but expected a positive number"),
        (("RECIPE", "--history_noise", "2"), "history_noise 2.0 is out of range"),
        (
            ("RECIPE", "--action_weights", "halt=2"),
            "action_weights='halt=2' is not of the form ACTION=POSITIVE_NUMBER",
        ),
        (("RECIPE", "--windows", "random"), "train_sampling_strategy='group_by_length' needs windows whose lengths"),
    ],
)
def test_bad_arguments_are_named(arguments, message, recipe, run_script, tmp_path):
    arguments = [str(recipe) if a == "RECIPE" else a for a in arguments]
    done = run_script("train_vln.py", *arguments, "--output_dir", tmp_path / "out", ok=False)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
