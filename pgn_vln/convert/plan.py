"""A conversion before it is carried out: where every tensor of the result comes from, and what becomes of the rest.

All that can be refused is refused here, before anything is written.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
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

    ``used`` holds entries by part and source, the others hold names by reason.
    """

    used: dict[tuple[str, str], dict[str, Entry]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    new: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def use(self, part: str, source: str | Path, entries: Mapping[str, Entry]) -> None:
        """Note tensors of a source that are in the result."""
        self.used.setdefault((part, str(source)), {}).update(entries)

    def used_of(self, source: str | Path) -> set[str]:
        """Names of a source that are in the result."""
        return {name for (_, other), names in self.used.items() if other == str(source) for name in names}

    def drop(self, reason: str, names: Iterable[str]) -> None:
        """Note tensors that are left out, and why."""
        self.dropped.setdefault(reason, []).extend(names)

    def add(self, reason: str, names: Iterable[str]) -> None:
        """Note tensors (or rows) that no source had."""
        self.new.setdefault(reason, []).extend(names)

    def to_dict(self) -> dict:
        """For ``conversion.json``: every tensor by name."""
        used = [
            {"part": part, "source": source, "tensors": list(names)} for (part, source), names in self.used.items()
        ]
        return {"used": used, "dropped": self.dropped, "new": self.new, "absent": self.absent, "notes": self.notes}

    def __str__(self) -> str:
        lines = []
        for (part, source), entries in self.used.items():
            sizes = f"{len(entries)} tensors, {sum(math.prod(e.shape) for e in entries.values()) / 1e6:.2f} M, "
            lines.append(f"used     {part}: {sizes}{_dtypes(entries.values())}, of {source}")
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
    missing = [weights.prefix + x for origin in wanted.values() for x in origin.names if x not in weights]
    if missing:
        raise ValueError(
            f"{weights.path} lacks {len(missing)} tensors of the {part}: {', '.join(shorten(missing))}; give a file "
            f"that holds the whole {part} (this one has {len(weights)} tensors)"
        )
    pieces = []
    for name, origin in wanted.items():
        entries = tuple(weights[other] for other in origin.names)
        expected = origin.shape or shapes[name]
        for other, entry in zip(origin.names, entries, strict=True):
            if entry.shape != expected:
                raise ValueError(
                    f"{weights.path}: {weights.prefix}{other} is {_by(entry.shape)}, expected {_by(expected)} for the "
                    f"model's {name}; the file and the configuration do not belong together"
                )
        pieces.append(Piece(name, shapes[name], dtype or entries[0].dtype, entries + origin.more, origin.make))
        names = [weights.prefix + other for other in origin.names]
        ledger.use(part, weights.path, dict(zip(names, entries, strict=True)))
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
    used = ledger.used_of(weights.path)
    unknown = []
    for name in weights:
        if weights.prefix + name in used:
            continue
        reason = reason_of(name)
        if reason is None:
            unknown.append(weights.prefix + name)
        else:
            ledger.drop(reason, [weights.prefix + name])
    if unknown:
        raise ValueError(
            f"{weights.path} holds {len(unknown)} tensors that belong to no part of the {part}: "
            f"{', '.join(shorten(unknown, 8))}; nothing is left out without a reason, so the file is refused"
            + (f"; {remedy}" if remedy else "")
        )
    if weights.others:
        ledger.notes.append(f"{weights.path} also holds {', '.join(weights.others)}: no weights, left alone")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
