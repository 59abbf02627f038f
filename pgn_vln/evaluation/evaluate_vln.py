"""Closed-loop evaluation: roll policies out over episodes, measure, and write the report.

An evaluation that was interrupted goes on where it stopped: every finished episode is one line on disk. Under
`accelerate launch` every process does its share of the episodes with its own environment, and the main one reports.
"""

import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

from pgn_vln.evaluation.drawing import EpisodePicture, draw_episode, nearest_object
from pgn_vln.evaluation.metrics import episode_metrics
from pgn_vln.evaluation.records import EpisodeRecord, read_records, verdict, write_records
from pgn_vln.evaluation.report import EPISODES_FILE, PICTURES_FOLDER, SUMMARY_FILE, picture_name, write_report
from pgn_vln.io import strict_json, write_bytes_atomic, write_json_atomic
from pgn_vln.navigation.env import EpisodeInfo, NavEnv
from pgn_vln.navigation.rollout import Policy, Trajectory, rollout

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
_PART_FILES = "episodes.part-*.jsonl"


def evaluate_policies(
    env: NavEnv,
    policies: Mapping[str, Policy],
    episode_ids: Sequence[str],
    out_dir: str | Path,
    *,
    settings: Mapping[str, Any],
    radius_m: float | Sequence[float] = 1.0,
    split: str | None = None,
    model_policy: str = "model",
    max_steps: int | None = None,
    pictures: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate every policy on every episode and write the report into `out_dir`.

    Args:
        env: this process's own environment.
        policies: by name; `model_policy` is listed first, and its episodes get pictures.
        episode_ids: which episodes; equal on all processes.
        out_dir: the evaluation folder, on a file system that all processes share.
        settings: JSON values that decide the outcome (checkpoint, level, seed, image size, ...). Finished episodes are
            reused only if these, the radii, the split, `max_steps` and `model_policy` are the same as before. The
            number of processes may differ.
        radius_m: success radius in metres; the first one of several is the report's.
        split: name of the split, for the report.
        model_policy: name of the policy that is evaluated against the others.
        max_steps: actions after which an episode is cut off; the simulator's own limit holds as well.
        pictures: how many episodes get a picture, the first ones; None is all, 0 none.
        overwrite: start again instead of going on, whatever the settings were.
        progress: show a progress bar on the main process.

    Returns:
        the summary, on every process.

    Raises:
        ValueError: for no or repeated episodes, no policies, a `model_policy` that is none of them, settings that are
            no JSON, or an `out_dir` that holds another evaluation.
    """
    out_dir = Path(out_dir)
    radii = [float(radius) for radius in ([radius_m] if isinstance(radius_m, (int, float)) else radius_m)]
    _check_request(policies, model_policy, episode_ids, radii)
    request = {
        "settings": dict(settings),
        "radii_m": radii,
        "split": split,
        "max_steps": max_steps,
        # Only its episodes have pictures.
        "model_policy": model_policy,
    }
    # As it will be read back: tuples become lists, and keys texts.
    request = json.loads(strict_json(request))
    state = PartialState()
    # Every process reads for itself, so that a refusal ends all of them; nobody writes before all have read.
    done = {} if overwrite else _finished(out_dir, request)
    state.wait_for_everyone()
    if state.is_main_process:
        _begin(out_dir, request, done)
    state.wait_for_everyone()

    share = episode_ids[state.process_index :: state.num_processes]
    jobs = [(episode, name) for episode in share for name in policies if (name, episode) not in done]
    if state.is_main_process and done:
        logger.warning(
            "%s: %d episodes are taken from the earlier evaluation with equal settings; overwrite it to run all again",
            out_dir,
            len(done),
        )
    drawn = set(episode_ids if pictures is None else episode_ids[:pictures])
    bar = tqdm(total=len(jobs), unit="episode", disable=not (progress and state.is_main_process), desc="evaluating")
    part = out_dir / f"episodes.part-{state.process_index}.jsonl"
    with bar, part.open("w", encoding="utf-8") as file:
        for episode_id, name in jobs:
            draw_to = out_dir / PICTURES_FOLDER if name == model_policy and episode_id in drawn else None
            record = _evaluate_episode(env, name, policies[name], episode_id, radii, max_steps, draw_to)
            file.write(record.to_line() + "\n")
            file.flush()
            bar.update()
    state.wait_for_everyone()

    records = _merge(out_dir, policies, episode_ids)
    state.wait_for_everyone()
    # What the caller says of itself wins: it may know the simulator's own limit of steps.
    summary_settings = {"success_radii_m": radii, "max_steps": max_steps, **settings}
    report = {"split": split, "model_policy": model_policy, "settings": summary_settings}
    if state.is_main_process:
        summary = write_report(out_dir, records, radii[0], **report)
        for path in out_dir.glob(_PART_FILES):
            path.unlink()
    state.wait_for_everyone()
    if not state.is_main_process:
        summary = json.loads((out_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    return summary


def _check_request(
    policies: Mapping[str, Policy], model_policy: str, episode_ids: Sequence[str], radii: Sequence[float]
) -> None:
    if not policies:
        raise ValueError("no policies to evaluate; give at least one")
    if model_policy not in policies:
        raise ValueError(f"model_policy is {model_policy!r}; expected one of the policies {', '.join(policies)}")
    if not episode_ids:
        raise ValueError("no episodes to evaluate; give at least one episode id")
    if len(set(episode_ids)) != len(episode_ids):
        twice = sorted({name for name in episode_ids if list(episode_ids).count(name) > 1})
        raise ValueError(f"episode ids {twice[:5]} are given more than once; expected each one once")
    if not radii or not all(radius > 0 for radius in radii):
        raise ValueError(f"radius_m is {radii}; expected one or more success radii above 0 metres")


def _finished(out_dir: Path, request: Mapping[str, Any]) -> dict[tuple[str, str], EpisodeRecord]:
    """Read the finished episodes of an earlier evaluation of equal settings; policies and episodes may be added."""
    path = out_dir / SETTINGS_FILE
    if not path.exists():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    # By value, so that 90 and 90.0 are equal.
    if before != request:
        old, new = _flat(before), _flat(request)
        changed = sorted(
            f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
            for key in set(old) | set(new)
            if key not in old or key not in new or old[key] != new[key]
        )
        raise ValueError(
            f"{out_dir} holds an evaluation with other settings ({'; '.join(changed)}); give another folder "
            "(--out), or start again with --overwrite true"
        )
    records = read_records(out_dir / EPISODES_FILE)
    for part in sorted(out_dir.glob(_PART_FILES)):
        records += read_records(part)
    return {record.key: record for record in records}


def _flat(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their own names, the others beside them: a caller may have a ``max_steps`` of its own."""
    own = {key: value for key, value in request.items() if key != "settings"}
    return {**own, **{f"settings.{key}" if key in own else key: v for key, v in request.get("settings", {}).items()}}


def _begin(out_dir: Path, request: Mapping[str, Any], done: Mapping[tuple[str, str], EpisodeRecord]) -> None:
    """Gather what earlier processes left in one file, so that their number may change between runs."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_records(out_dir / EPISODES_FILE, done.values())
    # Pictures of another evaluation must not turn up in this one's gallery.
    stale = [] if done else (out_dir / PICTURES_FOLDER).glob("*.png")
    for path in (*out_dir.glob(_PART_FILES), *stale):
        path.unlink()
    write_json_atomic(out_dir / SETTINGS_FILE, request)


def _merge(out_dir: Path, policies: Mapping[str, Policy], episode_ids: Sequence[str]) -> list[EpisodeRecord]:
    """All records of the request, policy by policy in the order of the episodes."""
    records = read_records(out_dir / EPISODES_FILE)
    for part in sorted(out_dir.glob(_PART_FILES)):
        records += read_records(part)
    found = {record.key: record for record in records}
    wanted = [(name, episode_id) for name in policies for episode_id in episode_ids]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise RuntimeError(
            f"{len(missing)} of {len(wanted)} episodes have no record in {out_dir}, the first is {missing[0]}; the "
            "folder must lie on a file system that all processes share"
        )
    return [found[key] for key in wanted]


def _evaluate_episode(
    env: NavEnv,
    name: str,
    policy: Policy,
    episode_id: str,
    radii: Sequence[float],
    max_steps: int | None,
    draw_to: Path | None,
) -> EpisodeRecord:
    began = time.perf_counter()
    trajectory = rollout(env, policy, episode_id, max_steps=max_steps, keep_frames=draw_to is not None)
    info = env.episode_info(episode_id)
    record = make_record(name, trajectory, info.level, radii, time.perf_counter() - began)
    if draw_to is not None:
        content = io.BytesIO()
        draw_episode(make_picture(record, trajectory, info, radii[0])).save(content, "PNG")
        # Before the record is written: an episode that counts as finished has its picture.
        write_bytes_atomic(draw_to / picture_name(episode_id), content.getvalue())
    return record


def make_record(
    policy: str, trajectory: Trajectory, level: str, radii: Sequence[float], seconds: float = 0.0
) -> EpisodeRecord:
    """Measure a driven episode."""
    metrics = episode_metrics(
        trajectory.positions,
        trajectory.geodesics,
        trajectory.stopped,
        trajectory.reference_path,
        trajectory.geodesic_start,
        radii,
    )
    return EpisodeRecord(
        policy=policy,
        episode_id=trajectory.episode_id,
        instruction=trajectory.instruction,
        level=level,
        actions=[int(action) for action in trajectory.actions],
        positions=np.asarray(trajectory.positions, dtype=np.float64).tolist(),
        goal_distances_m=np.asarray(trajectory.geodesics, dtype=np.float64).tolist(),
        stopped=bool(trajectory.stopped),
        goal_position=np.asarray(trajectory.goal_position, dtype=np.float64).tolist(),
        reference_path=np.asarray(trajectory.reference_path, dtype=np.float64).tolist(),
        shortest_m=float(trajectory.geodesic_start),
        metrics=metrics,
        headings=np.asarray(trajectory.headings, dtype=np.float64).tolist(),
        collisions=int(trajectory.collisions),
        seconds=round(seconds, 4),
    )


def make_picture(record: EpisodeRecord, trajectory: Trajectory, info: EpisodeInfo, radius_m: float) -> EpisodePicture:
    """Gather what `draw_episode` shows of a driven episode."""
    words, succeeded = verdict(record, radius_m)
    return EpisodePicture(
        instruction=record.instruction,
        verdict=f"{record.episode_id}: {words}",
        succeeded=succeeded,
        positions=trajectory.positions,
        actions=trajectory.actions,
        frames=trajectory.frames or [],
        goal=trajectory.goal_position,
        reference_path=trajectory.reference_path,
        radius_m=radius_m,
        start_heading=float(trajectory.headings[0]),
        floor_plan=info.floor_plan,
        target=nearest_object(info.floor_plan, trajectory.goal_position),
    )
