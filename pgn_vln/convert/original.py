"""The original system's ``.pth``: ``vision_frontend.*`` (LAVIS's names), ``pangu_proj.*``, ``llm.*``."""

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from pgn_vln.convert.checkpoint import Blueprint, write_checkpoint
from pgn_vln.convert.language import LanguageModel, read_language_model
from pgn_vln.convert.parts import (
    Options,
    VisionSide,
    account_vision,
    build_config,
    language_pieces,
    main_dtype,
    vision_pieces,
)
from pgn_vln.convert.plan import Ledger, Origin, account, shorten, take
from pgn_vln.convert.weights import Entry, Weights, open_tensors, open_weights, plain_name
from pgn_vln.io import give_usual_rights

FRONTEND, PROJECTOR, LANGUAGE = "vision_frontend.", "pangu_proj.", "llm."
# Rows of the image placeholder, which the original does not have: kept beside its weights, where it does not look.
PLACEHOLDER_ROWS = "pgn_placeholder_rows"
ADAPTER_FOLDER = "adapter"
_LORA = re.compile(r"llm\.(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
_ADDED_ROWS = 3
_LORA_REMEDY = (
    "if they are LoRA or adapter weights, give rules that rename them to NAME.lora_A.weight and NAME.lora_B.weight "
    "beside NAME.weight: --rename 'PATTERN=>REPLACEMENT' --lora_alpha NUMBER; for PEFT's own names: --rename "
    r"'base_model\.model\.=>' '\.base_layer\.=>.'"
)


def convert_original(
    file: str, llm: str, out: str, options: Options, renames: Sequence[str] = (), lora_alpha: float | None = None
) -> Ledger:
    """Write a PGN checkpoint from a ``.pth`` of the original system; it is set up for the ``window`` prompt.

    Args:
        file: with or without the original's three extra rows of the vocabulary.
        llm: folder with the language model's configuration and tokenizer (and weights, where the file has none).
        out: folder to write.
        options: see `Options`.
        renames: ``PATTERN=>REPLACEMENT``, regular expressions over names as they are in the file, applied in turn.
        lora_alpha: scale of LoRA tensors, which then go to ``OUT/adapter`` in PEFT's format.

    Raises:
        ValueError: something in the file is not accounted for, or does not fit; the message says what to do.
    """
    weights = apply_renames(open_weights(file).renamed(plain_name), renames)
    foreign = [name for name in weights if not name.startswith((FRONTEND, PROJECTOR, LANGUAGE))]
    lacking = [part for part in (FRONTEND, PROJECTOR) if not any(name.startswith(part) for name in weights)]
    if foreign or lacking:
        found = f"found {', '.join(shorten(foreign, 6))}" if foreign else f"it has none of {lacking[0]}"
        raise ValueError(
            f"{file} is no checkpoint of the original system: expected only names that begin with {FRONTEND}, "
            f"{PROJECTOR} and {LANGUAGE}; {found}; 'pgn convert inspect {file}' shows all"
        )
    language = read_language_model(llm)
    weights, lora = _take_out_lora(weights, lora_alpha)
    llm_weights = weights.under(LANGUAGE) or open_weights(llm).renamed(plain_name)
    language = _with_rows_of(language, llm_weights)
    side = VisionSide(weights.under(FRONTEND))
    config = build_config(language, side, side, options, prompt_layout="window")
    blueprint = Blueprint(config, options.dtype or main_dtype(weights))

    ledger = Ledger()
    pieces = vision_pieces(blueprint, ledger, side, side, options)
    projector = weights.under(PROJECTOR)
    wanted = {ours: Origin((theirs.removeprefix(PROJECTOR),)) for ours, theirs in projector_names().items()}
    pieces += take(ledger, projector, wanted, blueprint.shapes, options.dtype, "projector")
    account(ledger, projector, lambda name: None, "projector")
    rows = {name.removeprefix(f"{PLACEHOLDER_ROWS}."): entry for name, entry in weights.beside.items()
            if name.startswith(f"{PLACEHOLDER_ROWS}.")}  # fmt: skip
    pieces += language_pieces(
        blueprint, ledger, language, llm_weights, options.dtype, language.new_ids, rows, _LORA_REMEDY
    )
    account_vision(ledger, side, side, side)
    ledger.leave(weights, but=(PLACEHOLDER_ROWS,))
    if lora:
        ledger.use("LoRA, written to adapter/", file, lora.values())

    def write_adapter(folder: Path) -> None:
        if lora:
            _write_lora(folder / ADAPTER_FOLDER, lora, language, lora_alpha, options.dtype)

    record = {"command": "from-original", "sources": {"file": file, "llm": llm}, "renames": list(renames)}
    write_checkpoint(
        Path(out), blueprint, pieces, language.tokenizer, ledger, options.max_shard_size, record, write_adapter
    )
    return ledger


def projector_names() -> dict[str, str]:
    """What the original calls the tensors of PGN's projector: an nn.Sequential of Linear, GELU, Linear."""
    layers = {"model.projector.linear_1.": f"{PROJECTOR}0.", "model.projector.linear_2.": f"{PROJECTOR}2."}
    return {f"{ours}{kind}": f"{theirs}{kind}" for ours, theirs in layers.items() for kind in ("weight", "bias")}


def apply_renames(weights: Weights, rules: Sequence[str]) -> Weights:
    """Rename tensors by the user's rules.

    Raises:
        ValueError: a rule is no rule, or no tensor has such a name.
    """
    for rule in rules:
        pattern, arrow, replacement = rule.partition("=>")
        try:
            compiled = re.compile(pattern)
            if not arrow:
                raise ValueError("it has no '=>'")
            hits = sum(1 for name in weights if compiled.search(name))
            weights = weights.renamed(lambda name, c=compiled, r=replacement: c.sub(r, name))
        except (re.error, IndexError, ValueError) as error:
            raise ValueError(
                f"--rename {rule!r}: {error}; expected PATTERN=>REPLACEMENT, a regular expression"
            ) from None
        if not hits:
            raise ValueError(f"--rename {rule!r}: no tensor of {weights.path} has such a name")
    return weights


def _with_rows_of(language: LanguageModel, weights: Weights) -> LanguageModel:
    """The language model with as many rows as the file has.

    Raises:
        ValueError: the file has neither as many rows as the language model, nor three more than its tokenizer.
    """
    name = language.embedding
    if name not in weights:
        return language  # What is missing is named when the tensors are taken.
    rows, published, extended = weights[name].shape[0], language.rows, language.tokens + _ADDED_ROWS
    if rows == extended:
        config = copy.deepcopy(language.config)
        # The original resizes to the tokenizer: of a padded vocabulary the padding is gone.
        config.vocab_size = rows + 1
        return replace(language, config=config, rows=rows, new_ids=language.token_ids[_ADDED_ROWS:])
    if rows == published:
        return language
    raise ValueError(
        f"{weights.path}: {weights.in_file(name)} has {rows} rows, but {language.path} has a vocabulary of "
        f"{published}; expected {published}, or {extended} with the three special tokens of the original; give the "
        "folder of the language model that the file was trained from"
    )


def _take_out_lora(weights: Weights, lora_alpha: float | None) -> tuple[Weights, dict[tuple[str, str], Entry]]:
    """Split LoRA tensors off; they are handed out by module and half, ``("model.layers.0.self_attn.q_proj", "A")``.

    Raises:
        ValueError: there is no scale for them (or a scale and none of them); a module has not both halves, or they do
            not fit it; they have several ranks.
    """
    lora: dict[tuple[str, str], Entry] = {}
    names = {name: match for name in weights if (match := _LORA.fullmatch(name))}
    for name, match in names.items():
        key = (match["module"], match["half"])
        if key in lora:
            raise ValueError(
                f"{weights.path}: {lora[key].key} and {weights[name].key} would both be lora_{key[1]} of {key[0]}"
            )
        lora[key] = weights[name]
    if lora and lora_alpha is None:
        raise ValueError(
            f"{weights.path} holds {len(lora)} LoRA tensors ({', '.join(shorten(names))}) and no scale for them; give "
            "--lora_alpha, as it was in training"
        )
    if lora_alpha is not None and not lora:
        raise ValueError(
            f"--lora_alpha={lora_alpha}, but {weights.path} holds no LoRA tensors; leave it out, or mend the --rename "
            "rules"
        )
    for module in {module: None for module, _ in lora}:
        entries = (weights.get(f"{LANGUAGE}{module}.weight"), lora.get((module, "A")), lora.get((module, "B")))
        shapes = [entry.shape if entry else None for entry in entries]
        if not _pairs_up(*shapes):
            raise ValueError(
                f"{weights.path}: LoRA of {LANGUAGE}{module} does not pair up: its weight is {shapes[0]}, lora_A "
                f"{shapes[1]}, lora_B {shapes[2]}; expected (out, in), (rank, in) and (out, rank); {_LORA_REMEDY}"
            )
    if len(ranks := {entry.shape[0] for (_, half), entry in lora.items() if half == "A"}) > 1:
        raise ValueError(f"{weights.path}: LoRA of several ranks, {sorted(ranks)}; expected one rank for all")
    rest = {name: entry for name, entry in weights.items() if name not in names}
    return Weights(weights.path, rest, weights.beside, weights.others), lora


def _pairs_up(weight: tuple | None, a: tuple | None, b: tuple | None) -> bool:
    if any(shape is None or len(shape) != 2 for shape in (weight, a, b)):
        return False
    return a[1] == weight[1] and b == (weight[0], a[0])


def _write_lora(
    folder: Path,
    lora: dict[tuple[str, str], Entry],
    language: LanguageModel,
    alpha: float,
    dtype: torch.dtype | None,
) -> None:
    """Write LoRA tensors in PEFT's format; ``PeftModel.from_pretrained(model, folder)`` loads them."""
    folder.mkdir()
    modules = {module: language.pgn_name(f"{module}.weight").removesuffix(".weight") for module, _ in lora}
    rank = next(entry.shape[0] for (_, half), entry in lora.items() if half == "A")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(modules.values()), inference_mode=True)
    config.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    with open_tensors(lora.values()) as opened:
        tensors = {}
        for (module, half), entry in lora.items():
            name = f"base_model.model.{modules[module]}.lora_{half}.weight"
            tensors[name] = opened[entry].to(dtype or entry.dtype).contiguous()
        save_file(tensors, file, metadata={"format": "pt"})
        del tensors
    give_usual_rights(file)
