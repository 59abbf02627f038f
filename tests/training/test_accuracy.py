"""Accuracy by action, on label arrays written by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeling_pgn.prompting_pgn import NavigationPrompt
from pgn_vln.training.accuracy import ActionAccuracy, predicted_ids

SEP, EOS = 1026, 13


@pytest.fixture(scope="module")
def prompt(processor):
    return NavigationPrompt(processor.tokenizer, 8, "stream")


def answer(prompt, action):
    return [*prompt.answer_ids[action], EOS if action == 0 else SEP]


def test_an_answer_is_right_when_all_its_tokens_are(prompt):
    forward, left, right, stop = (answer(prompt, a) for a in (1, 2, 3, 0))
    gap = [-100, -100]
    labels = np.array([gap + forward + gap + left + gap + left + gap + stop + gap])
    predicted = labels.copy()
    second_left = 2 + len(forward) + 2 + len(left) + 2
    predicted[0, second_left + 1] = right[1]  # It would have said "turn right" there.
    predicted[0, :2] = 7  # Where nothing is supervised, anything may stand.
    metrics = ActionAccuracy(prompt)(SimpleNamespace(predictions=predicted, label_ids=labels))
    assert metrics == {
        "accuracy": 0.75,
        "accuracy_stop": 1.0,
        "accuracy_move_forward": 1.0,
        "accuracy_turn_left": 0.5,
        "accuracy_balanced": pytest.approx(2.5 / 3),
    }


def test_a_missing_end_token_is_an_error(prompt):
    labels = np.array([[-100, *answer(prompt, 0), -100]])
    predicted = np.where(labels == EOS, SEP, labels)
    assert ActionAccuracy(prompt)(SimpleNamespace(predictions=predicted, label_ids=labels))["accuracy_stop"] == 0.0


def test_labels_that_end_early_count_where_they_name_one_action(prompt):
    """Where something else was taken: "turn right" is enough to know the action, "turn" alone is not."""
    right = answer(prompt, 3)
    known = np.array([[-100, *right[:2], -100]])
    unknown = np.array([[-100, right[0], -100, -100]])
    assert ActionAccuracy(prompt)(SimpleNamespace(predictions=known, label_ids=known)) == {
        "accuracy": 1.0, "accuracy_turn_right": 1.0, "accuracy_balanced": 1.0,
    }  # fmt: skip
    assert ActionAccuracy(prompt)(SimpleNamespace(predictions=unknown, label_ids=unknown)) == {"accuracy": 1.0}


def test_predictions_stand_at_the_token_they_predict():
    logits = torch.zeros(1, 3, 5)
    logits[0, 0, 4] = logits[0, 1, 2] = logits[0, 2, 1] = 1.0
    assert predicted_ids(logits, None).tolist() == [[-100, 4, 2]]
