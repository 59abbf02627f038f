"""Write expert episodes to disk, in the trajectory format that training reads.

A folder holds ``traj_{episode_id}.json`` and ``ep_{episode_id}_images/000000.png ...`` for every episode, and one
``generation.json`` with the settings. The JSON of an episode is its commit point: it appears, whole, after its frames.
An interrupted run is continued by running it again. One run at a time writes into a folder: it holds ``.lock``.
"""

import fcntl
import json
import logging
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from modeling_pgn.prompting_pgn import Action
from pgn_vln.formats import GENERATION_FILE, TRAJECTORY_GLOB, images_folder, images_folder_id, trajectory_file
from pgn_vln.io import write_json_atomic
from pgn_vln.navigation.episodes import NoValidEpisodeError, episode_id, parse_episode_id
from pgn_vln.navigation.expert import ExpertName
from pgn_vln.navigation.house_env import HouseEnv, check_settings
from pgn_vln.navigation.houses import LEVELS, seeded_random

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_TEMPORARY = ".unfinished_"
# Random actions come in runs of 1 to this many: a single one hardly leads off the expert's way.
_LONGEST_BURST = 4


@dataclass(frozen=True)
class GenerationSettings:
    """What the content of a generated folder depends on.

    Attributes:
        level: Name of a registered level.
        split: ``train``, ``val`` or ``test``.
        seed: Another seed, other houses.
        image_size: Side of the frames, pixels.
        turn_degrees: Angle of a turn.
        step_m: Length of a step.
        hfov_degrees: Horizontal field of view.
        expert: ``searching`` or ``shortest_path``.
        success_radius_m: An episode is kept if the expert stops nearer than this to the goal.
        sliding: Whether the agent slides along what it bumps into.
        perturb: Share of steps, from 0 to below 1, at which a random action is executed instead of the expert's.
    """

    level: str
    split: str
    seed: int = 0
    image_size: int = 64
    turn_degrees: int = 15
    step_m: float = 0.25
    hfov_degrees: float = 90.0
    expert: ExpertName = "searching"
    success_radius_m: float = 1.0
    sliding: bool = True
    perturb: float = 0.0

    def __post_init__(self) -> None:
        # 90 and 90.0 are one setting, and must be one in the file as well.
        for name in ("step_m", "hfov_degrees", "success_radius_m", "perturb"):
            object.__setattr__(self, name, float(getattr(self, name)))
        check_settings(
            level=self.level, split=self.split, seed=self.seed, image_size=self.image_size, step_m=self.step_m,
            turn_degrees=self.turn_degrees, hfov_degrees=self.hfov_degrees, expert=self.expert,
        )  # fmt: skip
        if not self.success_radius_m > 0.0:
            raise ValueError(f"success_radius_m {self.success_radius_m} is not positive; give a number above 0")
        if not 0.0 <= self.perturb < 1.0:
            raise ValueError(f"perturb {self.perturb} is out of range; expected a share from 0 to below 1, e.g. 0.2")

    def make_env(self, episode_ids: list[str]) -> HouseEnv:
        """The environment that the episodes are driven in."""
        steps = LEVELS[self.level].max_steps
        return HouseEnv(
            self.level, self.split, episode_ids=episode_ids, seed=self.seed, image_size=self.image_size,
            turn_degrees=self.turn_degrees, step_m=self.step_m, hfov_degrees=self.hfov_degrees, expert=self.expert,
            sliding=self.sliding,
            # Random actions lead astray, and the way back takes steps too.
            max_steps=round(steps / (1.0 - self.perturb) ** 2),
        )  # fmt: skip


@dataclass
class GenerationReport:
    """What a run did.

    Attributes:
        out_dir: Where it wrote.
        episodes: Complete episodes of this request in the folder now, the ones found present included.
        frames: Their frames.
        actions: How often each action was executed in them, by name.
        present: How many of them were there already.
        refused: Why an episode was not written, by id.
    """

    out_dir: str
    episodes: int = 0
    frames: int = 0
    actions: dict[str, int] = field(default_factory=lambda: {action.name.lower(): 0 for action in Action})
    present: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, actions: list[int]) -> None:
        """Count one complete episode."""
        self.episodes += 1
        self.frames += len(actions)
        for action, count in Counter(actions).items():
            self.actions[Action(action).name.lower()] += count


def generate_episodes(
    level: str,
    split: str,
    num_episodes: int,
    out_dir: str | Path,
    num_proc: int = 1,
    image_size: int = 64,
    seed: int = 0,
    perturb: float = 0.0,
    turn_degrees: int = 15,
    step_m: float = 0.25,
    hfov_degrees: float = 90.0,
    expert: ExpertName = "searching",
    success_radius_m: float = 1.0,
    sliding: bool = True,
    progress: bool = True,
) -> GenerationReport:
    """Drive the expert through the first `num_episodes` episodes of a split and write what it saw and did.

    Files are the same, byte for byte, for any `num_proc`, and however often the run was interrupted.

    Args:
        level: See `GenerationSettings`, as for all settings not described here.
        split: See above.
        num_episodes: How many; a larger number than in an earlier run adds the missing ones.
        out_dir: The folder; image root and trajectory folder in one.
        num_proc: Processes; each has its own renderer.
        image_size: See above.
        seed: See above.
        perturb: See above. If above 0, every step also has ``expert_action``, the label.
        turn_degrees: See above.
        step_m: See above.
        hfov_degrees: See above.
        expert: See above.
        success_radius_m: See above.
        sliding: See above.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: for a setting that makes no sense, or differs from that of the episodes already in `out_dir`; if
            their settings cannot be read; if another run is writing there.
        RendererUnavailableError: naming what to install.
    """
    settings = GenerationSettings(
        level=level, split=split, seed=seed, image_size=image_size, turn_degrees=turn_degrees, step_m=step_m,
        hfov_degrees=hfov_degrees, expert=expert, success_radius_m=success_radius_m, sliding=sliding, perturb=perturb,
    )  # fmt: skip
    for name, value in (("num_episodes", num_episodes), ("num_proc", num_proc)):
        if value < 1:
            raise ValueError(f"{name} {value} is not positive; give 1 or more")
    out_dir = Path(out_dir)
    with _lock(out_dir):
        _claim(out_dir, settings)
        return _generate(settings, num_episodes, out_dir, num_proc, progress)


def _generate(
    settings: GenerationSettings, num_episodes: int, out_dir: Path, num_proc: int, progress: bool
) -> GenerationReport:
    level, split, seed = settings.level, settings.split, settings.seed
    report = GenerationReport(str(out_dir))
    missing = []
    for name in (episode_id(level, split, seed, index) for index in range(num_episodes)):
        actions = _read_actions(out_dir, name)
        if actions is None:
            missing.append(name)
        else:
            report.add(actions)
            report.present += 1
    bar = tqdm(total=num_episodes, initial=report.present, desc=f"{level} {split}", unit="ep", disable=not progress)
    with bar:
        for name, outcome in _write_all(settings, out_dir, missing, num_proc):
            if isinstance(outcome, str):
                report.refused[name] = outcome
                logger.warning("episode %s refused: %s", name, outcome)
            else:
                report.add(outcome)
            bar.update()
    return report


@contextmanager
def _lock(out_dir: Path) -> Iterator[None]:
    """Keep every other run out of the folder; the kernel lets go of the lock when its holder ends, killed or not."""
    out_dir.mkdir(parents=True, exist_ok=True)
    # The file stays: were it removed, a run that had just opened it would hold a lock that nobody else sees.
    with open(out_dir / LOCK_FILE, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another run is writing episodes into {str(out_dir)!r}; wait until it has ended and then run this "
                "again, or choose another out_dir"
            ) from None
        yield


def _claim(out_dir: Path, settings: GenerationSettings) -> None:
    """Make the folder one of these settings, or check that it is; then remove what a killed run left behind."""
    path, ours = out_dir / GENERATION_FILE, asdict(settings)
    if path.exists():
        _check_settings_of(path, ours)
        _remove_leftovers(out_dir, settings)
        return
    if any(out_dir.glob(TRAJECTORY_GLOB)) or any(_frames_of(settings, entry.name) for entry in out_dir.iterdir()):
        raise ValueError(
            f"out_dir {str(out_dir)!r} holds episodes but no {GENERATION_FILE}, so their settings are unknown; "
            "choose an empty folder"
        )
    write_json_atomic(path, ours)


def _check_settings_of(path: Path, ours: dict[str, Any]) -> None:
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(theirs, dict):
            raise ValueError(f"a {type(theirs).__name__} instead of an object")
    except (ValueError, RecursionError) as error:  # broken JSON, nested too deeply, or bytes that are no UTF-8
        raise ValueError(
            f"{path} is broken ({error}), so the settings of the episodes beside it are unknown; restore it, or "
            "choose another out_dir"
        ) from error
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{name} is {ours.get(name)!r}, but the episodes in {str(path.parent)!r} were generated with "
                f"{name}={theirs.get(name)!r}; continue with that value, or choose another out_dir"
            )


def _frames_of(settings: GenerationSettings, folder: str) -> str | None:
    """Id of the episode of these settings whose frames lie in a folder of that name; None for anything else."""
    name = images_folder_id(folder)
    if name is None:
        return None
    try:
        level, split, seed, index = parse_episode_id(name)
    except ValueError:
        return None
    if (level, split, seed) != (settings.level, settings.split, settings.seed):
        return None
    return name if name == episode_id(level, split, seed, index) else None


def _remove_leftovers(out_dir: Path, settings: GenerationSettings) -> None:
    """Remove frames without a JSON, and what was being written; whatever a run would not have written stays."""
    for path in sorted(out_dir.iterdir()):
        if path.name.startswith((".traj_", f".{GENERATION_FILE}.")):
            path.unlink()
            continue
        name = _frames_of(settings, path.name.removeprefix(_TEMPORARY))
        if name is not None and (path.name.startswith(_TEMPORARY) or not (out_dir / trajectory_file(name)).exists()):
            shutil.rmtree(path)


def _read_actions(out_dir: Path, name: str) -> list[int] | None:
    """Actions of an episode that is complete on disk, else None."""
    path, images = out_dir / trajectory_file(name), out_dir / images_folder(name)
    if not path.exists():
        return None
    try:
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        frames = [str(step["image_path"]) for step in steps]
        actions = [int(Action(step["action"])) for step in steps]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s is broken (%s: %s); writing the episode anew", path, type(error).__name__, error)
        return None
    found = {image.name for image in images.iterdir()} if images.is_dir() else set()
    missing = sum(frame not in found for frame in frames)
    if missing or not frames:
        logger.warning("%s lacks %d of its %d frames; writing the episode anew", path, missing, len(frames))
        return None
    return actions


def _write_all(
    settings: GenerationSettings, out_dir: Path, names: list[str], num_proc: int
) -> Iterator[tuple[str, list[int] | str]]:
    """Write episodes; yields each with its actions, or with why it was refused."""
    if not names:
        return
    if num_proc == 1:
        writer = _EpisodeWriter(settings, out_dir, names)
        try:
            for name in names:
                yield name, writer.write(name)
        finally:
            writer.close()
        return
    # Spawned, not forked: a renderer does not survive a fork, and some platforms only spawn.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(num_proc, len(names)), mp_context=context, initializer=_start_worker, initargs=(settings, out_dir, names)
    )
    try:
        yield from zip(names, pool.map(_work, names, chunksize=4), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


_worker: "_EpisodeWriter | None" = None


def _start_worker(settings: GenerationSettings, out_dir: Path, names: list[str]) -> None:
    global _worker
    _worker = _EpisodeWriter(settings, out_dir, names)


def _work(name: str) -> list[int] | str:
    return _worker.write(name)


class _EpisodeWriter:
    """Drives and writes episodes, one at a time."""

    def __init__(self, settings: GenerationSettings, out_dir: Path, names: list[str]) -> None:
        self.settings = settings
        self.out_dir = out_dir
        self.env = settings.make_env(names)

    def close(self) -> None:
        self.env.close()

    def write(self, name: str) -> list[int] | str:
        """Actions of the episode as written, or why it was not."""
        try:
            frames, actions, labels = self._drive(name)
        except NoValidEpisodeError as error:
            return str(error)
        if actions[-1] != Action.STOP:
            return f"the expert did not stop within {self.env.max_steps} steps"
        info = self.env.episode_info(name)
        distance = self.env.geodesic(self.env.position(), info.goal_position)
        if not distance < self.settings.success_radius_m:
            return f"the expert stopped {distance:.2f} m from the goal"
        self._commit(name, info.instruction, frames, actions, labels)
        return actions

    def _drive(self, name: str) -> tuple[list[np.ndarray], list[int], list[int]]:
        perturb = self.settings.perturb
        rng = seeded_random("perturb", name)
        # A burst of mean length b that starts with chance q fills the share q b / (q b + 1 - q) of all steps.
        mean_burst = (1 + _LONGEST_BURST) / 2
        start_chance = perturb / (perturb + mean_burst * (1.0 - perturb))
        burst, wrong = 0, Action.TURN_LEFT
        observation, done = self.env.reset(name), False
        frames, actions, labels = [], [], []
        while not done:
            label = self.env.expert_action()
            if not burst and perturb and rng.random() < start_chance:
                burst = rng.randint(1, _LONGEST_BURST)
                wrong = rng.choice((Action.MOVE_FORWARD, Action.TURN_LEFT, Action.TURN_RIGHT))
            # The expert's STOP ends the episode even within a burst: every episode shows how one ends.
            action = wrong if burst and label is not Action.STOP else label
            burst = max(0, burst - 1)
            frames.append(observation.rgb)
            actions.append(int(action))
            labels.append(int(label))
            observation, done = self.env.step(action)
        return frames, actions, labels

    def _commit(
        self, name: str, instruction: str, frames: list[np.ndarray], actions: list[int], labels: list[int]
    ) -> None:
        images = self.out_dir / images_folder(name)
        unfinished = self.out_dir / f"{_TEMPORARY}{images.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        steps = []
        for index, (frame, action, label) in enumerate(zip(frames, actions, labels, strict=True)):
            file_name = f"{index:06d}.png"
            Image.fromarray(frame).save(unfinished / file_name, compress_level=1)
            steps.append({"image_path": file_name, "action": action})
            if self.settings.perturb:
                steps[-1]["expert_action"] = label
        # An incomplete episode is about to be replaced: first its JSON goes, so that none is ever without its frames.
        trajectory = self.out_dir / trajectory_file(name)
        trajectory.unlink(missing_ok=True)
        shutil.rmtree(images, ignore_errors=True)
        unfinished.rename(images)
        write_json_atomic(trajectory, {"episode_id": name, "instruction": instruction, "steps": steps}, indent=None)
