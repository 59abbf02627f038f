"""Vision tower and Q-Former: what LAVIS and transformers' BLIP-2 call the tensors that PGN has.

One table serves both directions. LAVIS names (``blip2_pretrained.pth``, ``eva_vit_g.pth``) are those of its
``Blip2Base``; transformers' are those of ``Blip2ForConditionalGeneration`` and ``Blip2ForImageTextRetrieval``.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2VisionConfig

from pgn_vln.convert.weights import Weights, plain_name

VISION, QFORMER, NORM = "vision tower", "Q-Former", "vision tower's last norm"
VISION_PREFIX, QFORMER_PREFIX, QUERY_TOKENS = "model.vision_tower.", "model.qformer.", "model.query_tokens.weight"
POSITION_EMBEDDING = f"{VISION_PREFIX}embeddings.position_embedding"
LN_VISION = f"{VISION_PREFIX}post_layernorm."
# Of the models whose heads are public; other files do not say how many they have.
_VISION_HEADS, _QFORMER_HEADS = {1408: 16}, {768: 12}
_BOTH = ("weight", "bias")


@dataclass(frozen=True)
class Pair:
    """One tensor of PGN and the tensors of LAVIS that it is made of: one, or the two halves of the qkv bias."""

    ours: str
    theirs: tuple[str, ...]
    # transformers' name; the tensor is the same.
    blip2: str


def vision_pairs(layers: int) -> Iterator[Pair]:
    """The vision tower without its last norm; LAVIS's names carry the prefix ``visual_encoder.``."""
    renames = {"embeddings.class_embedding": "cls_token", "embeddings.position_embedding": "pos_embed"}
    renames |= {f"embeddings.patch_embedding.{kind}": f"patch_embed.proj.{kind}" for kind in _BOTH}
    for i in range(layers):
        ours, theirs = f"encoder.layers.{i}.", f"blocks.{i}."
        renames[f"{ours}self_attn.qkv.weight"] = f"{theirs}attn.qkv.weight"
        for name, other in (
            ("layer_norm1", "norm1"), ("self_attn.projection", "attn.proj"), ("layer_norm2", "norm2"),
            ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
        ):  # fmt: skip
            renames |= {f"{ours}{name}.{kind}": f"{theirs}{other}.{kind}" for kind in _BOTH}
        # The key bias shifts all scores of a query alike, softmax does not see it, and LAVIS has none.
        name = f"{ours}self_attn.qkv.bias"
        parts = tuple(f"visual_encoder.{theirs}attn.{half}_bias" for half in "qv")
        yield Pair(VISION_PREFIX + name, parts, f"vision_model.{name}")
    for ours, theirs in renames.items():
        yield Pair(VISION_PREFIX + ours, (f"visual_encoder.{theirs}",), f"vision_model.{ours}")


def norm_pairs() -> Iterator[Pair]:
    """The last norm of the vision tower: the Q-Former was trained behind it, so it travels with the Q-Former."""
    for kind in _BOTH:
        yield Pair(LN_VISION + kind, (f"ln_vision.{kind}",), f"vision_model.post_layernorm.{kind}")


def qformer_pairs(config: Blip2QFormerConfig) -> Iterator[Pair]:
    """The queries and the Q-Former without its text branch."""
    yield Pair(QUERY_TOKENS, ("query_tokens",), "query_tokens")
    renames = {f"layernorm.{kind}": f"embeddings.LayerNorm.{kind}" for kind in _BOTH}
    for i in range(config.num_hidden_layers):
        blocks = ["attention"] if i % config.cross_attention_frequency else ["attention", "crossattention"]
        names = {
            f"{block}.attention.{what}": f"{block}.self.{what}"
            for block in blocks
            for what in ("query", "key", "value")
        }
        same = [f"{block}.output.{what}" for block in blocks for what in ("dense", "LayerNorm")]
        same += ["intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"]
        for ours, theirs in (names | {name: name for name in same}).items():
            layer = f"encoder.layer.{i}."
            renames |= {f"{layer}{ours}.{kind}": f"{layer}{theirs}.{kind}" for kind in _BOTH}
    for ours, theirs in renames.items():
        yield Pair(QFORMER_PREFIX + ours, (f"Qformer.bert.{theirs}",), f"qformer.{ours}")


# What the files hold that a generative PGN has no use for; patterns of LAVIS's and of transformers' names.
DROPPED = {
    "text branch of the Q-Former": (
        r"Qformer\.bert\.embeddings\.(position_ids|word_embeddings\.weight|position_embeddings\.weight)",
        r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*",
        r"embeddings\.(position_ids|word_embeddings\.weight|position_embeddings\.weight)",
        r"qformer\.(embeddings\..*|encoder\.layer\.\d+\.(intermediate|output)\..*)",
        r"Qformer\.cls\..*",
    ),
    "heads of the first training stage": (
        r"(vision_proj|text_proj|itm_head|vision_projection|text_projection)\.(weight|bias)", "temp",
    ),
    "another language model and its projection": (
        r"(opt_proj|t5_proj|llm_proj|language_projection|opt_model|t5_model|llm_model|language_model)\..*",
    ),
    "final norm and head of the ViT: BLIP-2 has its own behind it": (
        r"visual_encoder\.(norm|fc_norm|head)\.(weight|bias)",
    ),
}  # fmt: skip
LAST_BLOCK = "last block of a ViT of 40: LAVIS takes the features before it"


def text_branch_names(layers: int) -> list[str]:
    """What LAVIS's first-stage model has and PGN has not: the text branch of its Q-Former, and the heads."""
    names = [f"Qformer.bert.embeddings.{x}" for x in ("position_ids", "word_embeddings.weight",
                                                      "position_embeddings.weight")]  # fmt: skip
    for i in range(layers):
        for module in ("intermediate.dense", "output.dense", "output.LayerNorm"):
            names += [f"Qformer.bert.encoder.layer.{i}.{module}.{kind}" for kind in _BOTH]
    names.append("Qformer.cls.predictions.bias")
    modules = [f"Qformer.cls.predictions.{x}" for x in ("transform.dense", "transform.LayerNorm", "decoder")]
    modules += ["vision_proj", "text_proj", "itm_head"]
    return [*names, *(f"{module}.{kind}" for module in modules for kind in _BOTH), "temp"]


def dropped_reason(name: str) -> str | None:
    """Why PGN has no use for a tensor, or None if nothing is known of it."""
    for reason, patterns in DROPPED.items():
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            return reason
    return None


def usual_names(weights: Weights) -> Weights:
    """Give a file of the vision side the names that LAVIS, or else transformers, gives them.

    What torch.compile and data-parallel wrappers write is taken off, and the ``model.`` of a BLIP-2 that is part of a
    larger model; ``eva_vit_g.pth`` has no prefix, and gets that of a whole LAVIS checkpoint.
    """
    weights = weights.renamed(plain_name)
    if any(name.startswith(("model.vision_model.", "model.qformer.")) for name in weights):
        weights = weights.renamed(lambda name: name.removeprefix("model."))
    if any(name.startswith("blocks.0.") for name in weights):
        weights = weights.renamed(lambda name: f"visual_encoder.{name}")
    return weights


def count_layers(weights: Weights, prefix: str) -> int:
    """How many layers there are: the numbers behind a prefix, from 0 without a gap.

    Raises:
        ValueError: there is a gap.
    """
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)}
    found = {int(number) for number in numbers if number.isdigit()}
    missing = sorted(set(range(max(found, default=-1) + 1)) - found)
    if missing:
        layer = weights.in_file(f"{prefix}{missing[0]}")
        raise ValueError(f"{weights.path} lacks {layer}.*, although it has {max(found)} of these; get the file again")
    return len(found)


def infer_vision_config(weights: Weights, heads: int | None, image_size: int | None) -> Blip2VisionConfig:
    """Sizes of the vision tower of a file with LAVIS's names.

    Args:
        heads: attention heads, where the file's width does not tell.
        image_size: what it shall take; the position embedding is resized to it. By default the file's own.

    Raises:
        ValueError: an image size that is no multiple of the patch size; a width whose heads are not known.
    """
    width = _shape(weights, "visual_encoder.cls_token", 3)[2]
    patch = _shape(weights, "visual_encoder.patch_embed.proj.weight", 4)[3]
    depth = count_layers(weights, "visual_encoder.blocks.")
    side = _grid_side(weights, _shape(weights, "visual_encoder.pos_embed", 3)[1])
    return Blip2VisionConfig(
        hidden_size=width,
        intermediate_size=_shape(weights, "visual_encoder.blocks.0.mlp.fc1.weight", 2)[0],
        # EVA-ViT-g has 40 blocks; BLIP-2 was trained on what comes out of the 39th.
        num_hidden_layers=depth - 1 if depth == 40 else depth,
        num_attention_heads=_heads(heads, "vision", width, _VISION_HEADS, weights),
        patch_size=patch,
        image_size=check_image_size(side * patch if image_size is None else image_size, patch),
    )


def infer_qformer_config(weights: Weights, heads: int | None) -> Blip2QFormerConfig:
    """Sizes of the Q-Former of a file with LAVIS's names.

    Raises:
        ValueError: cross-attention that is not in every n-th layer; a width whose heads are not known.
    """
    layers = count_layers(weights, "Qformer.bert.encoder.layer.")
    crossed = [i for i in range(layers) if f"Qformer.bert.encoder.layer.{i}.crossattention.self.key.weight" in weights]
    frequency = crossed[1] - crossed[0] if len(crossed) > 1 else layers
    if not crossed or crossed != list(range(0, layers, frequency)):
        raise ValueError(
            f"{weights.path}: the Q-Former has cross-attention in the layers {crossed}; expected every n-th one of "
            f"its {layers}, the first included"
        )
    width = _shape(weights, "query_tokens", 3)[2]
    first = "Qformer.bert.encoder.layer.0."
    return Blip2QFormerConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=_heads(heads, "qformer", width, _QFORMER_HEADS, weights),
        intermediate_size=_shape(weights, f"{first}intermediate_query.dense.weight", 2)[0],
        cross_attention_frequency=frequency,
        encoder_hidden_size=_shape(weights, f"{first}crossattention.self.key.weight", 2)[1],
    )


def check_image_size(side: int, patch: int) -> int:
    """Return ``side``.

    Raises:
        ValueError: it is no multiple of the patch size.
    """
    if side <= 0 or side % patch:
        raise ValueError(
            f"image_size={side} is no multiple of the patch size {patch}; e.g. {max(side // patch, 1) * patch}"
        )
    return side


def _heads(given: int | None, part: str, width: int, known: dict[int, int], weights: Weights) -> int:
    heads = known.get(width) if given is None else given
    if heads is None or heads < 1 or width % heads:
        raise ValueError(
            f"{weights.path} does not say how many attention heads its {part} part of width {width} has"
            + (f", and {given} do not divide it" if given is not None else "")
            + f"; give --{part}_heads"
        )
    return heads


def _shape(weights: Weights, name: str, ndim: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read off.

    Raises:
        ValueError: it is not there, or has another number of dimensions.
    """
    found = weights[name].shape if name in weights else None
    if found is None or len(found) != ndim:
        what = "is not there" if found is None else f"is {' x '.join(map(str, found)) or 'a scalar'}"
        raise ValueError(
            f"{weights.path}: {weights.in_file(name)} {what}, expected a tensor of {ndim} dimensions, as LAVIS has "
            f"it, to read sizes off; 'pgn convert inspect {weights.path}' shows what it holds"
        )
    return found


def _grid_side(weights: Weights, tokens: int) -> int:
    patches = tokens - 1
    side = math.isqrt(max(patches, 0))
    if side * side != patches or side < 1:
        raise ValueError(f"{weights.path}: a position embedding of {tokens} is no square of patches and a class token")
    return side


def fuse_qkv_bias(q_bias_D: torch.Tensor, v_bias_D: torch.Tensor) -> torch.Tensor:
    """``[3 D]``, with a key bias of zero."""
    return torch.cat([q_bias_D, torch.zeros_like(q_bias_D), v_bias_D])


def resize_position_embedding(embedding_1ND: torch.Tensor, patches: int) -> torch.Tensor:
    """Position embedding for another image size: bicubic over the grid, the class token's row kept (as LAVIS does).

    Args:
        embedding_1ND: ``[1, 1 + side², D]``.
        patches: of the new grid, a square.

    Returns:
        ``[1, 1 + patches, D]`` of the same dtype.
    """
    old, new = math.isqrt(embedding_1ND.shape[1] - 1), math.isqrt(patches)
    if old == new:
        return embedding_1ND
    grid = embedding_1ND[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    grid_1ND = grid.permute(0, 2, 3, 1).flatten(1, 2).to(embedding_1ND.dtype)
    return torch.cat([embedding_1ND[:, :1], grid_1ND], dim=1)
