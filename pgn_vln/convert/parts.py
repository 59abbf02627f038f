"""``pgn convert from-parts``: a language model, a vision tower and a Q-Former become one PGN checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, PreTrainedConfig

from modeling_pgn import PGNConfig
from modeling_pgn.prompting_pgn import SPECIAL_TOKENS
from pgn_vln.convert import vision
from pgn_vln.convert.checkpoint import Blueprint, write_checkpoint
from pgn_vln.convert.language import (
    HEAD,
    LANGUAGE_MODEL,
    LANGUAGE_PREFIX,
    LanguageModel,
    check_tied,
    extend_rows,
    is_buffer,
    read_config,
    read_language_model,
)
from pgn_vln.convert.plan import Ledger, Origin, Piece, account, take
from pgn_vln.convert.weights import Entry, Weights, open_weights, plain_name

# One seed for the embedding, another for the head: their rows are drawn apart.
_EMBEDDING_SEED, _HEAD_SEED = 0, 1
UNTRAINED = "untrained, drawn at random"


@dataclass(frozen=True)
class Options:
    """What a conversion may be told beside its sources.

    Args:
        dtype: of every tensor, None for that of its source.
        image_size: of a frame, where it shall not be the vision tower's own.
        vision_heads, qformer_heads: attention heads, where the width does not tell.
        history_frames: how many past frames the navigator remembers, None for PGN's default.
        max_shard_size: of a file of weights.
    """

    dtype: torch.dtype | None = None
    image_size: int | None = None
    vision_heads: int | None = None
    qformer_heads: int | None = None
    history_frames: int | None = None
    max_shard_size: str = "2GB"


class VisionSide:
    """The vision tower's or the Q-Former's source, whichever of its three forms it has.

    Args:
        weights: of LAVIS (``blip2_pretrained.pth``), of the ViT alone (``eva_vit_g.pth``), or of transformers' BLIP-2.

    Raises:
        ValueError: it holds neither a vision tower nor a Q-Former.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights = vision.usual_names(weights)
        self.blip2 = any(name.startswith(("vision_model.", "qformer.")) for name in weights)
        parts = {part_of(name) for name in weights}
        self.has_vision, self.has_qformer, self.has_norm = (
            part in parts for part in (vision.VISION, vision.QFORMER, vision.NORM)
        )
        if not (self.has_vision or self.has_qformer):
            some = ", ".join(list(weights)[:4])
            raise ValueError(
                f"{weights.path} holds neither a vision tower nor a Q-Former; expected the names of LAVIS "
                f"(visual_encoder.*, Qformer.*), of eva_vit_g.pth or of transformers' BLIP-2 (vision_model.*, "
                f"qformer.*), found {some}, …; 'pgn convert inspect {weights.path}' shows all"
            )

    def origins(self, pairs: Iterable[vision.Pair], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Origin]:
        """What the tensors of some pairs are made of here; ``shapes`` are those of the result."""
        if self.blip2:
            return {pair.ours: Origin((pair.blip2,)) for pair in pairs}
        return {
            pair.ours: Origin(pair.theirs, (shapes[pair.ours][0] // 3,), vision.fuse_qkv_bias)
            if len(pair.theirs) > 1
            else Origin(pair.theirs)
            for pair in pairs
        }

    def vision_config(self, options: Options) -> Blip2VisionConfig:
        """Sizes of its vision tower."""
        if not self.blip2:
            return vision.infer_vision_config(self.weights, options.vision_heads, options.image_size)
        config = self._blip2_config().vision_config
        if options.image_size is not None:
            config.image_size = vision.check_image_size(options.image_size, config.patch_size)
        return config

    def qformer_config(self, options: Options) -> Blip2QFormerConfig:
        """Sizes of its Q-Former, without its text branch."""
        if not self.blip2:
            return vision.infer_qformer_config(self.weights, options.qformer_heads)
        config = self._blip2_config().qformer_config
        config.use_qformer_text_input = False
        return config

    def _blip2_config(self) -> Blip2Config:
        folder = self.weights.path if self.weights.path.is_dir() else self.weights.path.parent
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{self.weights.path} has the names of transformers' BLIP-2, but {folder} has no config.json to tell "
                "its sizes; give the whole folder"
            )
        values = read_config(folder)
        if values.get("model_type") != Blip2Config.model_type:
            raise ValueError(
                f"{folder}/config.json: model_type={values.get('model_type')!r}, expected {Blip2Config.model_type!r}, "
                f"as {self.weights.path} has the names of transformers' BLIP-2"
            )
        return Blip2Config.from_dict(values)


def part_of(name: str) -> str | None:
    """The part of the vision side that a tensor belongs to, by the names of LAVIS or of transformers."""
    parts = {
        vision.NORM: ("ln_vision.", "vision_model.post_layernorm."),
        vision.VISION: ("visual_encoder.", "vision_model."),
        vision.QFORMER: ("query_tokens", "Qformer.bert.", "qformer."),
    }
    return next((part for part, prefixes in parts.items() if name.startswith(prefixes)), None)


def convert_parts(llm: str, vision_file: str | None, qformer_file: str | None, out: str, options: Options) -> Ledger:
    """Write a PGN checkpoint from its parts; see the module's command for what they may be.

    A file that holds both vision tower and Q-Former needs to be named once.

    Raises:
        ValueError: a part cannot be used; the message names file, tensor or field, value and remedy.
        FileExistsError: ``out`` holds something already.
        OSError: the disk is too small.
    """
    language = read_language_model(llm)
    files = [Path(file).resolve() if file else None for file in (vision_file, qformer_file)]
    names = dict(zip(files, (vision_file, qformer_file), strict=True))
    sides = {file: VisionSide(open_weights(name)) for file, name in names.items() if file}
    tower = sides.get(files[0]) or next((side for side in sides.values() if side.has_vision), None)
    queries = sides.get(files[1]) or next((side for side in sides.values() if side.has_qformer), None)
    for flag, side, has in (("vision", tower, "has_vision"), ("qformer", queries, "has_qformer")):
        if side and not getattr(side, has):
            path = side.weights.path
            raise ValueError(f"--{flag} {path} holds no {flag} part; 'pgn convert inspect {path}' shows what it holds")

    ledger = Ledger()
    llm_weights = open_weights(llm).renamed(plain_name)
    blueprint = Blueprint(build_config(language, tower, queries, options), options.dtype or main_dtype(llm_weights))
    pieces = vision_pieces(blueprint, ledger, tower, queries, options)
    pieces += blueprint.new(blueprint.part("model.projector."), ledger, f"projector, {UNTRAINED}")
    pieces += language_pieces(blueprint, ledger, language, llm_weights, options.dtype, language.new_ids)
    for side in sides.values():
        account_vision(ledger, side, tower, queries)
    sources = {"llm": llm, "vision": vision_file, "qformer": qformer_file}
    write_checkpoint(
        Path(out), blueprint, pieces, language.tokenizer, ledger, options.max_shard_size,
        {"command": "from-parts", "sources": sources},
    )  # fmt: skip
    return ledger


def build_config(
    language: LanguageModel, tower: VisionSide | None, queries: VisionSide | None, options: Options, **navigation
) -> PGNConfig:
    """The configuration of the result; where a part has no source, BLIP-2's published sizes."""
    vision_config = tower.vision_config(options) if tower else Blip2VisionConfig()
    if options.image_size is not None and not tower:
        vision_config.image_size = vision.check_image_size(options.image_size, vision_config.patch_size)
    qformer_config: PreTrainedConfig | None = queries.qformer_config(options) if queries else None
    tokens = {field: value for field, value in zip(PGNConfig.special_token_fields(), language.token_ids, strict=True)}
    if queries:
        tokens["num_query_tokens"] = queries.weights["query_tokens"].shape[1]
    if options.history_frames is not None:
        navigation["history_frames"] = options.history_frames
    return PGNConfig(
        vision_config=vision_config,
        qformer_config=qformer_config,
        text_config=language.config,
        navigation=navigation,
        **tokens,
    )


def main_dtype(weights: Weights) -> torch.dtype:
    """The floating-point type that most bytes of some weights have."""
    nbytes: dict[torch.dtype, int] = {}
    for entry in weights.values():
        if entry.dtype.is_floating_point:
            nbytes[entry.dtype] = nbytes.get(entry.dtype, 0) + entry.nbytes
    if not nbytes:
        raise ValueError(f"{weights.path} holds no floating-point tensors")
    return max(nbytes, key=nbytes.get)


def vision_pieces(
    blueprint: Blueprint, ledger: Ledger, tower: VisionSide | None, queries: VisionSide | None, options: Options
) -> list[Piece]:
    """Vision tower, its last norm, queries and Q-Former."""
    config, pieces = blueprint.model.config, []
    if tower:
        wanted = tower.origins(vision.vision_pairs(config.vision_config.num_hidden_layers), blueprint.shapes)
        position, patches = vision.POSITION_EMBEDDING, blueprint.shapes[vision.POSITION_EMBEDDING][1] - 1
        (name,) = wanted[position].names
        shape = tower.weights[name].shape if name in tower.weights else None
        # Without a word about the size, the configuration and the file must agree.
        if options.image_size is not None and shape and shape != blueprint.shapes[position]:
            resized = (*shape[:2], blueprint.shapes[position][2])
            wanted[position] = Origin(
                (name,), resized, lambda embedding: vision.resize_position_embedding(embedding, patches)
            )
            ledger.notes.append(f"position embedding resized from {shape[1] - 1} to {patches} patches (bicubic)")
        pieces += take(ledger, tower.weights, wanted, blueprint.shapes, options.dtype, vision.VISION)
    else:
        names = [name for name in blueprint.part(vision.VISION_PREFIX) if not name.startswith(vision.LN_VISION)]
        pieces += blueprint.new(names, ledger, f"{vision.VISION}, {UNTRAINED} (no --vision)")

    # The Q-Former was trained behind its own file's norm.
    norm = next((side for side in (queries, tower) if side and side.has_norm), None)
    if norm:
        wanted = norm.origins(vision.norm_pairs(), blueprint.shapes)
        pieces += take(ledger, norm.weights, wanted, blueprint.shapes, options.dtype, vision.NORM)
    else:
        names = blueprint.part(vision.LN_VISION)
        pieces += blueprint.new(names, ledger, "last norm of the vision tower, the identity (no file has ln_vision)")

    if queries:
        wanted = queries.origins(vision.qformer_pairs(config.qformer_config), blueprint.shapes)
        pieces += take(ledger, queries.weights, wanted, blueprint.shapes, options.dtype, vision.QFORMER)
    else:
        names = blueprint.part(vision.QFORMER_PREFIX, vision.QUERY_TOKENS)
        pieces += blueprint.new(names, ledger, f"{vision.QFORMER} and queries, {UNTRAINED} (no --qformer)")
    return pieces


def account_vision(ledger: Ledger, side: VisionSide, tower: VisionSide | None, queries: VisionSide | None) -> None:
    """Say why what is left of a file of the vision side is left out.

    Args:
        side: the file.
        tower: whose vision tower is used.
        queries: whose Q-Former is used, and whose last norm, if it has one.
    """
    norm = next((other for other in (queries, tower) if other and other.has_norm), None)
    chosen = {vision.VISION: tower, vision.QFORMER: queries, vision.NORM: norm}

    def reason_of(name: str) -> str | None:
        if reason := vision.dropped_reason(name):
            return reason
        # The 40th block of a ViT of which 39 are used.
        if name.startswith("visual_encoder.blocks.39."):
            return vision.LAST_BLOCK
        other = chosen.get(part_of(name))
        return f"{part_of(name)}: another file's is used" if other and other is not side else None

    account(ledger, side.weights, reason_of, "vision side")


def language_pieces(
    blueprint: Blueprint,
    ledger: Ledger,
    language: LanguageModel,
    weights: Weights,
    dtype: torch.dtype | None,
    new_ids: tuple[int, ...],
    last_rows: Mapping[str, Entry] | None = None,
    remedy: str = "",
) -> list[Piece]:
    """The language model and its head, with rows for the special tokens.

    Args:
        weights: with the published names of the language model.
        new_ids: of the special tokens that it has no rows for; they are drawn.
        last_rows: ``embedding`` and ``head``, a row each, for the only one of ``new_ids``, instead of drawing it.
        remedy: what to do about tensors of which nothing is known.
    """
    names: Mapping[str, str] = {language.pgn_name(name): name for name in weights}
    wanted = {}
    for name in [*blueprint.part(LANGUAGE_PREFIX), *blueprint.part(HEAD)]:
        wanted[name] = Origin((names.get(name, name.replace(LANGUAGE_PREFIX, language.base_prefix)),))
    tables = (("embedding", language.pgn_name(language.embedding), _EMBEDDING_SEED), ("head", HEAD, _HEAD_SEED))
    for table, name, seed in tables:
        if name not in wanted or not new_ids:
            continue
        source, shape = wanted[name].names, (language.rows, blueprint.shapes[name][1])
        if len(new_ids) == 1 and table in (last_rows or {}):
            wanted[name] = Origin(source, shape, lambda rows, last: torch.cat([rows, last]), (last_rows[table],))
            ledger.use("image placeholder's row", weights.path, [last_rows[table]])
            continue
        wanted[name] = Origin(source, shape, extend_rows(language, new_ids, seed))
        tokens = {i: f"{name}[{i}] {SPECIAL_TOKENS[language.token_ids.index(i)]}" for i in new_ids}
        ledger.add("rows of the vocabulary, each drawn near the mean of the others", tokens.values())
        if spare := [tokens[i] for i in new_ids if i < language.rows]:
            ledger.drop("rows that a padded vocabulary had to spare, where new ones are now", spare)
    pieces = take(ledger, weights, wanted, blueprint.shapes, dtype, LANGUAGE_MODEL)

    def reason_of(name: str) -> str | None:
        if is_buffer(name):
            return "buffers that the language model computes itself"
        if language.tied and language.pgn_name(name) == HEAD:
            check_tied(weights, names[language.pgn_name(language.embedding)], name)
            return "head: it is the embedding (tie_word_embeddings)"
        return None

    account(ledger, weights, reason_of, LANGUAGE_MODEL, remedy)
    return pieces
