"""`pgn convert inspect`: what it says of each kind of file and folder."""

import json
import subprocess
import sys

import pytest
import torch
from conversion_helpers import HEADS
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from modeling_pgn import PGNForConditionalGeneration


@pytest.fixture(scope="module")
def kinds(lavis_file, lavis_state, original_state, llm, tiny_dir, tmp_path_factory):
    """Something of each kind, by what it is called."""
    folder = tmp_path_factory.mktemp("kinds")
    vit = {name.removeprefix("visual_encoder."): value for name, value in lavis_state.items() if "visual_enc" in name}
    torch.save({"module": vit, "optimizer": {}}, folder / "eva.pth")
    torch.save({f"_orig_mod.{name}": value for name, value in original_state.items()}, folder / "original.pth")
    save_file({"vision_model.embeddings.class_embedding": torch.zeros(1, 1, 4)}, folder / "blip2.safetensors")
    save_file({"conv1.weight": torch.zeros(4)}, folder / "other.safetensors")
    model = PGNForConditionalGeneration.from_pretrained(tiny_dir)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder / "adapter")
    return {
        "a BLIP-2 checkpoint of LAVIS (first stage)": lavis_file,
        "a ViT alone, such as eva_vit_g.pth": folder / "eva.pth",
        "a checkpoint of the original PGN system": folder / "original.pth",
        "a BLIP-2 of transformers, without its configuration": folder / "blip2.safetensors",
        "weights of a kind that is not known": folder / "other.safetensors",
        "an adapter (PEFT)": folder / "adapter",
        "a PGN checkpoint": tiny_dir,
        "weights of a PGN, without its configuration": tiny_dir / "model.safetensors",
        "a model of transformers, model_type PanguEmbedded": llm,
    }


def test_kinds_are_told_apart(kinds, pgn):
    for kind, path in kinds.items():
        assert pgn("convert", "inspect", path).startswith(f"{path}: {kind}\n")


def test_parts_shapes_and_types_are_listed(kinds, pgn, original_state):
    path = kinds["a checkpoint of the original PGN system"]
    rows = {line[:36].strip(): line[36:].split() for line in pgn("convert", "inspect", path).splitlines()[2:]}
    assert set(rows) == {"vision tower", "Q-Former", "projector", "language model", "all"}
    assert rows["projector"] == ["4", "7,296", "0.000", "float32"]
    assert rows["all"][:2] == [str(len(original_state)), f"{sum(t.numel() for t in original_state.values()):,}"]
    every = pgn("convert", "inspect", path, "--tensors", "true").splitlines()
    line = next(line for line in every if "pangu_proj.0.weight" in line).split()
    assert line == ["_orig_mod.pangu_proj.0.weight", "64", "x", "48", "float32"]
    found = json.loads(pgn("convert", "inspect", kinds["a ViT alone, such as eva_vit_g.pth"], "--json", "true"))
    assert found["others"] == ["optimizer"] and list(found["parts"]) == ["vision tower (a ViT alone)"]
    assert found["parts"]["vision tower (a ViT alone)"]["cls_token"] == {"shape": [1, 1, 88], "dtype": "float32"}
    assert "unknown " in pgn("convert", "inspect", kinds["weights of a kind that is not known"])


def test_a_conversion_is_inspected_and_the_command_runs_as_a_program(lavis_file, llm, tmp_path, request):
    command = (sys.executable, "-m", "pgn_vln", "convert")
    made = subprocess.run(
        [*command, "from-parts", "--llm", llm, "--qformer", lavis_file, *HEADS, "--out", tmp_path / "pgn"],
        cwd=request.config.rootpath, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0 and f"next: pgn convert inspect {tmp_path / 'pgn'}" in made.stdout, made.stderr
    (tmp_path / "pgn" / "config.json").write_text("[]")
    looked = subprocess.run(
        [*command, "inspect", tmp_path / "pgn"], cwd=request.config.rootpath, capture_output=True, text=True
    )
    assert looked.returncode == 2 and "is no JSON object" in looked.stderr and "Traceback" not in looked.stderr
    missing = subprocess.run(
        [*command, "inspect"], cwd=request.config.rootpath, capture_output=True, text=True
    )  # fmt: skip
    assert missing.returncode == 2 and "--path" in missing.stderr
