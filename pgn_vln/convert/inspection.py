"""``pgn convert inspect``: what is in a file or folder of weights, read off names, shapes and configuration alone."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgn_vln.convert.weights import Entry, Weights, open_weights, plain_name

# What a name begins with says which part it is of; the first that fits counts.
_PARTS = (
    ("vision tower", ("visual_encoder.", "ln_vision.", "vision_model.", "model.vision_model.", "model.vision_tower.",
                      "vision_frontend.visual_encoder.", "vision_frontend.ln_vision.")),
    ("vision tower (a ViT alone)", ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "fc_norm.",
                                    "head.")),
    ("Q-Former", ("Qformer.bert.", "qformer.", "model.qformer.", "query_tokens", "model.query_tokens",
                  "vision_frontend.Qformer.", "vision_frontend.query_tokens")),
    ("projector", ("pangu_proj.", "model.projector.", "language_projection.", "opt_proj.", "t5_proj.", "llm_proj.")),
    ("heads of the first training stage", ("Qformer.cls.", "vision_proj.", "text_proj.", "itm_head.", "temp",
                                           "vision_projection.", "text_projection.")),
    ("language model", ("llm.", "model.language_model.", "language_model.", "lm_head.", "model.", "transformer.",
                        "opt_model.", "t5_model.", "llm_model.")),
)  # fmt: skip
_ADAPTER = (".lora_", "base_model.model.")


@dataclass
class Inspection:
    """What was found.

    ``kind`` is what the whole is, ``parts`` hold entries by part; ``others`` is what stands beside the weights, with
    so many tensors in it.
    """

    path: str
    kind: str
    parts: dict[str, dict[str, Entry]]
    others: tuple[str, ...]
    beside: int

    def to_dict(self) -> dict:
        """All of it, tensor by tensor, for JSON."""
        parts = {
            part: {name: {"shape": list(e.shape), "dtype": _dtype(e)} for name, e in entries.items()}
            for part, entries in self.parts.items()
        }
        return {"path": self.path, "kind": self.kind, "parts": parts, "others": list(self.others)}

    def lines(self, every: bool) -> Iterator[str]:
        """For a person; ``every`` adds a line for each tensor."""
        yield f"{self.path}: {self.kind}"
        yield f"{'part':<36} {'tensors':>8} {'parameters':>15} {'GB':>8}  dtypes"
        rows = [(part, list(entries.values())) for part, entries in self.parts.items()]
        every_entry = [entry for _, entries in rows for entry in entries]
        for part, entries in [*rows, ("all", every_entry)]:
            count = sum(math.prod(entry.shape) for entry in entries)
            size = sum(entry.nbytes for entry in entries) / 1e9
            dtypes = ", ".join(sorted({_dtype(entry) for entry in entries}))
            yield f"{part:<36} {len(entries):>8,} {count:>15,} {size:>8.3f}  {dtypes}"
        if self.others:
            yield f"beside the weights: {', '.join(self.others)} ({self.beside} tensors)"
        if every:
            for part, entries in self.parts.items():
                yield f"\n{part}"
                for name, entry in entries.items():
                    yield f"  {name:<76} {' x '.join(map(str, entry.shape)) or 'scalar':<20} {_dtype(entry)}"


def inspect_weights(path: str) -> Inspection:
    """Look into a file or folder of weights; no tensor is read.

    Raises:
        ValueError: it holds no weights.
    """
    weights = _open(Path(path))
    parts: dict[str, dict[str, Entry]] = {}
    for name, entry in weights.items():
        parts.setdefault(_part(name), {})[name] = entry
    return Inspection(path, _kind(Path(path), weights), parts, weights.others, len(weights.beside))


def _open(path: Path) -> Weights:
    """The weights of an adapter's folder, else what `open_weights` gives."""
    adapter = path / "adapter_model.safetensors"
    return open_weights(adapter) if adapter.is_file() else open_weights(path)


def _dtype(entry: Entry) -> str:
    return str(entry.dtype).removeprefix("torch.")


def _part(name: str) -> str:
    name = plain_name(name)
    if any(mark in name for mark in _ADAPTER):
        return "adapter"
    return next((part for part, prefixes in _PARTS if name.startswith(prefixes)), "unknown")


def _kind(path: Path, weights: Weights) -> str:
    names = [plain_name(name) for name in weights]

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if (path / "adapter_config.json").is_file():
        return "an adapter (PEFT)"
    if (path / "config.json").is_file():
        try:
            model_type = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise ValueError(f"{path}/config.json is no JSON object ({error}); get it again") from None
        known = {"pgn": "a PGN checkpoint", "blip-2": "a BLIP-2 of transformers"}
        return known.get(model_type, f"a model of transformers, model_type {model_type}")
    if has("vision_frontend.", "pangu_proj."):
        return "a checkpoint of the original PGN system"
    if has("visual_encoder.") or has("Qformer."):
        stage = "first stage" if has("Qformer.cls.") else "second stage, or parts"
        return f"a BLIP-2 checkpoint of LAVIS ({stage})"
    if "cls_token" in names and has("blocks."):
        return "a ViT alone, such as eva_vit_g.pth"
    if has("vision_model.", "model.vision_model."):
        return "a BLIP-2 of transformers, without its configuration"
    if has("model.vision_tower."):
        return "weights of a PGN, without its configuration"
    return "weights of a kind that is not known"
