"""A conversion before it is carried out: where every tensor of the result comes from, and what becomes of the rest.

All that can be refused is refused here, before anything is written.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pgn_vln.convert.weights import Entry, Weights


@dataclass(frozen=True)
class Piece:
    """One tensor of the result: the tensors it is made of (none if it is new), and how."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: tuple[Entry, ...] = ()
    make: Callable[..., torch.Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def build(self, opened: Mapping[Entry, torch.Tensor]) -> torch.Tensor:
        """The tensor, contiguous and of the declared type.

        Raises:
            RuntimeError: it came out with another shape than was planned.
        """
        tensors = [opened[entry] for entry in self.sources]
        tensor = self.make(*tensors) if self.make else tensors[0]
        if tuple(tensor.shape) != self.shape:
            raise RuntimeError(f"{self.name} came out as {tuple(tensor.shape)}, planned was {self.shape}")
        return tensor.detach().to(self.dtype).contiguous()


@dataclass
class Ledger:
    """What became of every tensor: used, dropped on purpose, new, or absent where the format could hold it.

    ``used`` holds entries by part and source, the others hold names by reason, as they are in the files.
    """

    used: dict[tuple[str, str], dict[Entry, None]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    new: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def use(self, part: str, source: str | Path, entries: Iterable[Entry]) -> None:
        """Note tensors of a source that are in the result, each once."""
        self.used.setdefault((part, str(source)), {}).update(dict.fromkeys(entries))

    def used_entries(self) -> set[Entry]:
        """All tensors that are in the result."""
        return {entry for entries in self.used.values() for entry in entries}

    def drop(self, reason: str, names: Iterable[str]) -> None:
        """Note tensors that are left out, and why."""
        self.dropped.setdefault(reason, []).extend(names)

    def add(self, reason: str, names: Iterable[str]) -> None:
        """Note tensors (or rows) that no source had."""
        self.new.setdefault(reason, []).extend(names)

    def lack(self, reason: str, names: Iterable[str]) -> None:
        """Note what the format of the result could hold, and the source has not."""
        self.absent.setdefault(reason, []).extend(names)

    def leave(self, weights: Weights, but: Sequence[str] = ()) -> None:
        """Note what a file holds beside its weights; ``but`` names what is not left alone."""
        others = [name for name in weights.others if name not in but]
        count = sum(1 for name in weights.beside if name.partition(".")[0] in others)
        if others:
            self.notes.append(
                f"{weights.path} also holds {', '.join(others)} ({count} tensors): beside its weights, left alone"
            )

    def to_dict(self) -> dict:
        """For ``conversion.json``: every tensor by its name in its file."""
        used = [
            {"part": part, "source": source, "tensors": [entry.key for entry in entries]}
            for (part, source), entries in self.used.items()
        ]
        return {"used": used, "dropped": self.dropped, "new": self.new, "absent": self.absent, "notes": self.notes}

    def __str__(self) -> str:
        lines = []
        for (part, source), entries in self.used.items():
            sizes = f"{len(entries)} tensors, {sum(math.prod(e.shape) for e in entries) / 1e6:.2f} M, "
            lines.append(f"used     {part}: {sizes}{_dtypes(entries)}, of {source}")
        for word, groups in (("dropped", self.dropped), ("new", self.new), ("absent", self.absent)):
            for reason, names in groups.items():
                lines.append(f"{word:<8} {reason}: {len(names)}, {', '.join(shorten(names))}")
        return "\n".join([*lines, *(f"note     {note}" for note in self.notes)])


def _dtypes(entries: Iterable[Entry]) -> str:
    return " and ".join(sorted({str(entry.dtype).removeprefix("torch.") for entry in entries}))


def shorten(names: Iterable[str], most: int = 4) -> list[str]:
    """Names with their layer numbers left out where several differ in nothing else, at most so many of them."""
    patterns: dict[str, list[str]] = {}
    for name in names:
        patterns.setdefault(re.sub(r"\.\d+(?=\.|$)", ".*", name), []).append(name)
    shown = [alike[0] if len(alike) == 1 else pattern for pattern, alike in list(patterns.items())[:most]]
    return shown + ([f"and {len(patterns) - most} more"] if len(patterns) > most else [])


@dataclass(frozen=True)
class Origin:
    """What a tensor is made of: names in a source, their shape where it is not the result's, and how.

    ``more`` are tensors from elsewhere that ``make`` takes too.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    make: Callable[..., torch.Tensor] | None = None
    more: tuple[Entry, ...] = ()


def take(
    ledger: Ledger,
    weights: Weights,
    wanted: Mapping[str, Origin],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | None,
    part: str,
) -> list[Piece]:
    """Pieces of a part, out of one file or folder.

    Args:
        ledger: where it is noted.
        weights: where they are.
        wanted: what each tensor of the result is made of.
        shapes: of the result.
        dtype: of the result, None for the source's own.
        part: what the user calls it.

    Raises:
        ValueError: tensors are missing, or have another shape; both are named.
    """
    missing = [weights.in_file(x) for origin in wanted.values() for x in origin.names if x not in weights]
    if missing:
        raise ValueError(
            f"{weights.path} lacks {len(missing)} tensors of the {part}: {', '.join(shorten(missing))}; give a file "
            f"that holds the whole {part} (this one has {len(weights)} tensors)"
        )
    pieces = []
    for name, origin in wanted.items():
        entries = tuple(weights[other] for other in origin.names)
        expected = origin.shape or shapes[name]
        for entry in entries:
            if entry.shape != expected:
                raise ValueError(
                    f"{weights.path}: {entry.key} is {_by(entry.shape)}, expected {_by(expected)} for the model's "
                    f"{name}; the file and the configuration do not belong together"
                )
            if not entry.dtype.is_floating_point:
                raise ValueError(
                    f"{weights.path}: {entry.key} is of type {entry.dtype}, expected floating point; weights that "
                    "were quantised have to be restored first"
                )
        pieces.append(Piece(name, shapes[name], dtype or entries[0].dtype, entries + origin.more, origin.make))
        ledger.use(part, weights.path, entries)
    return pieces


def account(
    ledger: Ledger, weights: Weights, reason_of: Callable[[str], str | None], part: str, remedy: str = ""
) -> None:
    """Say of each tensor that has not been used why it is left out.

    Args:
        ledger: where it is noted.
        weights: all of which is accounted for.
        reason_of: why a name is left out, or None.
        part: what the user calls it.
        remedy: what to do about tensors of which nothing is known.

    Raises:
        ValueError: nothing is known of one.
    """
    used = ledger.used_entries()
    unknown = []
    for name, entry in weights.items():
        if entry in used:
            continue
        reason = reason_of(name)
        if reason is None:
            unknown.append(entry.key)
        else:
            ledger.drop(reason, [entry.key])
    if unknown:
        raise ValueError(
            f"{weights.path} holds {len(unknown)} tensors that belong to no part of the {part}: "
            f"{', '.join(shorten(unknown, 8))}; nothing is left out without a reason, so the file is refused"
            + (f"; {remedy}" if remedy else "")
        )
    ledger.leave(weights)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
