"""The benchmark of conversion: it runs at a tiny size, and the table in the docs is that of the committed result."""

import json

RESULT = "benchmarks/results/convert_full_size.json"


def rows(result):
    return [
        f"| `pgn convert {name}` | {run['peak_bytes'] / 1e9:.2f} GB | {run['seconds']:.0f} s |"
        for name, run in result["runs"].items()
    ]


def test_it_runs_from_the_command_line(run_script, tmp_path):
    done = run_script(
        "benchmarks/convert_full_size.py", "--size", "tiny", "--work", tmp_path / "work", "--out", tmp_path / "r.json"
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["round_trip_equal"] and result["size"] == "tiny" and 10e6 < result["result_bytes"] < 20e6
    assert list(result["runs"]) == ["from-parts", "to-lavis", "to-original", "from-original"]
    assert all(run["peak_bytes"] > 50e6 and run["seconds"] > 0 for run in result["runs"].values())
    assert all(row in done.stdout for row in rows(result))
    # The weights are gone.
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    refused = run_script("benchmarks/convert_full_size.py", "--work", tmp_path, "--size", "tiny", ok=False)
    assert "File exists" in refused.stderr


def test_the_table_in_the_docs_is_the_committed_result(request):
    result = json.loads((request.config.rootpath / RESULT).read_text())
    assert result["size"] == "full" and result["round_trip_equal"]
    assert 18e9 < result["result_bytes"] < 19e9
    assert max(run["peak_bytes"] for run in result["runs"].values()) < 6e9
    text = (request.config.rootpath / "docs" / "weights.md").read_text()
    for row in (*rows(result), result["date"], result["device"]):
        assert row in text, row
