"""A tiny, untrained PGN from nothing: its tokenizer, its processor, its random weights.

The tokenizer is a real sentencepiece model of the class openPangu uses, with openPangu's oddities: eos is
``[unused10]`` although the class says ``</s>``, bos is added and eos is not.
"""

import io
from pathlib import Path

import sentencepiece
from transformers import set_seed

from modeling_pgn import OpenPanguTokenizer, PGNConfig, PGNForConditionalGeneration, PGNImageProcessor, PGNProcessor
from modeling_pgn.prompting_pgn import SPECIAL_TOKENS
from pgn_vln.data.language import tokenizer_text
from pgn_vln.io import new_folder

VOCAB_SIZE = 1024
NUM_UNUSED = 32
EOS_TOKEN = "[unused10]"


def build_tokenizer(folder: Path) -> OpenPanguTokenizer:
    """Train the tiny tokenizer into ``folder/tokenizer.model``; the same bytes every time."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tokenizer_text()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        user_defined_symbols=[f"[unused{i}]" for i in range(NUM_UNUSED)],
        num_threads=1,
        minloglevel=2,
    )
    path = Path(folder) / "tokenizer.model"
    path.write_bytes(model.getvalue())
    tokenizer = OpenPanguTokenizer(str(path), eos_token=EOS_TOKEN, pad_token="<unk>")
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    return tokenizer


def build_tiny(out: Path, seed: int = 0, image_size: int | None = None, **config_fields) -> Path:
    """Write an untrained tiny PGN (weights, code, processor) to a new folder ``out``.

    Args:
        out: must not exist, or be empty.
        seed: of the random weights.
        image_size: side of a frame in pixels, instead of the configuration's.
        config_fields: fields of `PGNConfig.tiny`, such as ``navigation``.

    Raises:
        FileExistsError: ``out`` holds something already.
        ValueError: ``image_size`` is no multiple of the patch size.
    """
    set_seed(seed)
    with new_folder(out) as folder:
        tokenizer = build_tokenizer(folder)
        config = PGNConfig.tiny(vocab_size=tokenizer.vocab_size, **config_fields)
        config.text_config.eos_token_id = tokenizer.eos_token_id
        side, patch = image_size or config.vision_config.image_size, config.vision_config.patch_size
        if side < patch or side % patch:
            raise ValueError(f"image_size={side} must be a multiple of the patch size {patch}; e.g. {4 * patch}")
        config.vision_config.image_size = side
        image_processor = PGNImageProcessor(size={"height": side, "width": side})
        processor = PGNProcessor(image_processor, tokenizer, num_query_tokens=config.num_query_tokens)
        processor.check_model(config)
        model = PGNForConditionalGeneration(config)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return Path(out)
