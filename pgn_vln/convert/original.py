"""The original system's ``.pth``: ``vision_frontend.*`` (LAVIS's names), ``pangu_proj.*``, ``llm.*``."""

import re
from collections.abc import Sequence
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
from pgn_vln.convert.weights import Weights, open_tensors, open_weights
from pgn_vln.io import give_usual_rights

FRONTEND, PROJECTOR, LANGUAGE = "vision_frontend.", "pangu_proj.", "llm."
# The projector is an nn.Sequential: Linear, GELU, Linear.
PROJECTOR_LAYERS = {"model.projector.linear_1.": "pangu_proj.0.", "model.projector.linear_2.": "pangu_proj.2."}
# Rows of the image placeholder, which the original does not have: kept beside its weights, where it does not look.
PLACEHOLDER_ROWS = "pgn_placeholder_rows"
ADAPTER_FOLDER = "adapter"
_LORA = re.compile(r"llm\.(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
_ADDED_ROWS = 3


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
    if foreign or not any(name.startswith((FRONTEND, PROJECTOR)) for name in weights):
        raise ValueError(
            f"{file} is no checkpoint of the original system: expected only names that begin with {FRONTEND}, "
            f"{PROJECTOR} and {LANGUAGE}; found {', '.join(shorten(foreign or weights, 6))}; 'pgn convert inspect "
            f"{file}' shows all"
        )
    language = read_language_model(llm)
    weights, lora = _take_out_lora(weights, lora_alpha)
    llm_weights = weights.under(LANGUAGE) or open_weights(llm)
    new_ids = _known_rows(language, llm_weights)
    side = VisionSide(weights.under(FRONTEND))
    config = build_config(language, side, side, options, prompt_layout="window")
    blueprint = Blueprint(config, options.dtype or main_dtype(weights))

    ledger = Ledger()
    pieces = vision_pieces(blueprint, ledger, side, side, options)
    projector = weights.under(PROJECTOR)
    wanted = {
        f"{ours}{kind}": Origin((f"{theirs.removeprefix(PROJECTOR)}{kind}",))
        for ours, theirs in PROJECTOR_LAYERS.items()
        for kind in ("weight", "bias")
    }
    pieces += take(ledger, projector, wanted, blueprint.shapes, options.dtype, "projector")
    account(ledger, projector, lambda name: None, "projector")
    placeholder = {name.partition("/")[2]: entry for name, entry in weights.beside.items()
                   if name.startswith(f"{PLACEHOLDER_ROWS}/")}  # fmt: skip
    pieces += language_pieces(
        blueprint, ledger, language, llm_weights, options.dtype, new_ids, placeholder,
        "if they are LoRA or adapter weights, give rules that rename them to NAME.lora_A.weight and "
        "NAME.lora_B.weight: --rename 'PATTERN=>REPLACEMENT' --lora_alpha NUMBER",
    )  # fmt: skip
    account_vision(ledger, side)
    others = [name for name in weights.others if name != PLACEHOLDER_ROWS]
    if others:
        ledger.notes.append(f"{file} also holds {', '.join(others)}: no weights, left alone")
    if lora:
        ledger.use("LoRA, written to adapter/", file, dict(lora))

    def write_adapter(folder: Path) -> None:
        if lora:
            _write_lora(folder / ADAPTER_FOLDER, lora, language, lora_alpha, options.dtype)

    record = {"command": "from-original", "sources": {"file": file, "llm": llm}, "renames": list(renames)}
    write_checkpoint(
        Path(out), blueprint, pieces, language.tokenizer, ledger, options.max_shard_size, record, write_adapter
    )
    return ledger


def plain_name(name: str) -> str:
    """A name without what torch.compile and data-parallel wrappers write into it."""
    name = re.sub(r"(?:(?<=^)|(?<=\.))_orig_mod\.", "", name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


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


def _known_rows(language: LanguageModel, weights: Weights) -> tuple[int, ...]:
    """Which special tokens' rows are new, given how many rows the file has; sets ``language.rows``.

    Raises:
        ValueError: the file has neither as many rows as the language model, nor three more than its tokenizer.
    """
    name = language.embedding
    if name not in weights:
        return language.new_ids  # What is missing is named when the tensors are taken.
    rows, published = weights[name].shape[0], language.rows
    extended = language.token_ids[0] + _ADDED_ROWS
    if rows == extended:
        language.rows = rows
        return language.token_ids[_ADDED_ROWS:]
    if rows == published:
        return language.new_ids
    raise ValueError(
        f"{weights.path}: {weights.prefix}{name} has {rows} rows, but {language.path} has a vocabulary of "
        f"{published}; expected {published}, or {extended} with the three special tokens of the original; give the "
        "folder of the language model that the file was trained from"
    )


def _take_out_lora(weights: Weights, lora_alpha: float | None) -> tuple[Weights, dict]:
    """Split LoRA tensors off."""
    lora = {name: entry for name, entry in weights.items() if _LORA.fullmatch(name)}
    if not lora:
        return weights, {}
    if lora_alpha is None:
        raise ValueError(
            f"{weights.path} holds {len(lora)} LoRA tensors ({', '.join(shorten(lora))}) and no scale for them; give "
            "--lora_alpha, as it was in training"
        )
    ranks = {entry.shape[0] if ".lora_A." in name else entry.shape[1] for name, entry in lora.items()}
    halves = {half: {m["module"] for name in lora if (m := _LORA.fullmatch(name))["half"] == half} for half in "AB"}
    if len(ranks) != 1 or halves["A"] != halves["B"]:
        odd = sorted(halves["A"] ^ halves["B"])
        raise ValueError(
            f"{weights.path}: its LoRA tensors do not pair up: ranks {sorted(ranks)}, without a partner "
            f"{', '.join(odd[:4]) or 'none'}; expected one rank, and lora_A and lora_B for each module"
        )
    missing = sorted(module for module in halves["A"] if f"{LANGUAGE}{module}.weight" not in weights)
    if missing:
        raise ValueError(
            f"{weights.path}: LoRA of {missing[0]}, but there is no {LANGUAGE}{missing[0]}.weight; mend the --rename "
            "rules"
        )
    rest = {name: entry for name, entry in weights.items() if name not in lora}
    return Weights(weights.path, rest, weights.beside, weights.others), lora


def _write_lora(folder: Path, lora: dict, language: LanguageModel, alpha: float, dtype: torch.dtype | None) -> None:
    """Write LoRA tensors in PEFT's format; ``PeftModel.from_pretrained(model, folder)`` loads them."""
    folder.mkdir()
    tensors, targets = {}, set()
    with open_tensors(lora.values()) as opened:
        for name, entry in lora.items():
            match = _LORA.fullmatch(name)
            module = language.pgn_name(f"{match['module']}.weight").removesuffix(".weight")
            targets.add(module)
            tensor = opened[entry].to(dtype or entry.dtype).contiguous()
            tensors[f"base_model.model.{module}.lora_{match['half']}.weight"] = tensor.clone()
    rank = next(t.shape[0] for name, t in tensors.items() if ".lora_A." in name)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(targets), inference_mode=True)
    config.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    give_usual_rights(file)
