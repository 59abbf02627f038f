"""`train_grounding.py` as `make base` starts it, on a short budget: it learns, resumes exactly, is measured."""

import json
import shutil
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeling_pgn import PGNForConditionalGeneration
from pgn_vln.training.grounding import HEADS, balanced_loss, recognition_loss

PGN = (sys.executable, "-m", "pgn_vln")


@pytest.fixture(scope="module")
def recipe(small_dir, tmp_path_factory, needs_renderer):
    values = {
        "model_name_or_path": str(small_dir), "levels": ["one_room"], "views_per_house": 6, "eval_houses": 6,
        "max_steps": 40, "per_device_train_batch_size": 4, "learning_rate": 3e-3, "logging_steps": 1,
        "save_strategy": "no", "save_minutes": 0.0, "save_total_limit": 100, "use_cpu": True, "disable_tqdm": True,
        "seed": 3, "hfov_degrees": 80,
    }  # fmt: skip
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def finished(recipe, run_script, tmp_path_factory):
    out = tmp_path_factory.mktemp("grounding") / "base"
    run_script("train_grounding.py", recipe, "--output_dir", out)
    return out


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_loss_falls(finished):
    values = losses(finished)
    assert len(values) == 40 and sum(values[-5:]) < 0.6 * sum(values[:5])


def test_it_stops_by_the_clock_and_resumes_exactly(finished, recipe, run_script, tmp_path):
    """A checkpoint at every step (save_minutes 0); cut off after step 25, it ends as if nothing had happened."""
    assert (finished / "checkpoint-1").is_dir()
    out = tmp_path / "base"
    out.mkdir()
    shutil.copytree(finished / "checkpoint-25", out / "checkpoint-25")
    shutil.copy(finished / "metrics.jsonl", out)
    run_script("train_grounding.py", recipe, "--output_dir", out, "--resume_from_checkpoint", "last")
    assert losses(out) == losses(finished)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, finished))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_heads_are_in_the_checkpoints_and_not_in_the_result(finished):
    saved = load_file(finished / "checkpoint-40" / "model.safetensors")
    assert all(f"{head}.weight" in saved for head in HEADS)
    assert not any(name.startswith(HEADS) for name in load_file(finished / "model.safetensors"))
    model = PGNForConditionalGeneration.from_pretrained(finished)
    assert model.config.navigation["hfov_degrees"] == 80
    assert not any(hasattr(model, head) for head in HEADS)


def test_the_card_says_how_it_was_made_and_takes_the_measured_table(finished, run_script, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    card = (folder / "README.md").read_text()
    assert "train_grounding.py" in card and "40 steps" in card and "960 views" in card and "Not measured yet" in card
    command = (
        "evaluate",
        "grounding",
        "--model",
        folder,
        "--houses",
        "4",
        "--levels",
        "one_room",
        "--use_cpu",
        "true",
    )
    done = run_script(*command, "--card", "true", launcher=PGN)
    measured = json.loads((folder / "grounding_test.json").read_text())
    assert measured["questions"] == measured["all"]["seen"] + measured["all"]["hidden"] > 20
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    card = (folder / "README.md").read_text()
    assert "Not measured yet" not in card and "\n".join(table) in card and len(table) > 10
    # A second measurement takes the place of the first.
    run_script(*command, "--card", "true", launcher=PGN)
    assert (folder / "README.md").read_text() == card
    (folder / "README.md").write_text("# no marks\n")
    refused = run_script(*command, "--card", "true", launcher=PGN, ok=False)
    assert "error:" in refused.stderr and "README.md" in refused.stderr
    assert (folder / "README.md").read_text() == "# no marks\n"


def test_auxiliary_losses_weigh_something_and_nothing_alike():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 0])
    losses = -logits.log_softmax(-1)[range(4), labels]
    assert torch.allclose(balanced_loss(logits, labels), (losses[1] + losses[[0, 2, 3]].mean()) / 2)
    assert torch.allclose(balanced_loss(logits[1:2], labels[1:2]), losses[1])
    # 10 kinds and 7 colours, "nothing" and the colourless door counted; what stands behind them is handed back.
    loss, rest = recognition_loss(torch.zeros(3, 10 + 7 + 4), torch.tensor([0, 1, 2]))
    assert loss.item() == pytest.approx(torch.tensor(10.0).log().item() + torch.tensor(7.0).log().item())
    assert rest.shape == (3, 4)


def test_a_level_that_is_none_is_refused_in_words(recipe, run_script, tmp_path):
    refused = run_script("train_grounding.py", recipe, "--output_dir", tmp_path / "x", "--levels", "castle", ok=False)
    assert "castle" in refused.stderr and "Traceback" not in refused.stderr and not (tmp_path / "x").exists()
