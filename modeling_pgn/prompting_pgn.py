"""Navigation prompts and actions: the only place where a prompt is written and an action is named.

Training, evaluation and serving build their token ids here, so that what the model reads in use is, token by token,
what it was trained on. Two layouts exist (``{img}`` stands for one ``<|image|>`` placeholder per query token):

``window``
    The prompt of the original system. History frames with the actions taken, then the current frame; one answer.
``stream``
    Instruction first, then one block a step. It is causal, so every step is supervised in one forward pass, and in
    use the KV cache only grows.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, NamedTuple

IMAGE_TOKEN = "<|image|>"
IMAGE_START_TOKEN = "<|image_start|>"
IMAGE_END_TOKEN = "<|image_end|>"
FRAME_SEP_TOKEN = "<|frame_sep|>"
SPECIAL_TOKENS = (IMAGE_TOKEN, IMAGE_START_TOKEN, IMAGE_END_TOKEN, FRAME_SEP_TOKEN)

PromptLayout = Literal["stream", "window"]
PROMPT_LAYOUTS: tuple[PromptLayout, ...] = ("stream", "window")
IGNORE_INDEX = -100


class Action(IntEnum):
    """The four actions, with the ids that R2R-CE, Habitat and the trajectory files use."""

    STOP = 0
    MOVE_FORWARD = 1
    TURN_LEFT = 2
    TURN_RIGHT = 3


def action_names(turn_degrees: int = 15) -> dict[Action, str]:
    """What each action is called in a prompt; RxR-CE turns by 30 degrees instead of 15."""
    return {
        Action.STOP: "stop",
        Action.MOVE_FORWARD: "move forward",
        Action.TURN_LEFT: f"turn left {turn_degrees} degrees",
        Action.TURN_RIGHT: f"turn right {turn_degrees} degrees",
    }
