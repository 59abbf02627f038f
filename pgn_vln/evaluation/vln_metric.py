"""The navigation metrics as a module of the `evaluate` library; it loads offline, by the path of this file.

    metric = evaluate.load("pgn_vln/evaluation/vln_metric.py")
    metric.compute(predictions=[...], references=[...], radius_m=[1.0, 3.0])

The formulas are those of `pgn_vln.evaluation.metrics`. `evaluate` copies this file and reads its imports with a
pattern that knows one plain import a line: keep them so.
"""

from typing import Any

import datasets
import evaluate

from pgn_vln.evaluation import metrics

_DESCRIPTION = "NE, SR, OSR, TL, SPL, nDTW, SDTW and CLS of vision-language navigation, from positions and geodesics."
_INPUTS = """
Args:
    predictions: one dictionary an episode with `positions` [T + 1, 2 or 3], `goal_distances_m` [T + 1], `stopped`.
    references: one dictionary an episode with `path` [R, 2 or 3] and `shortest_m` (geodesic, start to goal).
    radius_m: success radius in metres, or several.
Returns:
    the dictionary of `pgn_vln.evaluation.metrics.aggregate`: means, counts and 95 % intervals.
"""


class VLNMetric(evaluate.Metric):
    """`evaluate.Metric` over `episode_metrics` and `aggregate`."""

    def _info(self) -> evaluate.MetricInfo:
        path = datasets.List(datasets.List(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": {
                        "positions": path,
                        "goal_distances_m": datasets.List(datasets.Value("float64")),
                        "stopped": datasets.Value("bool"),
                    },
                    "references": {"path": path, "shortest_m": datasets.Value("float64")},
                }
            ),
        )

    def _compute(
        self,
        predictions: list[dict[str, Any]],
        references: list[dict[str, Any]],
        radius_m: float | list[float] = 1.0,
    ) -> dict[str, Any]:
        """Aggregate the metrics of paired predictions and references."""
        return metrics.aggregate(
            [
                metrics.episode_metrics(
                    prediction["positions"],
                    prediction["goal_distances_m"],
                    prediction["stopped"],
                    reference["path"],
                    reference["shortest_m"],
                    radius_m,
                )
                for prediction, reference in zip(predictions, references, strict=True)
            ]
        )
