"""Action weights, against cross entropies added up by hand."""

from types import SimpleNamespace

import pytest
import torch

from modeling_pgn.prompting_pgn import Action, NavigationPrompt
from pgn_vln.training.loss import ActionWeightedLoss, parse_action_weights

SEP, EOS = 1026, 13


@pytest.fixture(scope="module")
def prompt(processor):
    return NavigationPrompt(processor.tokenizer, 8, "stream")


def test_weights_are_read_by_name():
    assert parse_action_weights(["stop=2", "Turn_Left = 0.5"]) == {
        Action.STOP: 2.0, Action.MOVE_FORWARD: 1.0, Action.TURN_LEFT: 0.5, Action.TURN_RIGHT: 1.0,
    }  # fmt: skip
    for text in ("halt=2", "stop", "stop=0", "stop=-1", "stop=nan", "stop=inf", "stop=two"):
        with pytest.raises(ValueError, match="ACTION=POSITIVE_NUMBER; actions are stop, move_forward"):
            parse_action_weights([text])


def test_the_loss_is_the_weighted_sum_over_the_number_of_tokens(prompt):
    stop = [*prompt.answer_ids[Action.STOP], EOS]
    forward = [*prompt.answer_ids[Action.MOVE_FORWARD], SEP]
    turn = list(prompt.answer_ids[Action.TURN_LEFT][:1])  # Another action was taken: left or right, who knows.
    rows = [[-100, *forward, -100, *stop], [-100, *turn]]
    labels = torch.full((2, max(map(len, rows))), -100)
    for row, values in enumerate(rows):
        labels[row, : len(values)] = torch.tensor(values)
    logits = torch.randn(*labels.shape, 1028, generator=torch.Generator().manual_seed(0))
    weigh = {Action.STOP: 3.0, Action.MOVE_FORWARD: 1.0, Action.TURN_LEFT: 2.0, Action.TURN_RIGHT: 4.0}

    expected, count = 0.0, 0
    spans = [(0, 1, forward, 1.0), (0, 2 + len(forward), stop, 3.0), (1, 1, turn, 3.0)]
    for row, start, tokens, weight in spans:
        for offset, token in enumerate(tokens):
            expected -= weight * logits[row, start + offset - 1].log_softmax(-1)[token].item()
            count += 1
    loss = ActionWeightedLoss(prompt, weigh)
    assert loss(SimpleNamespace(logits=logits), labels).item() == pytest.approx(expected / count, rel=1e-5)
    # Of a batch that is one part of a larger one, the Trainer says how many tokens the whole has.
    whole = loss(SimpleNamespace(logits=logits), labels, num_items_in_batch=torch.tensor(100))
    assert whole.item() == pytest.approx(expected / 100, rel=1e-5)
