"""Files of weights, opened lazily: what is in them is known without reading it, and no arbitrary pickle is run.

Tensors are memory-mapped and handed out for the length of a ``with`` block; when it ends the pages are given back. So
a file of 40 GB can be converted in a few GB. (Files of torch before 1.6 cannot be mapped; they are read whole.)
"""

import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

# What checkpoints of other code call the part of a file that holds the weights.
_WRAPPERS = ("model", "state_dict", "module")
# Of a folder, the first of these that is there: the order in which transformers looks.
_IN_FOLDERS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where it is, and what it is."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Weights(Mapping[str, Entry]):
    """The tensors of a file or folder by name.

    Args:
        path: what the user named; errors and reports say so.
        entries: by name.
        beside: tensors that a file holds beside its weights, as ``"optimizer.state.0.exp_avg"``.
        others: what else is in it, by name.
        prefix: what the names of the file begin with, where these are a part of them.
    """

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, Entry],
        beside: Mapping[str, Entry] | None = None,
        others: Iterable[str] = (),
        prefix: str = "",
    ) -> None:
        self.path = Path(path)
        self.entries = dict(entries)
        self.beside = dict(beside or {})
        self.others = tuple(others)
        self.prefix = prefix

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def under(self, prefix: str) -> "Weights":
        """Those whose names begin with a prefix, without it; what is beside them stays behind."""
        entries = {name.removeprefix(prefix): entry for name, entry in self.items() if name.startswith(prefix)}
        return Weights(self.path, entries, prefix=self.prefix + prefix)

    def in_file(self, name: str) -> str:
        """What a tensor is called in the file, where it is there, so that a person finds it."""
        return self.entries[name].key if name in self.entries else self.prefix + name

    def renamed(self, rename: Callable[[str], str]) -> "Weights":
        """The same tensors under other names.

        Raises:
            ValueError: two of them would have one name.
        """
        entries: dict[str, Entry] = {}
        for name, entry in self.entries.items():
            new = rename(name)
            if new in entries:
                raise ValueError(
                    f"{self.path}: {entries[new].key!r} and {entry.key!r} would both be named {new!r}; change the "
                    "rename rules, or remove one of the tensors"
                )
            entries[new] = entry
        return Weights(self.path, entries, self.beside, self.others, self.prefix)


def open_weights(path: str | Path) -> Weights:
    """List what is in a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, or in a folder of transformers.

    A ``.pth`` may hold the weights bare, or under ``model``, ``state_dict`` or ``module``.

    Raises:
        ValueError: there is no such path; it is cut short, is no file of weights, or needs arbitrary pickle.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} does not exist; give a file of weights, or a folder that holds them")
    if path.suffix == ".safetensors":
        return Weights(path, _safetensors_entries(path))
    tensors, beside, others = _split(path, _load_torch(path))
    entries, more = ({key: Entry(path, key, tuple(value.shape), value.dtype) for key, value in part.items()}
                     for part in (tensors, beside))  # fmt: skip
    return Weights(path, entries, more, others)


@contextmanager
def open_tensors(entries: Iterable[Entry]) -> Iterator[dict[Entry, torch.Tensor]]:
    """The tensors of some entries, memory-mapped until the block ends; keep none of them longer."""
    by_file: dict[Path, list[Entry]] = {}
    for entry in entries:
        by_file.setdefault(entry.file, []).append(entry)
    opened: dict[Entry, torch.Tensor] = {}
    try:
        for file, wanted in by_file.items():
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as handle:
                    opened.update({entry: handle.get_tensor(entry.key) for entry in wanted})
            else:
                tensors, beside, _ = _split(file, _load_torch(file))
                tensors |= beside
                opened.update({entry: tensors[entry.key] for entry in wanted})
                del tensors, beside
        yield opened
    finally:
        opened.clear()


def _open_folder(folder: Path) -> Weights:
    name = next((name for name in _IN_FOLDERS if (folder / name).is_file()), None)
    if name is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(
            f"the folder {str(folder)!r} holds no weights: expected one of {', '.join(_IN_FOLDERS)}; it holds {found}"
        )
    if name.endswith(".json"):
        return _open_index(folder / name)
    weights = open_weights(folder / name)
    return Weights(folder, weights.entries, weights.beside, weights.others)


def _open_index(index: Path) -> Weights:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in files.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is no index of weights ({error}); expected JSON with a weight_map") from None
    entries: dict[str, Entry] = {}
    for file in sorted(set(names.values())):
        if Path(file).name != file:
            raise ValueError(
                f"{index} names the file {file!r}, which is not beside it; only files of its folder are read"
            )
        shard = open_weights(index.parent / file)
        lacking = sorted(name for name, where in names.items() if where == file and name not in shard)
        if lacking:
            raise ValueError(
                f"{index.parent / file} lacks {len(lacking)} tensors that {index.name} says it holds, such as "
                f"{lacking[0]!r}; get both files again"
            )
        unnamed = sorted(name for name in shard if names.get(name) != file)
        if unnamed:
            raise ValueError(
                f"{index.parent / file} holds {len(unnamed)} tensors that {index.name} does not name, such as "
                f"{unnamed[0]!r}; get both files again, or remove those tensors"
            )
        entries |= shard
    return Weights(index.parent, {name: entries[name] for name in names})


def _safetensors_entries(path: Path) -> dict[str, Entry]:
    try:
        with safe_open(path, framework="pt") as handle:
            entries = {}
            for name in handle.keys():  # noqa: SIM118 (no dict)
                piece = handle.get_slice(name)
                dtype = _DTYPES.get(piece.get_dtype())
                if dtype is None:
                    raise ValueError(
                        f"{path}: {name!r} is of type {piece.get_dtype()}, which is not supported; expected floating "
                        "point of 16 or 32 bits (weights that were quantised have to be restored first)"
                    )
                entries[name] = Entry(path, name, tuple(piece.get_shape()), dtype)
            return entries
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}; it may be cut short: get it again") from None


def _load_torch(path: Path):
    """What a ``torch.save`` file holds, its tensors memory-mapped.

    Raises:
        ValueError: it is cut short, is no such file, or holds objects that only arbitrary pickle could make.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            # Files of torch before 1.6 cannot be mapped.
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What torch would not make is named behind the word GLOBAL; without it, the bytes are no pickle at all.
        words = str(error).split()
        made = next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "GLOBAL"), None)
        if made is None:
            why = "is no file of torch.save, or cut short; get it again"
            if zipfile.is_zipfile(path):
                why = "was saved in a way that torch's safe reader does not know; write it again with torch.save"
            raise ValueError(f"{path} {why}") from None
        raise ValueError(
            f"{path} holds more than tensors ({made}): reading it would run code that the file brings along, so it is "
            "refused. If you trust where it comes from, write its tensors to a new file where that code is installed: "
            "torch.save({'model': torch.load(FILE, weights_only=False)['model']}, NEW)"
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path} cannot be read: {lines[0]}; it is cut short or no file of torch.save") from None


def _split(path: Path, loaded) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], tuple[str, ...]]:
    """Of what a file holds: the weights, the tensors beside them, and the names of what else is in it."""
    if isinstance(loaded, torch.Tensor) or not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}; expected a dict of tensors by name")
    wrapper = next((name for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
    weights = loaded if wrapper is None else loaded[wrapper]
    tensors = _flat(weights)
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; its entries are {', '.join(map(str, list(weights)[:8]))}")
    others = [str(name) for name, value in weights.items() if not isinstance(value, torch.Tensor | Mapping)]
    if wrapper is None:
        return tensors, {}, tuple(others)
    rest = {str(name): value for name, value in loaded.items() if name != wrapper}
    return tensors, _flat(rest), (*rest, *others)


def _flat(values: Mapping, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of nested dicts, their names joined by dots: what one state dict of the whole would hold."""
    tensors = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            tensors |= _flat(value, f"{prefix}{name}.")
    return tensors


def plain_name(name: str) -> str:
    """A name without what torch.compile and data-parallel wrappers write into it."""
    name = re.sub(r"(?:(?<=^)|(?<=\.))_orig_mod\.", "", name)
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name
