"""Which steps of an episode one training sample holds.

A window is a half-open range ``(start, end)`` of step indices. What is supervised in it depends on the prompt layout:
``window`` asks for the last step's action, ``stream`` for the action of every step.
"""

import hashlib
import random

from modeling_pgn.prompting_pgn import PROMPT_LAYOUTS, PromptLayout

Window = tuple[int, int]

# The original system draws its unlimited windows from this step on.
_FIRST_RANDOM_STEP = 3


def check_window_settings(layout: PromptLayout, history_frames: int | None) -> None:
    """Refuse settings that give no windows.

    Raises:
        ValueError: naming the field.
    """
    if layout not in PROMPT_LAYOUTS:
        raise ValueError(f"prompt_layout is {layout!r}; expected one of {', '.join(PROMPT_LAYOUTS)}")
    if history_frames is None:
        return
    if not isinstance(history_frames, int) or isinstance(history_frames, bool) or history_frames < 1:
        raise ValueError(
            f"history_frames is {history_frames!r}; expected a whole number of 1 or more, or none for whole episodes; "
            "set it to the steps that the model shall remember"
        )


def all_windows(steps: int, layout: PromptLayout, history_frames: int | None) -> list[Window]:
    """Windows that ask for every action of an episode of `steps` steps exactly once.

    ``window``: for every step t, up to `history_frames` steps before it, and itself: ``steps[max(0, t - h)..t]``; from
    the start without `history_frames`. ``stream``: tiles of `history_frames` steps, the last one may be shorter;
    the whole episode without `history_frames`.

    Raises:
        ValueError: for an empty episode or settings that make no sense.
    """
    check_window_settings(layout, history_frames)
    _check_steps(steps)
    if layout == "window":
        history = steps if history_frames is None else history_frames
        return [(max(0, step - history), step + 1) for step in range(steps)]
    size = steps if history_frames is None else history_frames
    return [(start, min(start + size, steps)) for start in range(0, steps, size)]


def random_window(
    steps: int, layout: PromptLayout, history_frames: int | None, *, seed: int, epoch: int, episode_id: str
) -> Window:
    """Draw the one window that an episode contributes to an epoch, the same on every process.

    ``window`` draws as the original system did: with `history_frames` = h, h + 1 consecutive steps from a random
    start (so that steps before the h-th are never asked for: `all_windows` covers them); without, ``steps[0..t]``
    with t from 3 to the last step. ``stream``: up to `history_frames` consecutive steps from a random start, or the
    whole episode.

    Raises:
        ValueError: as `all_windows`.
    """
    check_window_settings(layout, history_frames)
    _check_steps(steps)
    digest = hashlib.sha256(f"{seed}/{epoch}/{episode_id}".encode()).digest()
    generator = random.Random(int.from_bytes(digest[:8], "big"))
    if history_frames is None:
        if layout == "stream":
            return 0, steps
        last = steps - 1
        return 0, 1 + (last if last < _FIRST_RANDOM_STEP else generator.randint(_FIRST_RANDOM_STEP, last))
    size = min(steps, history_frames + 1 if layout == "window" else history_frames)
    start = generator.randint(0, steps - size)
    return start, start + size


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"an episode of {steps} steps has no windows; expected at least 1")
