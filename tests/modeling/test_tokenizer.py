"""The tiny tokenizer has openPangu's oddities, is built the same every time, and reads everything."""

import json

import pytest

from modeling_pgn import OpenPanguTokenizer, PGNConfig, PGNImageProcessor, PGNProcessor
from pgn_vln.tiny import build_tiny, build_tokenizer


def test_built_deterministically(tiny_dir, tmp_path):
    build_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == (tiny_dir / "tokenizer.model").read_bytes()
    assert (tmp_path / "tokenizer.model").stat().st_size < 50_000


def test_openpangu_oddities(processor, tiny_dir):
    tokenizer = processor.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("[unused10]", 13)
    assert (tokenizer.bos_token_id, tokenizer.pad_token, tokenizer.pad_token_id) == (1, "<unk>", 0)
    assert tokenizer("hello")["input_ids"][0] == 1 and tokenizer("hello")["input_ids"][-1] != 13
    saved = json.loads((tiny_dir / "tokenizer_config.json").read_text())
    assert saved["add_bos_token"] is True and saved["add_eos_token"] is False
    class_default = OpenPanguTokenizer(tokenizer.vocab_file)
    assert class_default.eos_token == class_default.pad_token == "</s>"


def test_eos_that_is_pad_is_refused(processor):
    wrong = OpenPanguTokenizer(processor.tokenizer.vocab_file)
    with pytest.raises(ValueError, match=r"eos is '</s>' \(id 2\), its pad '</s>' \(id 2\).*never learns to stop"):
        PGNProcessor(PGNImageProcessor(), wrong)


@pytest.mark.parametrize("flags", [(True, True), (False, False), (False, True)])
def test_bos_and_eos_flags_survive_saving(processor, tmp_path, flags):
    bos, eos = flags
    tokenizer = OpenPanguTokenizer(
        processor.tokenizer.vocab_file, eos_token="[unused10]", pad_token="<unk>", add_bos_token=bos, add_eos_token=eos
    )
    tokenizer.save_pretrained(tmp_path)
    ids = OpenPanguTokenizer.from_pretrained(tmp_path)("a door")["input_ids"]
    assert (ids[0] == 1, ids[-1] == 13) == (bos, eos)


def test_any_text_survives(processor):
    text = "turn left 15 degrees.\nGo\tto the café: 北 <|image_start|>now"
    tokenizer = processor.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    # Sentencepiece puts a word mark after a special token; everything else comes back as it was.
    assert tokenizer.decode(ids).replace("<|image_start|> ", "<|image_start|>") == text


def test_special_tokens_have_the_configs_ids(processor, model):
    ids = processor.tokenizer.convert_tokens_to_ids(["<|image_start|>", "<|image_end|>", "<|frame_sep|>", "<|image|>"])
    assert ids == [1024, 1025, 1026, 1027]
    config = model.config
    assert ids == [getattr(config, field) for field in config.special_token_fields()]
    assert len(processor.tokenizer) == config.text_config.vocab_size == 1028


def test_processor_of_another_model_is_refused(processor, model):
    for config, message in [
        (PGNConfig.tiny(num_query_tokens=4), "num_query_tokens is 8 in the processor and 4 in the model's config"),
        (PGNConfig.tiny(vocab_size=2000), "image_start_token_id is 1024 in the processor and 2000 in the model"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor.check_model(config)
    processor.check_model(model.config)


def test_eos_that_the_model_does_not_know_is_refused(processor, model):
    """The vendor's trap: the vocabulary file alone gives the class default."""
    tokenizer = OpenPanguTokenizer(processor.tokenizer.vocab_file, eos_token="</s>", pad_token="<unk>")
    other = PGNProcessor(processor.image_processor, tokenizer, num_query_tokens=8)
    with pytest.raises(ValueError, match=r"eos is '</s>' \(id 2\), but text_config.eos_token_id is 13"):
        other.check_model(model.config)


def test_nothing_is_overwritten(tiny_dir):
    with pytest.raises(FileExistsError, match="exists already; choose another folder"):
        build_tiny(tiny_dir)
