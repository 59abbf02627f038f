"""openPangu's tokenizer: a plain sentencepiece model, without protobuf and without the vendor's code."""

import json
from pathlib import Path

from transformers.tokenization_utils_sentencepiece import SentencePieceBackend


class OpenPanguTokenizer(SentencePieceBackend):
    """Sentencepiece tokenizer of openPangu-Embedded.

    The class defaults (eos and pad ``</s>``) are the vendor's and are *wrong* for the published model, whose
    tokenizer_config.json says eos ``[unused10]`` and pad ``<unk>``. Load it with `from_pretrained`, never from the
    vocabulary file alone: with eos equal to pad a model cannot learn to stop, and `PGNProcessor` refuses it.
    """

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        add_bos_token=True,
        add_eos_token=False,
        **kwargs,
    ):
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token
        kwargs.pop("special_tokens_pattern", None)
        super().__init__(
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            special_tokens_pattern={(1, 0): "bos", (0, 1): "eos", (1, 1): "bos_eos", (0, 0): "none"}[
                bool(add_bos_token), bool(add_eos_token)
            ],
            **kwargs,
        )

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of the pieces; sentencepiece itself joins byte pieces (such as a newline's) into characters."""
        return self.sp_model.decode_pieces(list(tokens))

    def save_pretrained(self, save_directory, **kwargs):
        """Save as usual, with the two flags that transformers leaves out of tokenizer_config.json."""
        files = super().save_pretrained(save_directory, **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        saved = json.loads(path.read_text(encoding="utf-8"))
        saved.update(add_bos_token=self.add_bos_token, add_eos_token=self.add_eos_token)
        path.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return files
