"""The language model of a conversion: its configuration, its tokenizer, and what its tensors are called in PGN."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from modeling_pgn import OpenPanguConfig, OpenPanguForCausalLM, OpenPanguTokenizer
from modeling_pgn.prompting_pgn import SPECIAL_TOKENS

LANGUAGE_MODEL = "language model"
LANGUAGE_PREFIX, HEAD = "model.language_model.", "lm_head.weight"
# Buffers that old checkpoints carry along, and that the model computes itself.
_BUFFERS = r".*(rotary_emb\.inv_freq|attn\.(bias|masked_bias)|attention\.(bias|masked_bias))"
_ROWS_AT_ONCE = 8192


@dataclass
class LanguageModel:
    """What is known of a language model before a weight is read.

    ``rows`` is its vocabulary as published, ``total_rows`` with the four special tokens, whose ids ``token_ids`` are;
    ``new_ids`` are those that its tokenizer did not have.
    """

    path: Path
    config: PreTrainedConfig
    tokenizer: object
    rows: int
    total_rows: int
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


def read_language_model(folder: str | Path) -> LanguageModel:
    """Configuration and tokenizer of a folder with any causal language model that PGN admits.

    Raises:
        ValueError: no such folder or language model; its tokenizer's eos is its pad or not the configuration's; the
            tokenizer has more tokens than the model has rows.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"--llm {str(folder)!r} is no folder of a language model: it has no config.json")
    values, _ = PreTrainedConfig.get_config_dict(folder)
    model_type = values.get("model_type")
    # Its remote code does not load today (it imports torch_npu, and names that transformers removed): ours does.
    openpangu = model_type == OpenPanguConfig.model_type
    if not openpangu and model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{folder}/config.json: model_type={model_type!r} is not known to the installed transformers; expected a "
            f"causal language model such as llama, qwen2 or {OpenPanguConfig.model_type}"
        )
    for name in ("auto_map", "_name_or_path", "architectures"):
        values.pop(name, None)
    config = (OpenPanguConfig if openpangu else CONFIG_MAPPING[model_type]).from_dict(values)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{folder}/config.json: the weights are quantised (quantization_config); give the plain ones")
    tokenizer = (OpenPanguTokenizer if openpangu else AutoTokenizer).from_pretrained(folder)
    _check_ids(folder, tokenizer, config, exact=openpangu)
    before = len(tokenizer)
    if before > config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {before} tokens, the model {config.vocab_size} rows (vocab_size); they do "
            "not belong together, and a vocabulary is never cut"
        )
    tokenizer.add_tokens([t for t in SPECIAL_TOKENS if t not in tokenizer.get_vocab()], special_tokens=True)
    token_ids = tuple(tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS)
    model = causal_lm_on_meta(config)
    names = {id(module): name for name, module in model.named_modules()}
    rows = config.vocab_size
    config.vocab_size = max(rows, len(tokenizer))
    return LanguageModel(
        path=folder,
        config=config,
        tokenizer=tokenizer,
        rows=rows,
        total_rows=config.vocab_size,
        token_ids=token_ids,
        new_ids=tuple(i for i in token_ids if i >= before),
        base_prefix=f"{model.base_model_prefix}.",
        embedding=f"{names[id(model.get_input_embeddings())]}.weight",
        head=f"{names[id(model.get_output_embeddings())]}.weight",
    )


def causal_lm_on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The whole language model without memory, to learn its names from."""
    with torch.device("meta"):
        if config.model_type == OpenPanguConfig.model_type:
            return OpenPanguForCausalLM(config)
        return AutoModelForCausalLM.from_config(config)


def _check_ids(folder: Path, tokenizer, config: PreTrainedConfig, exact: bool) -> None:
    """Compare the tokenizer's special ids with the configuration's; ``exact`` compares bos and pad too."""
    eos = config.eos_token_id
    known = eos if isinstance(eos, list) else [eos]
    pairs = [("eos", tokenizer.eos_token_id, known)]
    if exact:
        pairs += [(name, getattr(tokenizer, f"{name}_token_id"), [getattr(config, f"{name}_token_id")])
                  for name in ("bos", "pad")]  # fmt: skip
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id == tokenizer.pad_token_id:
        raise ValueError(
            f"{folder}: the tokenizer's eos is {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}), its pad "
            f"{tokenizer.pad_token!r} (id {tokenizer.pad_token_id}): a model whose eos is missing or masked as "
            "padding never learns to stop; set another pad_token in its tokenizer_config.json"
        )
    for name, ours, theirs in pairs:
        if ours not in theirs:
            raise ValueError(
                f"{folder}: {name} is id {ours} ({getattr(tokenizer, f'{name}_token')!r}) by the tokenizer and "
                f"{theirs[0] if len(theirs) == 1 else theirs} by config.json; check {name}_token in "
                "tokenizer_config.json"
            )


def is_buffer(name: str) -> bool:
    """Whether an old checkpoint carries along what the model computes itself."""
    return re.fullmatch(_BUFFERS, name) is not None


def extend_rows(rows: int, total: int, new_ids: tuple[int, ...], seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """How an embedding or a head ``[rows, D]`` gets rows for new tokens.

    They are drawn around the mean of the others, with their spread: each is another one, as plausible as theirs, and
    no covariance of ``D x D`` is needed.

    Args:
        rows: the published ones.
        total: rows of the result.
        new_ids: that are drawn; some may stand among the published ones, where a vocabulary is padded.
        seed: of the draw.
    """

    def extend(weight_VD: torch.Tensor) -> torch.Tensor:
        known = torch.ones(weight_VD.shape[0], dtype=torch.bool)
        known[[i for i in new_ids if i < rows]] = False
        mean_D, std_D = _moments(weight_VD, known)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(new_ids), weight_VD.shape[1], generator=generator)
        result = torch.empty(total, weight_VD.shape[1], dtype=weight_VD.dtype)
        result[:rows] = weight_VD
        # A padded vocabulary can have more rows than the tokenizer has tokens; none of them is left to chance.
        result[rows:] = mean_D.to(result.dtype)
        result[list(new_ids)] = (mean_D + std_D * noise).to(result.dtype)
        return result

    return extend


def _moments(weight_VD: torch.Tensor, known_V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column over the known rows, a few rows at a time."""
    total_D, squares_D = (torch.zeros(weight_VD.shape[1], dtype=torch.float64) for _ in range(2))
    for start in range(0, weight_VD.shape[0], _ROWS_AT_ONCE):
        mask = known_V[start : start + _ROWS_AT_ONCE]
        chunk_VD = weight_VD[start : start + _ROWS_AT_ONCE][mask].double()
        total_D += chunk_VD.sum(0)
        squares_D += (chunk_VD**2).sum(0)
    count = int(known_V.sum())
    mean_D = total_D / count
    return mean_D.float(), (squares_D / count - mean_D**2).clamp_min(0).sqrt().float()
