"""Accuracy by action, read off the labels of a batch, with teacher forcing."""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_pgn.prompting_pgn import IGNORE_INDEX, Action, NavigationPrompt


def predicted_ids(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``[B, L]`` ids the model would have written where each label stands (shifted by one, as the loss is).

    Given to the Trainer as ``preprocess_logits_for_metrics``, so that logits are not kept for the whole evaluation.
    """
    if isinstance(logits, tuple):
        logits = logits[0]
    ids = logits.argmax(-1)
    return torch.cat([torch.full_like(ids[:, :1], IGNORE_INDEX), ids[:, :-1]], dim=1)


class ActionAccuracy:
    """``compute_metrics`` of the Trainer.

    An answer counts as right when every one of its tokens, the closing one included, is the most probable. Reported
    are ``accuracy`` over all answers, ``accuracy_<action>`` where the action occurs, and their mean
    ``accuracy_balanced``, which a model that always turns cannot raise.
    """

    def __init__(self, prompt: NavigationPrompt):
        self.prompt = prompt

    def __call__(self, prediction) -> dict[str, float]:
        """Metrics of ``prediction.predictions`` and ``prediction.label_ids``, both ``[B, L]``."""
        right: dict[Action | None, list[bool]] = {}
        for predicted, labels in zip(prediction.predictions, prediction.label_ids, strict=True):
            for start, end in label_runs(labels != IGNORE_INDEX):
                fits = actions_of(self.prompt, labels[start:end])
                action = fits[0] if len(fits) == 1 else None
                right.setdefault(action, []).append(bool((predicted[start:end] == labels[start:end]).all()))
        if not right:
            return {}
        by_action = {action: float(np.mean(right[action])) for action in Action if action in right}
        metrics = {"accuracy": float(np.mean([value for values in right.values() for value in values]))}
        if by_action:
            metrics["accuracy_balanced"] = float(np.mean(list(by_action.values())))
        return metrics | {f"accuracy_{action.name.lower()}": value for action, value in by_action.items()}


def actions_of(prompt: NavigationPrompt, labels: Sequence[int]) -> list[Action]:
    """The actions whose answers begin with ``labels``; several may, as labels end early where another was taken."""
    return [a for a, ids in prompt.answer_ids.items() if list(ids[: len(labels)]) == list(labels[: len(ids)])]


def label_runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """``(start, end)`` of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
