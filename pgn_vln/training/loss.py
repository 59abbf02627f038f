"""The loss with a weight for each action, for the Trainer's ``compute_loss_func``."""

from collections.abc import Sequence

import torch
from torch import nn

from modeling_pgn.prompting_pgn import IGNORE_INDEX, Action, NavigationPrompt
from pgn_vln.training.accuracy import actions_of, label_runs


def parse_action_weights(texts: Sequence[str]) -> dict[Action, float]:
    """``["stop=2"]`` as ``{Action.STOP: 2.0}``; actions that are not named weigh 1.

    Raises:
        ValueError: an unknown action, or a weight that is no positive number.
    """
    weights = dict.fromkeys(Action, 1.0)
    for text in texts:
        name, _, value = text.partition("=")
        try:
            weights[Action[name.strip().upper()]] = float(value)
            fits = 0 < float(value) < float("inf")
        except (KeyError, ValueError):
            fits = False
        if not fits:
            names = ", ".join(action.name.lower() for action in Action)
            raise ValueError(f"action_weights={text!r} is not of the form ACTION=POSITIVE_NUMBER; actions are {names}")
    return weights


class ActionWeightedLoss:
    """Cross entropy in which the tokens of an answer count as much as their action weighs.

    The sum is divided by the number of supervised tokens, not by their weight, so that gradient accumulation and
    several processes change nothing.

    Args:
        prompt: that the labels were written with.
        weights: of every action.
    """

    def __init__(self, prompt: NavigationPrompt, weights: dict[Action, float]):
        self.prompt = prompt
        self.weights = weights

    def token_weights(self, labels_BL: torch.Tensor) -> torch.Tensor:
        """What each position of ``labels [B, L]`` weighs; 0 where nothing is supervised."""
        rows = labels_BL.cpu().numpy()
        weights_BL = torch.zeros(labels_BL.shape)
        for row, labels in enumerate(rows):
            for start, end in label_runs(labels != IGNORE_INDEX):
                # Where another action was taken labels end early, and may fit several ("turn").
                fits = actions_of(self.prompt, labels[start:end])
                weights_BL[row, start:end] = sum(self.weights[action] for action in fits) / len(fits)
        return weights_BL.to(labels_BL.device)

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """The loss of ``outputs.logits [B, L, vocabulary]`` for ``labels [B, L]``."""
        targets_BL = labels[:, 1:]
        logits_BLV = outputs.logits[:, :-1].float()
        losses_BL = nn.functional.cross_entropy(
            logits_BLV.transpose(1, 2), targets_BL, ignore_index=IGNORE_INDEX, reduction="none"
        )
        total = (losses_BL * self.token_weights(labels)[:, 1:]).sum()
        return total / ((targets_BL != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch)
