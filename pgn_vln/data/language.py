"""The language of the tiny models: what their tokenizer is trained on, and texts without pictures to pretrain on."""

import random
from functools import cache
from importlib import resources

from modeling_pgn.prompting_pgn import (
    ACTION_ANCHOR,
    ANSWER_ANCHOR,
    CURRENT_HEADER,
    HISTORY_HEADER,
    IMAGE_END_TOKEN,
    IMAGE_START_TOKEN,
    IMAGE_TOKEN,
    TASK,
    Action,
    NavigationPrompt,
    action_names,
)
from pgn_vln.data.grounding import grounding_corpus
from pgn_vln.navigation.instructions import language_corpus

# A text is this many lines, or a navigation prompt of this many steps.
_LINES, _STEPS = 8, 16


@cache
def english() -> tuple[str, ...]:
    """Lines of ordinary English."""
    text = resources.files("pgn_vln").joinpath("assets/english.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def tokenizer_text() -> list[str]:
    """What the tiny tokenizer is trained on: prompts, questions, the language of the houses, English."""
    names = [name for degrees in (15, 30) for name in action_names(degrees).values()]
    prompts = [TASK, HISTORY_HEADER, CURRENT_HEADER, ANSWER_ANCHOR.strip()]
    prompts += [f"{ACTION_ANCHOR}{name}" for name in names] + names
    # An instruction or a question begins a line: its first word has no space before it.
    sentences = [f"\n{text}" for text in language_corpus()]
    # Prompts and answers stand in every sample, so their words shall be single pieces.
    return prompts * 20 + grounding_corpus() * 20 + sentences + list(english())


def draw_text(prompt: NavigationPrompt, rng: random.Random) -> str:
    """A text without pictures: lines of English, or a navigation prompt with random actions and its frames left out.

    It teaches which words there are and how a prompt reads, so that navigation need not begin with that; as the
    actions are random, there is nothing about navigation to be learned from it.
    """
    if rng.random() < 0.5:
        return "\n".join(rng.choice(english()) for _ in range(_LINES))
    actions = [rng.choice(list(Action)[1:]) for _ in range(_STEPS - 1)] + [Action.STOP]
    text = prompt.text(rng.choice(_instructions()), actions, actions)
    return text.replace(f"{IMAGE_START_TOKEN}{IMAGE_TOKEN}{IMAGE_END_TOKEN}", "")


@cache
def _instructions() -> tuple[str, ...]:
    return tuple(language_corpus())
