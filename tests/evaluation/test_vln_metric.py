from pathlib import Path

import evaluate
import pytest

from pgn_vln.evaluation import metrics

MODULE = Path(metrics.__file__).with_name("vln_metric.py")


@pytest.fixture
def metric(monkeypatch, tmp_path):
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    return evaluate.load(str(MODULE), cache_dir=str(tmp_path))


def test_loads_offline_and_computes(metric):
    walk = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
    result = metric.compute(
        predictions=[
            {"positions": walk, "goal_distances_m": [2.5, 1.5, 0.5], "stopped": True},
            {"positions": walk[:2], "goal_distances_m": [2.5, 1.5], "stopped": True},
        ],
        references=[{"path": walk, "shortest_m": 2.5}, {"path": walk, "shortest_m": 2.5}],
        radius_m=[1.0, 3.0],
    )
    assert result["sr_1m"] == 0.5 and result["sr_3m"] == 1.0
    assert result["tl_m"] == pytest.approx(1.5)
    assert result["ne_m"] == pytest.approx(1.0)
    assert result["episodes"] == 2


def test_incremental_batches_equal_one_call(metric):
    prediction = {"positions": [[0, 0, 0], [0, 0, 1]], "goal_distances_m": [2, 1], "stopped": False}
    reference = {"path": [[0, 0, 0], [0, 0, 2]], "shortest_m": 2}
    for _ in range(3):
        metric.add(prediction=prediction, reference=reference)
    result = metric.compute()
    assert result["episodes"] == 3 and result["stop_rate"] == 0.0 and result["ne_m"] == 1.0
