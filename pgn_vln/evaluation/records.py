"""What one policy did in one episode, as one line of strict JSON.

JSON has no NaN and no infinity, and both mean something here (unknown, unreachable): they are written as null, and a
``non_finite`` table beside the data says which null is which, so that a record survives the round trip.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pgn_vln.io import strict_json, write_text_atomic

_SPELLINGS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass
class EpisodeRecord:
    """One episode by one policy.

    Attributes:
        policy: name of the policy.
        episode_id: id of the episode.
        instruction: its text.
        level: difficulty level of the episode, or the dataset's split name.
        actions: [T] action ids.
        positions: [T + 1] points of 2 or 3 coordinates, in metres, the start first.
        goal_distances_m: [T + 1] geodesic distances to the goal.
        stopped: whether STOP was called.
        goal_position: 2 or 3 coordinates.
        reference_path: [R] points.
        shortest_m: geodesic distance from start to goal.
        metrics: from `pgn_vln.evaluation.metrics.episode_metrics`.
        headings: [T + 1] degrees counter-clockwise from +x, or empty where unknown.
        collisions: number of forward steps that were blocked, or None where unknown.
        seconds: wall-clock time of the rollout.
    """

    policy: str
    episode_id: str
    instruction: str
    level: str
    actions: list[int]
    positions: list[list[float]]
    goal_distances_m: list[float]
    stopped: bool
    goal_position: list[float]
    reference_path: list[list[float]]
    shortest_m: float
    metrics: dict[str, float]
    headings: list[float] = field(default_factory=list)
    collisions: int | None = None
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """What identifies a record in one evaluation: policy and episode."""
        return self.policy, self.episode_id

    def to_line(self) -> str:
        """Serialise to one line of strict JSON, without the newline."""
        non_finite: dict[str, str] = {}
        data = _replace_non_finite(asdict(self), "", non_finite)
        if non_finite:
            data["non_finite"] = non_finite
        return strict_json(data)

    @classmethod
    def from_line(cls, line: str) -> "EpisodeRecord":
        """Read what `to_line` wrote.

        Raises:
            ValueError: if the line does not parse or a field is missing.
        """
        data = json.loads(line)
        for place, spelling in data.pop("non_finite", {}).items():
            *parents, last = place.split("/")
            target = data
            for parent in parents:
                target = target[int(parent)] if isinstance(target, list) else target[parent]
            target[int(last) if isinstance(target, list) else last] = _SPELLINGS[spelling]
        names = {entry.name for entry in fields(cls)}
        if set(data) != names:
            raise ValueError(f"episode record differs from this version's fields in {sorted(set(data) ^ names)}")
        return cls(**data)


def _replace_non_finite(value: Any, place: str, found: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace_non_finite(item, f"{place}/{key}", found) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(item, f"{place}/{index}", found) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        found[place[1:]] = repr(float(value))
        return None
    return value


def verdict(record: EpisodeRecord, radius_m: float) -> tuple[str, bool]:
    """Say in words how the episode ended, and whether that is a success at `radius_m`."""
    error = record.goal_distances_m[-1]
    if record.stopped and error < radius_m:
        return "success", True
    if math.isinf(error):
        return "failed: goal cannot be reached", False
    if math.isnan(error):
        return "failed: distance to the goal unknown", False
    if record.stopped:
        return f"failed: stopped {error:.1f} m away", False
    return f"failed: never stopped, {error:.1f} m away after {len(record.actions)} steps", False


def read_records(path: Path) -> list[EpisodeRecord]:
    """Read a file of records; a last line that a kill cut short is dropped, a broken line elsewhere is an error.

    Raises:
        ValueError: naming file and line.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    complete, rest = lines[:-1], lines[-1]
    records = []
    for number, line in enumerate(complete, start=1):
        try:
            records.append(EpisodeRecord.from_line(line))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a record of this version ({error}); delete the file to evaluate again"
            ) from error
    if rest:
        try:
            records.append(EpisodeRecord.from_line(rest))
        except (ValueError, KeyError, IndexError, TypeError):
            pass  # the line being written when the process was killed; its episode is rolled out again
    return records


def write_records(path: Path, records: Iterable[EpisodeRecord]) -> Path:
    """Write one line a record, whole or not at all."""
    return write_text_atomic(path, "".join(record.to_line() + "\n" for record in records))
