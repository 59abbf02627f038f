import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pgn_vln.evaluation.metrics import episode_metrics, wilson_interval
from pgn_vln.evaluation.records import EpisodeRecord, read_records, verdict, write_records
from pgn_vln.evaluation.report import format_table, picture_name, summarise, write_report
from pgn_vln.io import write_json_atomic, write_text_atomic


def make_record(policy="model", episode_id="e1", distances=(2.5, 1.5, 0.5), stopped=True, **changes):
    positions = [[float(index), 0.0] for index in range(len(distances))]
    reference = [[0.0, 0.0], [2.5, 0.0]] if math.isfinite(distances[0]) else []
    record = EpisodeRecord(
        policy=policy,
        episode_id=episode_id,
        instruction="Find the red chair.",
        level="one_room",
        actions=[1] * (len(distances) - 2) + [0],
        positions=positions,
        goal_distances_m=list(distances),
        stopped=stopped,
        goal_position=[2.5, 0.0],
        reference_path=reference,
        shortest_m=distances[0],
        metrics=episode_metrics(positions, distances, stopped, reference, distances[0], 1.0),
    )
    return replace(record, **changes)


def nan_equal(first, second):
    """Equality of nested records in which NaN equals NaN."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(nan_equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(nan_equal, first, second))
    return first == second or (first != first and second != second)


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append(dict(attributes))


def test_record_survives_strict_json_with_infinity_and_nan(tmp_path):
    record = make_record(distances=(math.inf, math.nan, math.inf))
    write_records(tmp_path / "r.jsonl", [record])
    (line,) = (tmp_path / "r.jsonl").read_text().splitlines()
    data = json.loads(line, parse_constant=refuse_constant)
    assert data["shortest_m"] is None and data["non_finite"]["shortest_m"] == "inf"
    assert data["goal_distances_m"] == [None, None, None] and data["non_finite"]["goal_distances_m/1"] == "nan"
    (again,) = read_records(tmp_path / "r.jsonl")
    assert nan_equal(vars(again), vars(record))


def test_a_line_cut_short_at_the_end_is_dropped_and_elsewhere_is_an_error(tmp_path):
    whole = make_record().to_line()
    path = tmp_path / "r.jsonl"
    path.write_text(whole + "\n" + whole[: len(whole) // 2])
    assert len(read_records(path)) == 1
    path.write_text(whole[: len(whole) // 2] + "\n" + whole + "\n")
    with pytest.raises(ValueError, match="r.jsonl, line 1"):
        read_records(path)


@pytest.mark.parametrize(
    "distances, stopped, words",
    [
        ((3.0, 0.5), True, "success"),
        ((3.0, 2.34), True, "failed: stopped 2.3 m away"),
        ((3.0, 0.5), False, "failed: never stopped, 0.5 m away after 1 steps"),
        ((math.inf, math.inf), True, "failed: goal cannot be reached"),
        ((3.0, math.nan), True, "failed: distance to the goal unknown"),
    ],
)
def test_verdict(distances, stopped, words):
    assert verdict(make_record(distances=distances, stopped=stopped), 1.0) == (words, words == "success")


def test_report_files(tmp_path):
    records = [
        make_record("model", "good"),
        make_record("model", "bad", distances=(4.0, 3.0, 2.0)),
        make_record("random", "good", distances=(2.5, 3.5, 4.5), stopped=False),
        make_record("random", "bad", distances=(4.0, math.inf, math.inf)),
    ]
    for name in ("good", "bad"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{name}.png").write_bytes(b"png")
    returned = write_report(tmp_path, records, 1.0, split="val", settings={"seed": 3})
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse_constant)
    assert summary == returned
    assert (summary["level"], summary["split"], summary["episodes"]) == ("one_room", "val", 2)
    assert summary["success_radius_m"] == 1.0 and summary["settings"] == {"seed": 3}
    assert summary["versions"]["numpy"] == np.__version__
    assert list(summary["policies"]) == ["model", "random"]
    model, random = summary["policies"]["model"], summary["policies"]["random"]
    assert model["sr_1m"] == 0.5 and random["sr_1m"] == 0.0
    assert model["intervals"]["sr_1m"] == pytest.approx(wilson_interval(1, 2))
    assert random["unreachable"] == 1 and random["left_out"] == {"ne_m": 1} and random["ne_m"] == 4.5
    assert model["by_distance"]["0-3 m"]["sr_1m"] == 1.0 and model["by_distance"]["3-6 m"]["sr_1m"] == 0.0

    assert len(read_records(tmp_path / "episodes.jsonl")) == 4
    page = Page((tmp_path / "report.html").read_text())
    images = [values for tag, values in zip(page.tags, page.attributes, strict=True) if tag == "img"]
    assert [image["src"] for image in images] == ["pictures/bad.png", "pictures/good.png"]  # failures first
    assert "script" not in page.tags and "link" not in page.tags
    assert not any("://" in (value or "") for values in page.attributes for value in values.values())


def test_page_escapes_what_data_sets_say(tmp_path):
    evil = '<script>alert("x")</script>'
    record = make_record("model", "../e<1>", instruction=evil, level="<b>")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / picture_name(record.episode_id)).write_bytes(b"png")
    write_report(tmp_path, [record], 1.0)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and "<b>," not in text
    (image,) = [values for tag, values in zip(page.tags, page.attributes, strict=True) if tag == "img"]
    assert image["alt"] == evil  # what a browser would show as text


def test_page_counts_pictures_and_names_no_policy_that_is_missing(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "e1.png").write_bytes(b"png")
    records = [make_record(), make_record(episode_id="e2", distances=(4.0, 3.0, 2.0))]
    write_report(tmp_path, records, 1.0)
    text = (tmp_path / "report.html").read_text()
    assert "1 of 2 episodes have a picture" in text and "failures (0)" in text and "successes (1)" in text
    assert write_report(tmp_path, records, 1.0, model_policy="tuned")["model_policy"] is None
    text = (tmp_path / "report.html").read_text()
    assert "Episodes of" not in text and 'class="model"' not in text
    write_report(tmp_path, records[:1], 1.0)
    assert "have a picture" not in (tmp_path / "report.html").read_text()


def test_picture_names_stay_in_their_folder():
    names = [picture_name(name) for name in ("a/b", "..", "../x", ".hidden", "a b", "house_val_0")]
    assert not any("/" in name or name.startswith(".") for name in names)
    assert len(set(names)) == len(names) and names[-1] == "house_val_0.png"


def test_summary_refuses_policies_on_different_episodes():
    with pytest.raises(ValueError, match="'random' has 1 episodes, 'model' has 2"):
        summarise([make_record(), make_record(episode_id="e2"), make_record("random")], 1.0)
    with pytest.raises(ValueError, match="no episode records"):
        summarise([], 1.0)


def test_table_puts_the_model_first_and_aligns_columns():
    records = [make_record("a_baseline", distances=(math.inf,) * 3), make_record("tuned")]
    table = format_table(summarise(records, 1.0, model_policy="tuned"))
    title, header, rule, first, second, note = table.splitlines()
    assert "1 episodes, success radius 1 m" in title
    assert first.startswith("tuned") and second.startswith("a_baseline")
    assert len(header) == len(rule) == len(first) == len(second)
    assert "1.000 [0.207, 1.000]" in first  # Wilson for 1 of 1: 1 / (1 + 1.96^2) = 0.2065
    assert note.startswith("a_baseline: 1 episodes with an unreachable goal")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_text_atomic(tmp_path / "deep" / "f.json", "old")
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(path, {"loss": math.nan})
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "\ud800")
    assert path.read_text() == "old"
