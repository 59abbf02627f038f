"""Prompts, character by character, and their tokens with labels, against expectations written by hand."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from modeling_pgn.prompting_pgn import SPECIAL_TOKENS, Action, NavigationPrompt, action_names

Q = 8
STOP, FORWARD, LEFT, RIGHT = Action.STOP, Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT
TASK = (
    "You are a helpful navigation assistant. Based on what you see, please output the action you should take. Your "
    "output should only include: move forward, turn left 15 degrees, turn right 15 degrees, or stop.\n"
)
GO = "walk to the red chair"
IMG = "<|image|>"
# Pieces of the tiny tokenizer, as it writes them behind "action taken:" and behind a newline.
PIECES = {
    STOP: ["stop"],
    FORWARD: ["move", "▁forward"],
    LEFT: ["turn", "▁left", "▁", "1", "5", "▁degrees"],
    RIGHT: ["turn", "▁right", "▁", "1", "5", "▁degrees"],
}
SEEN = ["<|image_start|>", *[IMG] * Q, "<|image_end|>", "▁action", "▁taken", ":"]


@pytest.fixture
def window(processor):
    return NavigationPrompt(processor.tokenizer, Q, "window")


@pytest.fixture
def stream(processor):
    return NavigationPrompt(processor.tokenizer, Q, "stream")


def pieces_of(processor, encoded):
    """Tokens, and the tokens that are labelled at each place (None where nothing is)."""
    tokens = processor.tokenizer.convert_ids_to_tokens(encoded.input_ids)
    labels = [None if i == -100 else processor.tokenizer.convert_ids_to_tokens(i) for i in encoded.labels]
    return tokens, labels


def test_action_table():
    assert {int(a): name for a, name in action_names().items()} == {
        0: "stop",
        1: "move forward",
        2: "turn left 15 degrees",
        3: "turn right 15 degrees",
    }
    assert action_names(30)[RIGHT] == "turn right 30 degrees"


def test_window_text(window):
    assert window.text(GO, [FORWARD, LEFT, STOP], [FORWARD, LEFT, STOP]) == (
        TASK + "walk to the red chair\n"
        "These are the scenes you saw and the actions you took:\n"
        "<|image_start|><|image|>action taken:move forward<|frame_sep|><|image|>action taken:turn left 15 degrees"
        "<|image_end|>\n"
        "The last picture you see is what you see from your current location.\n"
        "<|image_start|><|image|><|image_end|>\n"
        "please take your action now:\n"
        "stop[unused10]"
    )


def test_window_text_of_the_first_frame(window):
    expected = (
        TASK + "walk to the red chair\n"
        "The last picture you see is what you see from your current location.\n"
        "<|image_start|><|image|><|image_end|>\n"
        "please take your action now:\n"
    )
    assert window.text(GO, []) == expected
    assert window.text(GO, [LEFT], [FORWARD]) == expected + "move forward[unused10]"


def test_stream_text(stream):
    step = "<|image_start|><|image|><|image_end|>action taken:"
    head = TASK + "walk to the red chair\nThese are the scenes you saw and the actions you took:\n"
    assert stream.text(GO, []) == head + step
    assert stream.text(GO, [RIGHT]) == head + step + "turn right 15 degrees<|frame_sep|>" + step
    assert stream.text(GO, [RIGHT, STOP], [RIGHT, STOP]) == (
        head + step + "turn right 15 degrees<|frame_sep|>" + step + "stop[unused10]"
    )


def test_stream_tokens_and_labels(stream, processor):
    tokens, labels = pieces_of(processor, stream.encode(GO, [FORWARD, LEFT, STOP], [FORWARD, LEFT, STOP]))
    answers = [
        [*PIECES[FORWARD], "<|frame_sep|>"],
        [*PIECES[LEFT], "<|frame_sep|>"],
        [*PIECES[STOP], "[unused10]"],
    ]
    expected_tail, expected_labels = [], []
    for answer in answers:
        expected_tail += SEEN + answer
        expected_labels += [None] * len(SEEN) + answer
    head = len(tokens) - len(expected_tail)
    assert tokens[0] == "<s>" and tokens.count("<s>") == 1
    assert tokens[head:] == expected_tail
    assert labels == [None] * head + expected_labels
    assert processor.tokenizer.decode(processor.tokenizer.convert_tokens_to_ids(tokens[1:head])) == (
        TASK + "walk to the red chair\nThese are the scenes you saw and the actions you took:\n"
    )


def test_window_tokens_and_labels(window, processor):
    tokens, labels = pieces_of(processor, window.encode(GO, [RIGHT, FORWARD], [RIGHT, FORWARD]))
    history = ["<|image_start|>", *[IMG] * Q, "▁action", "▁taken", ":", *PIECES[RIGHT], "<|image_end|>"]
    start = tokens.index("<|image_start|>")
    assert tokens[start : start + len(history)] == history
    answer = [*PIECES[FORWARD], "[unused10]"]
    assert tokens[-len(answer) - 2 :] == [":", "\n", *answer]
    assert labels == [None] * (len(tokens) - len(answer)) + answer


def test_whole_text_tokenizes_to_the_same_ids(window, stream, processor):
    """What is built from pieces is what the tokenizer makes of the whole text: no seam shows."""
    for prompt in (window, stream):
        actions = [LEFT, FORWARD, RIGHT, STOP]
        text = prompt.text(GO, actions, actions).replace(IMG, IMG * Q)
        assert prompt.encode(GO, actions, actions).input_ids == processor.tokenizer(text)["input_ids"]


def test_prompt_in_use_is_a_prefix_of_the_training_prompt(window, stream):
    """The model is asked with exactly the tokens it was trained behind, at every step."""
    actions = [LEFT, FORWARD, RIGHT, STOP]
    whole = stream.encode(GO, actions, actions).input_ids
    for t in range(len(actions)):
        asked = stream.encode(GO, actions[:t]).input_ids
        assert whole[: len(asked)] == asked
        trained = window.encode(GO, actions[: t + 1], actions[: t + 1])
        asked = window.encode(GO, actions[:t]).input_ids
        assert trained.input_ids[: len(asked)] == asked
        assert trained.labels[: len(asked)] == [-100] * len(asked)


def test_eos_is_labelled_once_an_answer(window, stream, processor):
    eos = processor.tokenizer.eos_token_id
    encoded = window.encode(GO, [FORWARD] * 5, [FORWARD] * 5)
    assert encoded.labels.count(eos) == 1 and encoded.input_ids.count(eos) == 1 and encoded.labels[-1] == eos
    actions = [FORWARD] * 4 + [STOP]
    assert stream.encode(GO, actions, actions).labels.count(eos) == 1
    assert stream.encode(GO, actions[:-1], actions[:-1]).labels.count(eos) == 0


def test_where_another_action_was_taken_labels_stop_at_the_difference(stream, processor):
    """Behind the first token that was not the expert's, nothing is supervised: its context never was."""
    tokens, labels = pieces_of(processor, stream.encode(GO, [LEFT, FORWARD], [RIGHT, STOP]))
    supervised = [(t, label) for t, label in zip(tokens, labels, strict=True) if label is not None]
    assert supervised == [("turn", "turn"), ("▁left", "▁right"), ("move", "stop")]


@pytest.mark.parametrize("layout", ["window", "stream"])
def test_length_budget_drops_the_oldest_steps_and_never_the_answer(layout, processor):
    prompt = NavigationPrompt(processor.tokenizer, Q, layout)
    actions = [LEFT, RIGHT, LEFT, FORWARD, STOP]
    whole = prompt.encode(GO, actions, actions)
    cut = prompt.encode(GO, actions, actions, max_length=len(whole.input_ids) - 1)
    assert cut.first_step == 1
    assert cut.input_ids == prompt.encode(GO, actions[1:], actions[1:]).input_ids
    image = processor.image_token_id
    assert whole.input_ids.count(image) == 5 * Q and cut.input_ids.count(image) == 4 * Q
    assert cut.labels[-2:] == whole.labels[-2:] == processor.tokenizer.convert_tokens_to_ids(["stop", "[unused10]"])
    with pytest.raises(ValueError, match="max_length=20 is too small.*8 of them for the frame"):
        prompt.encode(GO, actions, actions, max_length=20)


def test_unknown_layout_and_missing_token_are_named(processor, tmp_path):
    with pytest.raises(ValueError, match="prompt_layout='dense' is not known; choose one of stream, window"):
        NavigationPrompt(processor.tokenizer, Q, "dense")
    from modeling_pgn import OpenPanguTokenizer

    bare = OpenPanguTokenizer(processor.tokenizer.vocab_file, eos_token="[unused10]", pad_token="<unk>")
    with pytest.raises(ValueError, match=r"no special token '<\|image_start\|>'"):
        NavigationPrompt(bare, Q)


def test_training_prompt_needs_as_many_labels_as_actions(stream):
    with pytest.raises(ValueError, match="got 2 actions and 1 labels"):
        stream.encode(GO, [LEFT, LEFT], [LEFT])


def test_a_tokenizer_that_merges_across_the_colon_keeps_the_prompt_as_it_is_asked():
    """Byte-level BPE (Qwen's kind) may know ":move" as one piece; in use the prompt ends with ":" all the same."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([":move", ":stop", ":turn"] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<pad>")
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer("taken:move")["input_ids"])[-1] == ":move"
    prompt = NavigationPrompt(tokenizer, Q, "stream")
    actions = [FORWARD, LEFT, STOP]
    trained = prompt.encode(GO, actions, actions)
    for t in range(len(actions)):
        asked = prompt.encode(GO, actions[:t]).input_ids
        assert trained.input_ids[: len(asked)] == asked
        assert tokenizer.convert_ids_to_tokens(asked[-1]) == ":"
    supervised = [label for label in trained.labels if label != -100]
    assert tokenizer.decode(supervised) == "move forward<|frame_sep|>turn left 15 degrees<|frame_sep|>stop<end>"
