"""``pgn convert to-original`` and ``to-lavis``: a PGN checkpoint in the formats it came from, tensor by tensor."""

import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from modeling_pgn import PGNConfig
from modeling_pgn.prompting_pgn import SPECIAL_TOKENS
from pgn_vln.convert import vision
from pgn_vln.convert.checkpoint import check_room
from pgn_vln.convert.language import HEAD, LANGUAGE_MODEL, LANGUAGE_PREFIX, published_names, read_config
from pgn_vln.convert.original import FRONTEND, LANGUAGE, PLACEHOLDER_ROWS, projector_names
from pgn_vln.convert.plan import Ledger, Origin, Piece, account, take
from pgn_vln.convert.weights import Weights, open_tensors, open_weights
from pgn_vln.io import new_file

# Bytes that are copied before source and target are mapped anew.
_GROUP_BYTES = 1_000_000_000


def to_lavis(folder: str, out: str) -> Ledger:
    """Write vision tower, queries and Q-Former to a ``.pth`` in the layout of LAVIS's ``blip2_pretrained.pth``.

    Raises:
        ValueError: ``folder`` is no whole PGN checkpoint.
        FileExistsError: ``out`` exists.
        OSError: the disk is too small.
    """
    config, weights = _open_pgn(folder)
    ledger = Ledger()
    pieces = _vision_side(ledger, config, weights, "")

    def reason_of(name: str) -> str | None:
        rest = ("model.projector.", LANGUAGE_PREFIX, HEAD)
        return "projector and language model: LAVIS has other ones" if name.startswith(rest) else None

    account(ledger, weights, reason_of, "PGN")
    write_pth(Path(out), {"model": pieces})
    return ledger


def to_original(folder: str, out: str) -> Ledger:
    """Write a ``.pth`` of the original system: ``{"model": {vision_frontend.*, pangu_proj.*, llm.*}}``.

    It has three of the four special tokens; the row of the image placeholder, which it does not know, is kept
    beside ``model``, where `convert_original` finds it again.

    Raises:
        ValueError: ``folder`` is no whole PGN checkpoint; its special tokens are not the last rows of the vocabulary.
        FileExistsError: ``out`` exists.
        OSError: the disk is too small.
    """
    config, weights = _open_pgn(folder)
    total = config.text_config.vocab_size
    ids = [getattr(config, field) for field in config.special_token_fields()]
    if ids != list(range(total - len(ids), total)):
        raise ValueError(
            f"{folder}: the special tokens have the ids {ids} in a vocabulary of {total}; the original system has "
            f"them as its last rows ({', '.join(SPECIAL_TOKENS)} as {total - 4} to {total - 1}), so this checkpoint "
            "cannot be written in its format"
        )
    ledger = Ledger()
    pieces = _vision_side(ledger, config, weights, FRONTEND)
    projector = {theirs: Origin((ours,)) for ours, theirs in projector_names().items()}
    pieces += _plain(ledger, weights, projector, "projector")
    base_prefix, embedding, _ = published_names(config.text_config)
    language = {
        LANGUAGE + name.replace(LANGUAGE_PREFIX, base_prefix): Origin((name,))
        for name in weights
        if name.startswith(LANGUAGE_PREFIX)
    }
    if HEAD in weights:
        language[LANGUAGE + HEAD] = Origin((HEAD,))
    tables = {"embedding": LANGUAGE + embedding, "head": LANGUAGE + HEAD}
    shapes = _shapes(weights, language)
    rows, width = [], config.text_config.hidden_size
    for table, name in tables.items():
        if name in language:
            source = language[name].names
            language[name] = Origin(source, shapes[name], lambda weight: weight[:-1])
            entry = weights[source[0]]
            shapes[name] = (total - 1, width)
            rows.append(Piece(table, (1, width), entry.dtype, (entry,), lambda weight: weight[-1:]))
    pieces += take(ledger, weights, language, shapes, None, LANGUAGE_MODEL)
    account(ledger, weights, lambda name: None, "PGN")
    ledger.notes.append(f"the image placeholder's row is kept beside the model, as {PLACEHOLDER_ROWS}")
    write_pth(Path(out), {"model": pieces, PLACEHOLDER_ROWS: rows})
    return ledger


def write_pth(out: Path, parts: Mapping[str, Sequence[Piece]]) -> None:
    """Write ``{part: {name: tensor}}`` as ``torch.save`` would, with no more than a group of tensors in memory.

    torch lays the file out first and its data is then filled in through a mapping. The zip checksums of the tensors
    are left at 0; `torch.load` does not read them.

    Raises:
        FileExistsError: ``out`` exists.
        OSError: the disk is too small.
    """
    pieces = [(part, piece) for part, members in parts.items() for piece in members]
    total = sum(piece.nbytes for _, piece in pieces)
    with new_file(out) as file:
        check_room(out, total)
        with FakeTensorMode():
            layout = {
                part: {piece.name: torch.empty(piece.shape, dtype=piece.dtype) for piece in members}
                for part, members in parts.items()
            }
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(layout, file)
        _claim_room(file)
        with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as bar:
            for group in _groups(pieces):
                entries = [entry for _, piece in group for entry in piece.sources]
                with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED), open_tensors(entries) as opened:
                    target = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                    for part, piece in group:
                        target[part][piece.name].copy_(piece.build(opened))
                        bar.update(piece.nbytes)
                    del target


def _claim_room(file: Path) -> None:
    """Have the disk give the room of a sparse file now: a full one could not be reported while it is being filled."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


def _groups(pieces: list[tuple[str, Piece]]) -> list[list[tuple[str, Piece]]]:
    groups, size = [[]], 0
    for item in pieces:
        if groups[-1] and size + item[1].nbytes > _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += item[1].nbytes
    return groups


def _open_pgn(folder: str) -> tuple[PGNConfig, Weights]:
    path = Path(folder)
    if (path / "adapter_config.json").is_file():
        raise ValueError(f"{folder!r} is an adapter; merge it into its base first, and convert the result")
    if not (path / "config.json").is_file():
        raise ValueError(f"{folder!r} is no PGN checkpoint: it has no config.json")
    values = read_config(path)
    if values.get("model_type") != PGNConfig.model_type:
        raise ValueError(f"{folder!r} is of type {values.get('model_type')!r}, expected {PGNConfig.model_type!r}")
    return PGNConfig.from_pretrained(path), open_weights(path)


def _shapes(weights: Weights, wanted: Mapping[str, Origin]) -> dict[str, tuple[int, ...]]:
    return {name: weights[origin.names[0]].shape for name, origin in wanted.items() if origin.names[0] in weights}


def _plain(ledger: Ledger, weights: Weights, wanted: Mapping[str, Origin], part: str) -> list[Piece]:
    """Pieces that keep their shape."""
    return take(ledger, weights, wanted, _shapes(weights, wanted), None, part)


def _vision_side(ledger: Ledger, config: PGNConfig, weights: Weights, prefix: str) -> list[Piece]:
    """Vision tower, last norm, queries and Q-Former under LAVIS's names."""
    groups = {
        vision.VISION: [*vision.vision_pairs(config.vision_config.num_hidden_layers), *vision.norm_pairs()],
        vision.QFORMER: list(vision.qformer_pairs(config.qformer_config)),
    }
    pieces = []
    for part, pairs in groups.items():
        plain = {prefix + pair.theirs[0]: Origin((pair.ours,)) for pair in pairs if len(pair.theirs) == 1}
        pieces += _plain(ledger, weights, plain, part)
    fused = [pair for pair in groups[vision.VISION] if len(pair.theirs) > 1]
    pieces += _qkv_biases(ledger, weights, fused, prefix, config.vision_config.hidden_size)
    layers = config.qformer_config.num_hidden_layers
    absent = [prefix + name for name in vision.text_branch_names(layers)]
    ledger.lack("LAVIS's text branch and heads, which PGN dropped", absent)
    return pieces


def _qkv_biases(ledger: Ledger, weights: Weights, pairs: list[vision.Pair], prefix: str, width: int) -> list[Piece]:
    """The query and value thirds of each fused bias; LAVIS has no place for the key's."""
    wanted = {}
    for pair in pairs:
        for name, third in zip(pair.theirs, (0, 2), strict=True):
            wanted[prefix + name] = Origin((pair.ours,), (3 * width,), lambda bias, i=third: bias.chunk(3)[i])
    pieces = take(ledger, weights, wanted, dict.fromkeys(wanted, (width,)), None, vision.VISION)
    with open_tensors(weights[pair.ours] for pair in pairs) as opened:
        largest = max(bias.float().chunk(3)[1].abs().max().item() for bias in opened.values())
    if largest > 0:
        ledger.notes.append(
            f"the key biases (up to {largest:.2g}) are left out: LAVIS has none, and softmax does not see them, as "
            "they shift all scores of a query alike"
        )
    return pieces
