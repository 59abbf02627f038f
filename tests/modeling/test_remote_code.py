"""A saved checkpoint works without the project: a fresh process, another folder, `trust_remote_code` only."""

import json
import os
import subprocess
import sys

import torch

SCRIPT = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
for name in ("modeling_pgn", "pgn_vln", "configuration_pgn", "processing_pgn"):
    assert importlib.util.find_spec(name) is None, name
import numpy, torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
frame = numpy.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
batch = processor(images=[frame], text="<|image|>What is here?", return_tensors="pt")
result = {"model_type": config.model_type, "text": type(config.text_config).__name__}
result["ids"] = batch["input_ids"].tolist()
for auto in (AutoModel, AutoModelForImageTextToText):
    model = auto.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        logits = model(**batch).logits
    result[auto.__name__] = [type(model).__name__, logits[0, -1].tolist()]
navigator = model.navigator(processor)
navigator.reset("walk to the red chair")
result["action"] = int(navigator.act(frame))
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
json.dump(result, open(sys.argv[3], "w"))
"""


def run_apart(folder, tmp_path, name):
    cwd = tmp_path / name
    cwd.mkdir()
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / f"modules_{name}"), "PYTHONPATH": ""}
    saved, out = tmp_path / f"saved_{name}", cwd / "result.json"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(saved), str(out)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text()), saved


def test_a_checkpoint_loads_and_acts_without_the_project(model, processor, tmp_path):
    folder = tmp_path / "published"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    result, saved = run_apart(folder, tmp_path, "first")

    import numpy

    frame = numpy.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)
    batch = processor(images=[frame], text="<|image|>What is here?", return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits[0, -1]
    navigator = model.navigator(processor)
    navigator.reset("walk to the red chair")
    assert result["model_type"] == "pgn" and result["text"] == "OpenPanguConfig"
    assert result["ids"] == batch["input_ids"].tolist()
    for auto in ("AutoModel", "AutoModelForImageTextToText"):
        name, logits = result[auto]
        assert name == "PGNForConditionalGeneration"
        assert torch.allclose(torch.tensor(logits), expected, atol=1e-5)
    assert result["action"] == int(navigator.act(frame))

    # What a user saves again is as complete as what was loaded.
    assert {p.name for p in saved.iterdir()} == {p.name for p in folder.iterdir()}
    again, _ = run_apart(saved, tmp_path, "second")
    assert again == result
