"""The agent: sees a frame, answers with an action."""

import copy

import numpy as np
import torch
from PIL import Image

from .prompting_pgn import Action


class PGNNavigator:
    """Acts with a model, one frame at a time.

    Only the four actions can come out: the answer is read off the token trie of the action table, so the four
    probabilities are exact and sum to 1. Features of past frames are kept; the language model reads its context anew.

    Args:
        model: a `PGNForConditionalGeneration`; ``config.navigation`` says how it was trained to act.
        processor: the `PGNProcessor` saved beside it.

    Raises:
        ValueError: processor and model do not belong together.
    """

    def __init__(self, model, processor):
        processor.check_model(model.config)
        self.model = model
        self.processor = processor
        self.navigation = model.config.navigation
        self.prompt = processor.navigation_prompt(self.navigation)
        self.max_length = model.config.text_config.max_position_embeddings
        self._trie = _token_trie(self.prompt.answer_ids)
        self._instruction: str | None = None
        self._features: list[torch.Tensor] = []
        self._actions: list[Action] = []
        self.probabilities: dict[Action, float] = {}

    def reset(self, instruction: str):
        """Begin an episode: forget what was seen and done."""
        self._instruction = instruction
        self._features, self._actions, self.probabilities = [], [], {}

    @torch.inference_mode()
    def act(self, frame) -> Action:
        """The next action.

        Args:
            frame: what the camera sees now, a PIL image or ``uint8 [H, W, 3]``.

        Returns:
            The most probable action; `probabilities` then holds all four.

        Raises:
            RuntimeError: `reset` has not been called.
            ValueError: a frame of another form; the instruction alone does not fit the model's context.
        """
        if self._instruction is None:
            raise RuntimeError("call reset(instruction) before the first act(frame)")
        pixel_values = self.processor.image_processor(_check_frame(frame), return_tensors="pt")["pixel_values"]
        pixel_values = pixel_values.to(self.model.device, self.model.dtype)
        features = [*self._features, self.model.get_image_features(pixel_values)[0]]
        features = features[-self._kept(len(features)) :]
        past = self._actions[len(self._actions) - (len(features) - 1) :]
        encoded = self.prompt.encode(self._instruction, past, max_length=self.max_length)
        features, past = features[encoded.first_step :], past[encoded.first_step :]
        input_ids = torch.tensor([encoded.input_ids], device=self.model.device)
        outputs = self.model(
            input_ids=input_ids, image_features=torch.stack(features), use_cache=True, logits_to_keep=1
        )
        probabilities = dict.fromkeys(sorted(Action), 0.0)
        self._walk(self._trie, outputs.logits[0, -1], outputs.past_key_values, 1.0, probabilities)
        action = max(probabilities, key=probabilities.get)
        self.probabilities, self._features, self._actions = probabilities, features, [*past, action]
        return action

    def _kept(self, steps: int) -> int:
        """How many of the newest ``steps`` steps, the current one among them, stay in the context.

        ``window`` shows the current frame and the last ``history_frames`` before it, as its samples do. ``stream``
        lets the context grow to ``history_frames`` steps and then drops the older half: most steps only append, and
        the context keeps the lengths that training has seen.
        """
        history = self.navigation["history_frames"]
        if history is None:
            return steps
        if self.prompt.layout == "window":
            return min(steps, history + 1)
        return steps if steps <= history else history - history // 2

    def _walk(self, node: dict, logits: torch.Tensor, cache, probability: float, found: dict[Action, float]):
        """Share ``probability`` out among the actions below ``node``; only a fork is a decision."""
        tokens = list(node)
        shares = torch.softmax(logits[tokens].float(), dim=0).tolist()
        for token, share in zip(tokens, shares, strict=True):
            path, child = [token], node[token]
            while isinstance(child, dict) and len(child) == 1:
                path.append(next(iter(child)))
                child = child[path[-1]]
            if not isinstance(child, dict):
                found[child] = probability * share
                continue
            ids = torch.tensor([path], device=logits.device)
            # A copy, since not every cache (a sliding window, a recurrent state) can take tokens back.
            branch = copy.deepcopy(cache)
            outputs = self.model(input_ids=ids, past_key_values=branch, use_cache=True, logits_to_keep=1)
            self._walk(child, outputs.logits[0, -1], outputs.past_key_values, probability * share, found)


def _check_frame(frame) -> Image.Image | np.ndarray:
    """Refuse what an image processor would take without complaint and misread, such as floats from 0 to 1."""
    if isinstance(frame, Image.Image):
        return frame
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3:
        return frame
    shape = getattr(frame, "shape", None)
    raise ValueError(
        f"a frame must be a PIL image or a uint8 array [height, width, 3]; got {type(frame).__name__}"
        + (f" of {frame.dtype} {tuple(shape)}" if shape is not None else "")
    )


def _token_trie(answer_ids: dict[Action, tuple[int, ...]]) -> dict:
    """Nested dicts, token by token, with an action at the end of each path.

    Raises:
        ValueError: one answer's tokens begin another's, so that where it ends could not be told.
    """
    root: dict = {}
    for action, ids in answer_ids.items():
        node = root
        for token in ids[:-1]:
            node = node.setdefault(token, {})
            if not isinstance(node, dict):
                raise ValueError(f"the tokens of action {action.name} begin with those of {node.name}")
        if ids[-1] in node:
            raise ValueError(f"the tokens of action {action.name} are those of another action, or begin one")
        node[ids[-1]] = action
    return root
