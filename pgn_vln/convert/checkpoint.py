"""A PGN checkpoint, written shard by shard from a plan: no more than one shard is in memory at a time."""

import copy
import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging

from modeling_pgn import PGNConfig, PGNForConditionalGeneration, PGNImageProcessor, PGNProcessor
from pgn_vln.convert.plan import Ledger, Piece
from pgn_vln.convert.weights import open_tensors
from pgn_vln.io import give_usual_rights, new_folder, write_json_atomic

RECORD_FILE = "conversion.json"
_INDEX_FILE = "model.safetensors.index.json"


class Blueprint:
    """A PGN of a configuration, without memory: its tensors as they are saved, and what new ones are like.

    Args:
        config: of the model.
        dtype: of tensors that are new.
    """

    def __init__(self, config: PGNConfig, dtype: torch.dtype) -> None:
        self.dtype = dtype
        with torch.device("meta"):
            self.model = PGNForConditionalGeneration(config).to(dtype)
        state = self.model.state_dict()
        for name in self.model.all_tied_weights_keys:
            state.pop(name, None)
        # Mixtures of experts are published expert by expert; transformers joins them when it loads.
        state = revert_weight_conversion(self.model, state)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def part(self, *prefixes: str) -> list[str]:
        """Names of the tensors that begin with one of some prefixes."""
        return [name for name in self.shapes if name.startswith(prefixes)]

    def new(self, names: Sequence[str], ledger: Ledger, reason: str) -> list[Piece]:
        """Pieces for tensors that no source has, drawn as the model itself would; each the same every time."""
        ledger.add(reason, names)
        return [Piece(name, self.shapes[name], self.dtype, (), self._draw(name)) for name in names]

    def _draw(self, name: str) -> Callable[[], torch.Tensor]:
        def draw() -> torch.Tensor:
            owner, _, attribute = name.rpartition(".")
            module = copy.deepcopy(self.model.get_submodule(owner)).to_empty(device="cpu")
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._owner_of(owner)._init_weights(module)
            return getattr(module, attribute)

        return draw

    def _owner_of(self, name: str) -> PreTrainedModel:
        """The nearest model around a module: it knows how its modules start."""
        while not isinstance(module := self.model.get_submodule(name), PreTrainedModel):
            name = name.rpartition(".")[0]
        return module


def write_checkpoint(
    out: Path,
    blueprint: Blueprint,
    pieces: Sequence[Piece],
    tokenizer,
    ledger: Ledger,
    max_shard_size: str,
    record: Mapping[str, object],
    more: Callable[[Path], None] | None = None,
) -> None:
    """Write weights, configuration, code and processor to a new folder; it appears whole or not at all.

    Args:
        out: must not exist, or be empty.
        blueprint: of the model.
        pieces: one for each of its tensors.
        tokenizer: with the special tokens.
        ledger: what became of every tensor, for ``conversion.json``.
        max_shard_size: such as ``"2GB"``.
        record: what else ``conversion.json`` says.
        more: writes what else belongs into the folder.

    Raises:
        FileExistsError: ``out`` holds something already.
        OSError: the disk has too little room; said before anything is written.
    """
    config = blueprint.model.config
    side = config.vision_config.image_size
    with new_folder(out) as folder:
        check_room(out, sum(piece.nbytes for piece in pieces))
        image_processor = PGNImageProcessor(size={"height": side, "width": side})
        processor = PGNProcessor(image_processor, tokenizer, num_query_tokens=config.num_query_tokens)
        processor.check_model(config)
        # Without tensors nothing but configuration and code is written; its progress bar would show just that.
        with _no_progress_bar():
            blueprint.model.save_pretrained(folder, state_dict={})
        processor.save_pretrained(folder)
        _write_shards(folder, blueprint, pieces, max_shard_size)
        if more:
            more(folder)
        write_json_atomic(folder / RECORD_FILE, {**record, **ledger.to_dict()})


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_room(out: Path, nbytes: int) -> None:
    """Refuse to begin what the disk cannot hold; the folder around ``out`` is there.

    Raises:
        OSError: with both numbers.
    """
    free = shutil.disk_usage(Path(out).parent).free
    if nbytes > free:
        raise OSError(
            f"the result takes {nbytes / 1e9:.1f} GB, the disk of {out} has {free / 1e9:.1f} GB left; make "
            "room, or write to another disk"
        )


def _write_shards(folder: Path, blueprint: Blueprint, pieces: Sequence[Piece], max_shard_size: str) -> None:
    by_name = {piece.name: piece for piece in pieces}
    if len(by_name) != len(pieces) or set(by_name) != set(blueprint.shapes):
        odd = sorted(set(by_name) ^ set(blueprint.shapes))
        raise RuntimeError(f"the converter is at fault: plan and model have different tensors: {odd[:4]}")
    shapes = {
        name: torch.empty(by_name[name].shape, dtype=by_name[name].dtype, device="meta") for name in blueprint.shapes
    }
    split = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    total = sum(piece.nbytes for piece in pieces)
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as bar:
        for file, names in split.filename_to_tensors.items():
            # Sources are mapped anew for every shard: pages that were read before are given back.
            with open_tensors(entry for name in names for entry in by_name[name].sources) as opened:
                tensors = {}
                for name in names:
                    tensors[name] = by_name[name].build(opened)
                    bar.update(tensors[name].nbytes)
                save_file(_unshared(tensors), folder / file, metadata={"format": "pt"})
                give_usual_rights(folder / file)
                del tensors
    if split.is_sharded:
        metadata = {"total_size": total, "total_parameters": sum(math.prod(piece.shape) for piece in pieces)}
        weight_map = dict(sorted(split.tensor_to_filename.items()))
        write_json_atomic(folder / _INDEX_FILE, {"metadata": metadata, "weight_map": weight_map})


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors that lie in one storage with another, which safetensors refuses."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.nbytes:
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return tensors
