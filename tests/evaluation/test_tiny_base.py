"""The published tiny base: complete, small, of today's code, and it knows what is where."""

import contextlib
import io
import json
import re

import numpy as np
import pytest

from modeling_pgn import PGNConfig, PGNForConditionalGeneration, PGNProcessor
from pgn_vln.data.grounding import NOT_SEEN, encode_question
from pgn_vln.evaluation.grounding import Answer, ask_model, draw_questions, markdown_table, summarise, write_section
from pgn_vln.navigation.views import HouseViews


@pytest.fixture(scope="module")
def base(request):
    return request.config.rootpath / "checkpoints" / "pgn-tiny-base"


def test_it_is_complete_and_small(base):
    names = {path.name for path in base.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.model", "processor_config.json", "README.md"} <= names
    # Nothing that has to be unpickled, and nothing of the training but its record.
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    assert (base / "model.safetensors").stat().st_size <= 12_000_000


def test_its_code_is_the_repository_s(base, request):
    """A change of the model's code is published with: cp modeling_pgn/*.py checkpoints/pgn-tiny-base/."""
    shipped = {path.name: path.read_text() for path in base.glob("*.py")}
    package = {path.name: path.read_text() for path in (request.config.rootpath / "modeling_pgn").glob("*.py")}
    assert "modeling_pgn.py" in shipped and "navigator_pgn.py" in shipped
    assert shipped == {name: package[name] for name in shipped}


def test_it_is_what_pgn_new_would_make(base):
    shipped, fresh = PGNConfig.from_pretrained(base).to_dict(), PGNConfig.tiny(vocab_size=1024).to_dict()
    for part in ("vision_config", "qformer_config", "text_config"):
        for field in ("hidden_size", "num_hidden_layers", "vocab_size", "patch_size"):
            assert shipped[part].get(field) == fresh[part].get(field), (part, field)
    assert shipped["num_query_tokens"] == fresh["num_query_tokens"]


def test_the_card_s_figures_are_measured_again(base, needs_renderer):
    """Fewer houses than the card's, and none of them: within the spread that so many questions have."""
    card = (base / "README.md").read_text()
    published = json.loads((base / "grounding_test.json").read_text())["all"]
    row = re.search(r"^\| all \| (\d+) \| (\d+)% \| (\d+)% \| (\d+)% \| (\d+) \| (\d+)% \|$", card, re.MULTILINE)
    shown = [int(value) for value in row.groups()]
    assert shown == [
        published["seen"], *(round(100 * published[key]) for key in ("found", "direction", "distance")),
        published["hidden"], round(100 * published["denied"]),
    ]  # fmt: skip
    model, processor = PGNForConditionalGeneration.from_pretrained(base).eval(), PGNProcessor.from_pretrained(base)
    views = HouseViews(("one_room", "two_rooms"), "val", 5)
    summary = summarise(ask_model(model, processor, list(draw_questions(views, 40)), progress=False))["all"]
    views.close()
    assert summary["seen"] > 120 and summary["hidden"] > 150
    for key in ("found", "direction", "distance", "denied"):
        assert summary[key] == pytest.approx(published[key], abs=0.12), key


def test_the_card_s_lines_ask_as_training_did(base):
    """What a user writes out becomes, token by token, what the model has learned to read."""
    lines = (base / "README.md").read_text().split("```python")[1].split("```")[0]
    loading, asking = lines.split('text = "')
    frame = np.full((64, 64, 3), 200, dtype=np.uint8)
    known = {"frame": frame, "model": None, "processor": PGNProcessor.from_pretrained(base)}
    exec('text = "' + asking.split("words =")[0], known)
    assert known["inputs"]["input_ids"][0].tolist() == encode_question(known["processor"], "where is the red chair?")
    known["model"] = PGNForConditionalGeneration.from_pretrained(base).eval()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec("words =" + asking.split("words =")[1], known)
    assert said.getvalue().strip() == NOT_SEEN
    assert "trust_remote_code=True" in loading


def test_answers_are_counted_part_by_part():
    answers = [
        Answer("red chair", "ahead, near", "ahead, near"), Answer("red chair", "ahead, near", "ahead, far away"),
        Answer("red bed", "to the left, here", "not in sight"), Answer("blue bed", "ahead, near", "ahead ahead"),
        Answer("door", "not in sight", "not in sight"), Answer("blue bed", "not in sight", "ahead, near"),
    ]  # fmt: skip
    summary = summarise(answers)
    assert summary["questions"] == 6
    assert summary["all"] == {
        "seen": 4, "found": 0.5, "direction": 0.5, "distance": 0.25, "hidden": 2, "denied": 0.5,
    }  # fmt: skip
    assert summary["kinds"]["chair"] == {"seen": 2, "found": 1.0, "direction": 1.0, "distance": 0.5, "hidden": 0}
    assert summary["colours"]["blue"]["seen"] == 1 and set(summary["kinds"]) == {"chair", "bed", "door"}
    table = markdown_table(summary).splitlines()
    assert table[2] == "| all | 4 | 50% | 50% | 25% | 2 | 50% |"
    assert table[3] == "| chair | 2 | 100% | 100% | 50% | 0 | – |"


def test_a_card_without_marks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no card"):
        write_section(tmp_path / "README.md", "text")
