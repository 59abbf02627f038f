"""The language model of a conversion: its configuration, its tokenizer, and what its tensors are called in PGN."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from modeling_pgn import OpenPanguConfig, OpenPanguForCausalLM, OpenPanguTokenizer, PGNConfig
from modeling_pgn.prompting_pgn import SPECIAL_TOKENS
from pgn_vln.convert.weights import Weights, open_tensors

LANGUAGE_MODEL = "language model"
LANGUAGE_PREFIX, HEAD = "model.language_model.", "lm_head.weight"
# Buffers that old checkpoints carry along, and that the model computes itself.
_BUFFERS = r".*(rotary_emb\.inv_freq|attn\.(bias|masked_bias)|attention\.(bias|masked_bias))"
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class LanguageModel:
    """What is known of a language model before a weight is read.

    ``rows`` is the vocabulary of its weights, ``tokens`` how many its tokenizer had; ``token_ids`` are those of the
    four special tokens, ``new_ids`` those of them that its tokenizer did not have. ``config`` has rows for all.
    """

    path: Path
    config: PreTrainedConfig
    tokenizer: object
    rows: int
    tokens: int
    token_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    base_prefix: str
    embedding: str
    head: str

    def pgn_name(self, name: str) -> str:
        """What PGN calls a tensor of the published model (some publish the backbone without its prefix)."""
        if name == self.head:
            return HEAD
        return LANGUAGE_PREFIX + name.removeprefix(self.base_prefix)

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return bool(self.config.tie_word_embeddings)


def read_config(folder: Path) -> dict:
    """What a folder's ``config.json`` says.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected the configuration of a model") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no JSON object; expected the configuration of a model")
    return values


def read_language_model(folder: str | Path) -> LanguageModel:
    """Configuration and tokenizer of a folder with any causal language model that PGN admits.

    Raises:
        ValueError: no such folder or language model; its tokenizer's eos is its pad or not the configuration's; the
            tokenizer has more tokens than the model has rows.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"--llm {str(folder)!r} is no folder of a language model: it has no config.json")
    values = read_config(folder)
    openpangu = values.get("model_type") == OpenPanguConfig.model_type
    if values.get("quantization_config") is not None:
        raise ValueError(f"{folder}/config.json: the weights are quantised (quantization_config); give the plain ones")
    for name in ("auto_map", "_name_or_path", "architectures"):
        values.pop(name, None)
    if "model_type" not in values:
        raise ValueError(f"{folder}/config.json has no model_type; expected that of a causal language model")
    try:
        # PGN's own check of language models; it names the field and what is expected.
        config = PGNConfig(text_config=values).text_config
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder}/config.json is none of a language model that PGN can use: {error}") from None
    tokenizer = _read_tokenizer(folder, OpenPanguTokenizer if openpangu else AutoTokenizer)
    _check_ids(folder, tokenizer, config, exact=openpangu)
    rows, tokens = config.vocab_size, len(tokenizer)
    if tokens > rows:
        raise ValueError(
            f"{folder}: the tokenizer has {tokens} tokens, the model {rows} rows (vocab_size); they do not belong "
            "together, and a vocabulary is never cut"
        )
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(missing, special_tokens=True)
    config.vocab_size = max(rows, len(tokenizer))
    base_prefix, embedding, head = published_names(config)
    return LanguageModel(
        path=folder,
        config=config,
        tokenizer=tokenizer,
        rows=rows,
        tokens=tokens,
        token_ids=tuple(tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS),
        new_ids=tuple(tokenizer.convert_tokens_to_ids(token) for token in missing),
        base_prefix=base_prefix,
        embedding=embedding,
        head=head,
    )


def _read_tokenizer(folder: Path, tokenizer_class: type):
    if not (folder / "tokenizer_config.json").is_file():
        raise ValueError(
            f"{folder} has no tokenizer_config.json, which says what eos, bos and pad are; get it from where the "
            "language model is published"
        )
    try:
        tokenizer = tokenizer_class.from_pretrained(folder)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ValueError(f"the tokenizer of {folder} cannot be read: {error}; are all its files there?") from error
    if len(tokenizer.get_vocab()) < len(SPECIAL_TOKENS):
        raise ValueError(f"{folder} has no vocabulary: tokenizer.model, tokenizer.json or the like is missing")
    return tokenizer


def causal_lm_on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The whole language model without memory, to learn its names from."""
    with torch.device("meta"):
        if config.model_type == OpenPanguConfig.model_type:
            return OpenPanguForCausalLM(config)
        return AutoModelForCausalLM.from_config(config)


def published_names(config: PreTrainedConfig) -> tuple[str, str, str]:
    """As a language model is published: the prefix of its backbone, the names of its embedding and of its head."""
    model = causal_lm_on_meta(config)
    names = {id(module): name for name, module in model.named_modules()}
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    embedding, head = (f"{names[id(module)]}.weight" for module in tables)
    return f"{model.base_model_prefix}.", embedding, head


def _check_ids(folder: Path, tokenizer, config: PreTrainedConfig, exact: bool) -> None:
    """Compare the tokenizer's special ids with the configuration's; ``exact`` compares bos and pad too."""
    eos = config.eos_token_id
    known = {"eos": eos if isinstance(eos, list) else [eos]}
    if exact:
        known |= {name: [getattr(config, f"{name}_token_id")] for name in ("bos", "pad")}
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id == tokenizer.pad_token_id:
        raise ValueError(
            f"{folder}: the tokenizer's eos is {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}), its pad "
            f"{tokenizer.pad_token!r} (id {tokenizer.pad_token_id}): a model whose eos is missing or masked as "
            "padding never learns to stop; set another pad_token in its tokenizer_config.json"
        )
    for name, theirs in known.items():
        ours = getattr(tokenizer, f"{name}_token_id")
        if ours not in theirs:
            raise ValueError(
                f"{folder}: {name} is id {ours} ({getattr(tokenizer, f'{name}_token')!r}) by the tokenizer and "
                f"{theirs[0] if len(theirs) == 1 else theirs} by config.json; check {name}_token in "
                "tokenizer_config.json"
            )


def check_tied(weights: Weights, embedding: str, head: str) -> None:
    """Let a head be left out only if it is the embedding, as the configuration says.

    Raises:
        ValueError: it is not.
    """
    with open_tensors([weights[embedding], weights[head]]) as opened:
        if torch.equal(opened[weights[embedding]], opened[weights[head]]):
            return
    raise ValueError(
        f"{weights.path}: {weights.in_file(head)} differs from {weights.in_file(embedding)}, but config.json ties "
        "them; set tie_word_embeddings to false there"
    )


def is_buffer(name: str) -> bool:
    """Whether an old checkpoint carries along what the model computes itself."""
    return re.fullmatch(_BUFFERS, name) is not None


def extend_rows(language: LanguageModel, new_ids: tuple[int, ...], seed: int) -> Callable[..., torch.Tensor]:
    """How an embedding or a head ``[rows, D]`` gets rows for new tokens.

    They are drawn around the mean of the others, with their spread: each is another one, as plausible as theirs, and
    no covariance of ``D x D`` is needed.

    Args:
        language: whose rows they are.
        new_ids: that are drawn; where a vocabulary is padded, some stand among its rows.
        seed: of the draw.
    """
    rows, total = language.rows, language.config.vocab_size
    # Rows behind the tokens are padding, which nothing was learned for.
    known = min(language.tokens, *new_ids)

    def extend(weight_VD: torch.Tensor) -> torch.Tensor:
        mean_D, std_D = _moments(weight_VD[:known])
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(new_ids), weight_VD.shape[1], generator=generator)
        result = torch.empty(total, weight_VD.shape[1], dtype=weight_VD.dtype)
        result[:rows] = weight_VD
        result[list(new_ids)] = (mean_D + std_D * noise).to(result.dtype)
        return result

    return extend


def _moments(weight_VD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column, a few rows at a time."""
    total_D, squares_D = (torch.zeros(weight_VD.shape[1], dtype=torch.float64) for _ in range(2))
    for chunk_VD in weight_VD.split(_ROWS_AT_ONCE):
        total_D += chunk_VD.double().sum(0)
        squares_D += (chunk_VD.double() ** 2).sum(0)
    mean_D = total_D / len(weight_VD)
    return mean_D.float(), (squares_D / len(weight_VD) - mean_D**2).clamp_min(0).sqrt().float()
