"""An evaluation folder: `summary.json`, `episodes.jsonl`, `report.html`, and `pictures/` for the model's episodes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgn_vln.evaluation.metrics import aggregate, radius_suffix
from pgn_vln.evaluation.records import EpisodeRecord, verdict, write_records
from pgn_vln.evaluation.report_page import render_page
from pgn_vln.io import write_json_atomic, write_text_atomic
from pgn_vln.versions import package_versions

EPISODES_FILE = "episodes.jsonl"
SUMMARY_FILE = "summary.json"
PAGE_FILE = "report.html"
PICTURES_FOLDER = "pictures"

_DISTANCE_BINS_M = ((0.0, 3.0), (3.0, 6.0), (6.0, 9.0), (9.0, 12.0), (12.0, float("inf")))


def picture_name(episode_id: str) -> str:
    """File name of an episode's picture; characters that a file system may refuse are percent-encoded."""
    stem = quote(episode_id, safe="")
    return f"{'%2E' + stem[1:] if stem.startswith('.') else stem}.png"


def table_columns(radius_m: float) -> list[tuple[str, str, str]]:
    """Key, heading and one-sentence meaning of each column, in the order of terminal and page."""
    suffix, radius = radius_suffix(radius_m), f"{radius_m:g} m"
    return [
        (f"sr_{suffix}", "SR", f"Success rate: the agent called stop less than {radius} (walking) from the goal."),
        (
            f"osr_{suffix}",
            "OSR",
            f"Oracle success rate: it came within {radius} at any time, whether it stopped or not.",
        ),
        (f"spl_{suffix}", "SPL", "Success weighted by path length: success times shortest over taken path length."),
        (f"ndtw_{suffix}", "nDTW", "How well the path follows the reference path, from 0 to 1 (1 is the same path)."),
        (
            "ne_m",
            "NE [m]",
            "Navigation error: walking distance from the final position to the goal; smaller is better.",
        ),
        ("tl_m", "TL [m]", "Trajectory length."),
        ("stop_rate", "stop", "Share of episodes in which the agent called stop before it ran out of steps."),
        ("steps", "steps", "Actions taken."),
    ]


def summarise(
    records: Sequence[EpisodeRecord],
    radius_m: float,
    *,
    split: str | None = None,
    model_policy: str = "model",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Aggregate records to what `summary.json` holds.

    Every policy's entry is that of `pgn_vln.evaluation.metrics.aggregate`, with ``by_distance`` and ``by_level``: the
    success rate within bins of the shortest path's length, and for each level. ``model_policy`` is None where that
    policy has no records.

    Raises:
        ValueError: without records, or if the policies were not run on the same episodes.
    """
    if not records:
        raise ValueError("no episode records to summarise; evaluate at least one episode")
    names = sorted(dict.fromkeys(record.policy for record in records), key=lambda name: name != model_policy)
    by_policy = {name: [record for record in records if record.policy == name] for name in names}
    episodes = {name: sorted(record.episode_id for record in by_policy[name]) for name in names}
    for name in names[1:]:
        if episodes[name] != episodes[names[0]]:
            raise ValueError(
                f"policy {name!r} has {len(episodes[name])} episodes, {names[0]!r} has {len(episodes[names[0]])}, or "
                "other ones; expected the same episodes for every policy: evaluate them again together"
            )
    levels = sorted({record.level for record in records})
    return {
        "level": levels[0] if len(levels) == 1 else ", ".join(levels),
        "split": split,
        "episodes": len(episodes[names[0]]),
        "success_radius_m": radius_m,
        "model_policy": model_policy if model_policy in by_policy else None,
        "settings": dict(settings or {}),
        "versions": package_versions(),
        "policies": {name: _summarise_policy(by_policy[name], radius_m) for name in names},
    }


def _summarise_policy(records: Sequence[EpisodeRecord], radius_m: float) -> dict[str, Any]:
    result = aggregate([record.metrics for record in records])
    key = f"sr_{radius_suffix(radius_m)}"

    def share(chosen: Sequence[EpisodeRecord]) -> dict[str, Any]:
        part = aggregate([record.metrics for record in chosen])
        return {"episodes": len(chosen), key: part[key], "interval": part["intervals"][key]}

    result["by_distance"] = {}
    for low, high in _DISTANCE_BINS_M:
        inside = [record for record in records if low <= record.shortest_m < high]
        if inside:
            name = f"{low:g}-{high:g} m" if high < float("inf") else f"{low:g} m or more"
            result["by_distance"][name] = share(inside)
    result["by_level"] = {
        level: share([record for record in records if record.level == level])
        for level in sorted({record.level for record in records})
    }
    return result


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "steps":
        return f"{value:.1f}"
    return f"{value:.2f}" if key in ("ne_m", "tl_m") else f"{value:.3f}"


def _cell_with_interval(key: str, policy: Mapping[str, Any]) -> str:
    interval = policy["intervals"].get(key)
    text = _cell(key, policy[key])
    return text if interval is None else f"{text} [{_cell(key, interval[0])}, {_cell(key, interval[1])}]"


def format_table(summary: Mapping[str, Any]) -> str:
    """Lay out the summary for a terminal: aligned plain text, the model first, then the baselines.

    The success rate carries its 95 % interval; the other intervals are in `summary.json` and on the page.
    """
    columns = table_columns(summary["success_radius_m"])
    rows = [["policy", *(f"{heading} [95 % CI]" if heading == "SR" else heading for _, heading, _ in columns)]]
    for name, policy in summary["policies"].items():
        cells = [
            _cell_with_interval(key, policy) if heading == "SR" else _cell(key, policy[key])
            for key, heading, _ in columns
        ]
        rows.append([name, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    split = f", {summary['split']}" if summary["split"] else ""
    title = f"{summary['level']}{split}: {summary['episodes']} episodes, success radius "
    lines.insert(0, f"{title}{summary['success_radius_m']:g} m")
    lines.extend(f"{name}: {note}" for name, policy in summary["policies"].items() if (note := _left_out(policy)))
    return "\n".join(lines)


def _left_out(policy: Mapping[str, Any]) -> str:
    """Say which episodes some means leave out; empty where none is left out."""
    if not policy["unreachable"] and not policy["undefined"]:
        return ""
    metrics = ", ".join(f"{key} ({count})" for key, count in policy["left_out"].items())
    return (
        f"{policy['unreachable']} episodes with an unreachable goal, {policy['undefined']} with an undefined value; "
        f"left out of the means of {metrics or 'none'}"
    )


def _page_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = [key for key, _, _ in table_columns(summary["success_radius_m"])]
    return [
        {
            "name": name,
            "cells": [_cell_with_interval(key, policy) for key in keys],
            "note": _left_out(policy),
        }
        for name, policy in summary["policies"].items()
    ]


def _page_breakdown(summary: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Success by bins: headings, and for each policy one cell a bin."""
    key = f"sr_{radius_suffix(summary['success_radius_m'])}"
    policies = summary["policies"]
    names = list(next(iter(policies.values()))[kind])
    rows = []
    for policy_name, policy in policies.items():
        cells = []
        for name in names:
            part = policy[kind].get(name)
            low, high = part["interval"]
            cells.append(f"{part[key]:.3f} [{low:.3f}, {high:.3f}]")
        rows.append({"name": policy_name, "cells": cells})
    first = next(iter(policies.values()))[kind]
    return {"headings": [f"{name} (n = {first[name]['episodes']})" for name in names], "rows": rows}


def write_report(
    out_dir: str | Path,
    records: Sequence[EpisodeRecord],
    radius_m: float,
    *,
    split: str | None = None,
    model_policy: str = "model",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `episodes.jsonl`, `summary.json` and `report.html` into `out_dir`; return the summary.

    Pictures are drawn during the rollouts, while the frames are at hand (see `evaluate_vln`); the page shows those
    that lie in `pictures/`. Every file is written whole or not at all.
    """
    out_dir = Path(out_dir)
    summary = summarise(records, radius_m, split=split, model_policy=model_policy, settings=settings)
    gallery = []
    for record in (record for record in records if record.policy == model_policy):
        name = picture_name(record.episode_id)
        if (out_dir / PICTURES_FOLDER / name).exists():
            words, succeeded = verdict(record, radius_m)
            gallery.append(
                {
                    "id": record.episode_id,
                    "instruction": record.instruction,
                    "verdict": words,
                    "succeeded": succeeded,
                    # The file name may hold percent signs of its own, which a URL must encode once more.
                    "url": f"{PICTURES_FOLDER}/{quote(name)}",
                }
            )
    gallery.sort(key=lambda entry: entry["succeeded"])  # stable: failures first, else in the order of the episodes
    page = render_page(
        summary=summary,
        columns=table_columns(radius_m),
        rows=_page_rows(summary),
        by_distance=_page_breakdown(summary, "by_distance"),
        by_level=_page_breakdown(summary, "by_level"),
        gallery=gallery,
    )
    write_records(out_dir / EPISODES_FILE, records)
    write_text_atomic(out_dir / PAGE_FILE, page)
    # Last, because whoever finds a summary may rely on the rest.
    write_json_atomic(out_dir / SUMMARY_FILE, summary)
    return summary
