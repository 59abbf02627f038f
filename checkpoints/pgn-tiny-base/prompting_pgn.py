"""Navigation prompts and actions: the only place where a prompt is written and an action is named.

Training, evaluation and serving build their token ids here, so that what the model reads in use is, token by token,
what it was trained on. Two layouts exist (``{img}`` stands for one ``<|image|>`` placeholder per query token):

``window``
    The prompt of the original system: history frames with the actions taken, then the current frame, one answer::

        {task}
        {instruction}
        These are the scenes you saw and the actions you took:
        <|image_start|>{img}action taken:{a_0}<|frame_sep|>{img}action taken:{a_1}<|image_end|>
        The last picture you see is what you see from your current location.
        <|image_start|>{img}<|image_end|>
        please take your action now:
        {answer}{eos}

    At an episode's first frame nothing has been seen yet: the two lines of history are left out.

``stream``
    Instruction first, then one block a step::

        {task}
        {instruction}
        These are the scenes you saw and the actions you took:
        <|image_start|>{img}<|image_end|>action taken:{a_0}<|frame_sep|>

    It is causal, so every step is supervised in one forward pass, and in use the KV cache only grows. An answer is
    closed by ``<|frame_sep|>``, and by eos after ``stop``.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Literal, NamedTuple

IMAGE_START_TOKEN = "<|image_start|>"
IMAGE_END_TOKEN = "<|image_end|>"
FRAME_SEP_TOKEN = "<|frame_sep|>"
IMAGE_TOKEN = "<|image|>"
# The placeholder comes last: checkpoints of the original system have rows for the first three, in this order.
SPECIAL_TOKENS = (IMAGE_START_TOKEN, IMAGE_END_TOKEN, FRAME_SEP_TOKEN, IMAGE_TOKEN)

PromptLayout = Literal["stream", "window"]
PROMPT_LAYOUTS = ("stream", "window")
IGNORE_INDEX = -100

TASK = (
    "You are a helpful navigation assistant. Based on what you see, please output the action you should take. "
    "Your output should only include: {forward}, {left}, {right}, or {stop}."
)
HISTORY_HEADER = "These are the scenes you saw and the actions you took:"
CURRENT_HEADER = "The last picture you see is what you see from your current location."
ACTION_ANCHOR = "action taken:"
ANSWER_ANCHOR = "please take your action now:\n"


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


class Segment(NamedTuple):
    """A stretch of a prompt.

    ``context`` is read only. ``action`` is an action that was taken, continuing the text before it; where ``label``
    is set, it is supervised, and ``close`` is the token that ends it.
    """

    text: str
    action: Action | None = None
    label: Action | None = None
    close: str = ""


class EncodedPrompt(NamedTuple):
    """Token ids with their labels (-100 where nothing is supervised), and the first step that was kept."""

    input_ids: list[int]
    labels: list[int]
    first_step: int


class NavigationPrompt:
    """Writes and tokenizes the navigation prompt of one layout.

    Args:
        tokenizer: has the four special tokens and an eos.
        num_query_tokens: placeholders that stand for one frame (Q).
        layout: ``"stream"`` or ``"window"``.
        turn_degrees: what a turn is called in the task and in the answers.

    Raises:
        ValueError: an unknown layout; a special token the tokenizer lacks.
    """

    def __init__(self, tokenizer, num_query_tokens: int, layout: PromptLayout = "stream", turn_degrees: int = 15):
        if layout not in PROMPT_LAYOUTS:
            raise ValueError(f"prompt_layout={layout!r} is not known; choose one of {', '.join(PROMPT_LAYOUTS)}")
        known = tokenizer.get_vocab()
        for token in SPECIAL_TOKENS:
            if token not in known:
                raise ValueError(
                    f"the tokenizer has no special token {token!r}; add all of {', '.join(SPECIAL_TOKENS)} with "
                    "add_special_tokens and extend the model's vocabulary"
                )
        self.tokenizer = tokenizer
        self.num_query_tokens = num_query_tokens
        self.layout = layout
        self.names = action_names(turn_degrees)
        self.bos_ids = _leading_special_ids(tokenizer)
        self.task = TASK.format(
            forward=self.names[Action.MOVE_FORWARD],
            left=self.names[Action.TURN_LEFT],
            right=self.names[Action.TURN_RIGHT],
            stop=self.names[Action.STOP],
        )
        # Of one episode only the instruction is new: everything else comes out of this cache.
        self._tokenize = lru_cache(maxsize=4096)(
            lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        history, answer = ACTION_ANCHOR, ANSWER_ANCHOR if layout == "window" else ACTION_ANCHOR
        self._history_ids = {action: self._continuation_ids(history, name) for action, name in self.names.items()}
        self.answer_ids = {action: self._continuation_ids(answer, name) for action, name in self.names.items()}

    def close_token(self, action: Action) -> str:
        """The token that ends a supervised answer: eos, or ``<|frame_sep|>`` where a ``stream`` goes on."""
        return self.tokenizer.eos_token if self.layout == "window" or action is Action.STOP else FRAME_SEP_TOKEN

    def segments(self, instruction: str, actions: Sequence[int], labels: Sequence[int] | None = None) -> list[Segment]:
        """The prompt in pieces.

        Args:
            instruction: what the agent was told.
            actions: the actions *taken*. In use one for each past frame; in training one for each frame.
            labels: the actions that *should be* taken, one for each frame; None in use.

        Raises:
            ValueError: ``actions`` and ``labels`` differ in length, or are empty; a special token in the instruction.
        """
        written = [token for token in self.tokenizer.all_special_tokens if token in instruction]
        if written:
            raise ValueError(
                f"the instruction {instruction!r} contains the special token {written[0]!r}, which the model would "
                "read as a command; remove it from the text"
            )
        actions = [Action(a) for a in actions]
        if labels is not None:
            labels = [Action(a) for a in labels]
            if len(labels) != len(actions) or not labels:
                raise ValueError(
                    f"a training prompt needs an action and a label for every frame, at least one; got "
                    f"{len(actions)} actions and {len(labels)} labels"
                )
        write = self._window if self.layout == "window" else self._stream
        return write(instruction, actions, labels)

    def _window(self, instruction: str, actions: list[Action], labels: list[Action] | None) -> list[Segment]:
        past = actions if labels is None else actions[:-1]
        head = f"{self.task}\n{instruction}\n"
        pieces = []
        if past:
            opening = f"{head}{HISTORY_HEADER}\n{IMAGE_START_TOKEN}{IMAGE_TOKEN}{ACTION_ANCHOR}"
            for action in past:
                pieces += [Segment(opening), Segment(self.names[action], action)]
                opening = f"{FRAME_SEP_TOKEN}{IMAGE_TOKEN}{ACTION_ANCHOR}"
            head = f"{IMAGE_END_TOKEN}\n"
        current = f"{CURRENT_HEADER}\n{IMAGE_START_TOKEN}{IMAGE_TOKEN}{IMAGE_END_TOKEN}\n{ANSWER_ANCHOR}"
        pieces.append(Segment(head + current))
        if labels is not None:
            answer = labels[-1]
            pieces.append(Segment(self.names[answer], answer, answer, self.close_token(answer)))
        return pieces

    def _stream(self, instruction: str, actions: list[Action], labels: list[Action] | None) -> list[Segment]:
        opening = f"{IMAGE_START_TOKEN}{IMAGE_TOKEN}{IMAGE_END_TOKEN}{ACTION_ANCHOR}"
        pieces = [Segment(f"{self.task}\n{instruction}\n{HISTORY_HEADER}\n")]
        for t, action in enumerate(actions):
            label = None if labels is None else labels[t]
            pieces += [Segment(opening), Segment(self.names[action], action, label, self.close_token(action))]
        if labels is None:
            pieces.append(Segment(opening))
        return pieces

    def text(self, instruction: str, actions: Sequence[int], labels: Sequence[int] | None = None) -> str:
        """The prompt as a person reads it, one ``<|image|>`` for each frame."""
        return "".join(piece.text + piece.close for piece in self.segments(instruction, actions, labels))

    def encode(
        self,
        instruction: str,
        actions: Sequence[int],
        labels: Sequence[int] | None = None,
        max_length: int | None = None,
    ) -> EncodedPrompt:
        """Token ids and labels; arguments as for `segments`.

        Where the prompt is longer than ``max_length`` tokens, image placeholders counted, the oldest steps are left
        out; the caller drops their frames too (``first_step``). An answer is never cut.

        Raises:
            ValueError: the current frame alone does not fit ``max_length``.
        """
        num_frames = len(actions) + (labels is None)
        for first in range(num_frames):
            ids, targets = self._encode(instruction, actions[first:], None if labels is None else labels[first:])
            if max_length is None or len(ids) <= max_length:
                return EncodedPrompt(ids, targets, first)
        raise ValueError(
            f"max_length={max_length} is too small: the instruction and one frame take {len(ids)} tokens "
            f"({self.num_query_tokens} of them for the frame); raise max_length or shorten the instruction"
        )

    def _encode(self, instruction, actions, labels) -> tuple[list[int], list[int]]:
        ids, targets = list(self.bos_ids), [IGNORE_INDEX] * len(self.bos_ids)
        for piece in self.segments(instruction, actions, labels):
            if piece.action is None:
                new = self._expand(self._tokenize(piece.text))
                new_targets = [IGNORE_INDEX] * len(new)
            else:
                new = self._answer_tokens(piece.action) if piece.close else list(self._history_ids[piece.action])
                new_targets = [IGNORE_INDEX] * len(new)
                if piece.label is not None:
                    new_targets = _shared_prefix_targets(new, self._answer_tokens(piece.label))
            ids += new
            targets += new_targets
        return ids, targets

    def _answer_tokens(self, action: Action) -> list[int]:
        return [*self.answer_ids[action], self.tokenizer.convert_tokens_to_ids(self.close_token(action))]

    def _expand(self, ids: Sequence[int]) -> list[int]:
        image = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        return [token for i in ids for token in ([i] * self.num_query_tokens if i == image else [i])]

    def _continuation_ids(self, anchor: str, text: str) -> tuple[int, ...]:
        """Ids of ``text`` as it stands behind ``anchor`` (a sentencepiece puts no word mark there).

        In use the prompt ends with the anchor, so its tokens must stay as they are. Tokenizers that would merge across
        the boundary get the text tokenized alone, which reads the same.
        """
        prefix, whole = self._tokenize(anchor), self._tokenize(anchor + text)
        if whole[: len(prefix)] == prefix:
            return whole[len(prefix) :]
        alone = self._tokenize(text)
        if self.tokenizer.decode([*prefix, *alone]) == anchor + text:
            return alone
        raise ValueError(f"the tokenizer cannot write {text!r} behind {anchor!r}; it needs another prompt layout")


def _shared_prefix_targets(taken: list[int], expected: list[int]) -> list[int]:
    """Labels for an answer of which the tokens ``taken`` stand in the input, where ``expected`` were right.

    In DAgger data the two differ. The first token that differs is still predicted from a context in which
    ``expected`` makes sense; the ones behind it are not, and stay unsupervised.
    """
    targets = [IGNORE_INDEX] * len(taken)
    for position, (seen, right) in enumerate(zip(taken, expected, strict=False)):
        targets[position] = right
        if seen != right:
            break
    return targets


def _leading_special_ids(tokenizer) -> list[int]:
    """What the tokenizer itself puts before a text (bos, or nothing), whatever its class calls the setting."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start]
