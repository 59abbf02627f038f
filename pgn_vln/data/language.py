"""The language of the tiny models: what their tokenizer is trained on."""

from importlib import resources

from modeling_pgn.prompting_pgn import ACTION_ANCHOR, ANSWER_ANCHOR, CURRENT_HEADER, HISTORY_HEADER, TASK, action_names
from pgn_vln.data.grounding import grounding_corpus
from pgn_vln.navigation.instructions import language_corpus


def tokenizer_text() -> list[str]:
    """What the tiny tokenizer is trained on: prompts, questions, the language of the houses, English."""
    names = [name for degrees in (15, 30) for name in action_names(degrees).values()]
    prompts = [TASK, HISTORY_HEADER, CURRENT_HEADER, ANSWER_ANCHOR.strip()]
    prompts += [f"{ACTION_ANCHOR}{name}" for name in names] + names
    english = resources.files("pgn_vln").joinpath("assets/english.txt").read_text(encoding="utf-8").splitlines()
    # An instruction or a question begins a line: its first word has no space before it.
    sentences = [f"\n{text}" for text in language_corpus()]
    # Prompts and answers stand in every sample, so their words shall be single pieces.
    return prompts * 20 + grounding_corpus() * 20 + sentences + english
