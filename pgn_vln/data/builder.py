"""Trajectory folders as tables of the `datasets` library: built once, in parallel, shared by all processes of a node.

Two configurations, both with paths and never with pixels:

``episodes``
    one row an episode: ``episode_id, instructions, frames, actions, expert_actions``.
``windows``
    one row a training sample: ``episode_id, instruction, start, frames, actions, expert_actions``.

``frames`` are relative to the image root. Rows are in the order of the files' names, for any number of processes.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from pgn_vln.data import episodes as episodes_module
from pgn_vln.data import windows as windows_module
from pgn_vln.data.episodes import BadEpisodeError, Episode, EpisodeReport, iter_trajectories, list_trajectories
from pgn_vln.data.transform import DecodeFrames, EpochWindows, NoisyHistory, Transforms
from pgn_vln.data.windows import PromptLayout, all_windows, check_window_settings
from pgn_vln.formats import images_folder
from pgn_vln.io import write_json_atomic

logger = logging.getLogger(__name__)

BAD_EPISODE_MODES = ("raise", "skip")
WINDOW_MODES = ("all", "random")
_REPORT_PREFIX = "report-"


@dataclass
class VLNConfig(datasets.BuilderConfig):
    """Settings of a table.

    Attributes:
        trajectory_dir: folder of ``traj_*.json``.
        image_root: folder of ``ep_*_images/``; the trajectories' own by default.
        prompt_layout: decides what a window is (configuration ``windows``).
        history_frames: see `pgn_vln.data.windows.all_windows`.
        on_bad_episode: ``raise`` or ``skip``.
        verify_images: decode every frame while building; without it, a frame only has to exist.
    """

    trajectory_dir: str = ""
    image_root: str | None = None
    prompt_layout: PromptLayout = "stream"
    history_frames: int | None = None
    on_bad_episode: str = "raise"
    verify_images: bool = True


class VLNEpisodes(datasets.GeneratorBasedBuilder):
    """Builds the tables. Use `prepare_table`, which passes the hash that makes the cache notice changes."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = VLNConfig
    BUILDER_CONFIGS = [VLNConfig(name="episodes", version=VERSION), VLNConfig(name="windows", version=VERSION)]

    def _info(self) -> datasets.DatasetInfo:
        text, actions = datasets.Value("string"), datasets.List(datasets.Value("int8"))
        steps = {"frames": datasets.List(text), "actions": actions, "expert_actions": actions}
        if self.config.name == "episodes":
            columns = {"episode_id": text, "instructions": datasets.List(text), **steps}
        else:
            number = datasets.Value("int32")
            # The Trainer's group_by_length reads the column ``length``.
            columns = {"episode_id": text, "instruction": text, "start": number, "length": number, **steps}
        return datasets.DatasetInfo(features=datasets.Features(columns))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        files = [str(path) for path in list_trajectories(self.config.trajectory_dir)]
        # `datasets` shares a list in gen_kwargs out over its processes, in order and in one piece each.
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={"files": files})]

    def _generate_examples(self, files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        report = EpisodeReport()
        root, verify = self.config.image_root, self.config.verify_images
        for episode in iter_trajectories(map(Path, files), root, report, verify_images=verify):
            for number, row in enumerate(self._rows(episode)):
                yield f"{episode.id}/{number}", row
        # Of several processes each writes its own, named so that sorting gives the order of the files.
        folder = Path(self._output_dir)
        if folder.is_dir():
            write_json_atomic(folder / f"{_REPORT_PREFIX}{Path(files[0]).stem}.json", report.to_json())

    def _rows(self, episode: Episode) -> Iterator[dict[str, Any]]:
        steps = {
            "frames": list(episode.frames),
            "actions": list(episode.actions),
            "expert_actions": list(episode.expert_actions),
        }
        if self.config.name == "episodes":
            yield {"episode_id": episode.id, "instructions": list(episode.instructions), **steps}
            return
        windows = all_windows(len(episode.actions), self.config.prompt_layout, self.config.history_frames)
        for instruction in episode.instructions:
            for start, end in windows:
                cut = {key: values[start:end] for key, values in steps.items()}
                where = {"start": start, "length": end - start}
                yield {"episode_id": episode.id, "instruction": instruction, **where, **cut}

    def _download_and_prepare(self, dl_manager: datasets.DownloadManager, **kwargs: Any) -> None:
        super()._download_and_prepare(dl_manager, **kwargs)
        report = self._read_report(Path(self._output_dir))
        # Here, before the folder gets its final name, a refusal leaves no table behind, and names all bad episodes.
        if report.bad and (self.config.on_bad_episode == "raise" or not report.episodes):
            raise BadEpisodeError(report.bad)

    def report(self) -> EpisodeReport:
        """Counts, refusals and warnings of the build, also when the table came from the cache."""
        return self._read_report(Path(self.cache_dir))

    @staticmethod
    def _read_report(folder: Path) -> EpisodeReport:
        report = EpisodeReport()
        for path in sorted(folder.glob(f"{_REPORT_PREFIX}*.json")):
            report.merge(EpisodeReport.from_json(json.loads(path.read_text(encoding="utf-8"))))
        return report


def data_fingerprint(trajectory_dir: str | Path, image_root: str | Path | None = None) -> str:
    """A hash that changes with the code that reads, with any trajectory file, and with any folder of frames.

    Files are told apart by name, size and time of change; frames by their folder's time of change, which moves when
    one is added, removed or renamed. A frame that is damaged in place is found when it is decoded.
    """
    digest = hashlib.sha256()
    for module in (__file__, episodes_module.__file__, windows_module.__file__):
        digest.update(Path(module).read_bytes())
    files = list_trajectories(trajectory_dir)
    root = Path(image_root) if image_root is not None else Path(trajectory_dir)
    for path in files:
        frames = root / images_folder(path.stem.removeprefix("traj_"))
        size, written = _size_and_time(path)
        _, changed = _size_and_time(frames)
        digest.update(os.fsencode(path.name) + f"\0{size}\0{written}\0{changed}\n".encode())
    return digest.hexdigest()[:32]


def _size_and_time(path: Path) -> tuple[int | None, int | None]:
    """Size and time of change; None for what cannot be found, which reading it will refuse."""
    try:
        stat = path.stat()
    except OSError:
        return None, None
    return stat.st_size, stat.st_mtime_ns


def prepare_table(
    name: str,
    trajectory_dir: str | Path,
    *,
    image_root: str | Path | None = None,
    prompt_layout: PromptLayout = "stream",
    history_frames: int | None = None,
    on_bad_episode: str = "raise",
    verify_images: bool = True,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
) -> VLNEpisodes:
    """Build the table ``episodes`` or ``windows``, or find it in the cache.

    Several processes may call this at once: one builds, the others wait for its file lock. Nodes that share no file
    system, or one without working locks, need a `cache_dir` each.

    Returns:
        the builder: ``as_dataset(split="train")`` gives the rows, ``report()`` what was refused.

    Raises:
        BadEpisodeError: with every bad episode, if `on_bad_episode` is ``raise`` or none is left.
        FileNotFoundError: without trajectories.
        ValueError: for settings that make no sense.
    """
    if on_bad_episode not in BAD_EPISODE_MODES:
        raise ValueError(f"on_bad_episode is {on_bad_episode!r}; expected one of {', '.join(BAD_EPISODE_MODES)}")
    settings: dict[str, Any] = {
        "trajectory_dir": str(Path(trajectory_dir).resolve()),
        "image_root": None if image_root is None else str(Path(image_root).resolve()),
        "on_bad_episode": on_bad_episode,
        "verify_images": verify_images,
    }
    if name == "windows":
        check_window_settings(prompt_layout, history_frames)
        settings |= {"prompt_layout": prompt_layout, "history_frames": history_frames}
    builder = VLNEpisodes(
        config_name=name,
        dataset_name="vln_episodes",
        hash=data_fingerprint(trajectory_dir, image_root),
        cache_dir=None if cache_dir is None else str(cache_dir),
        **settings,
    )
    builder.download_and_prepare(num_proc=num_proc)
    report = builder.report()
    level = logging.WARNING if report.bad or report.warnings else logging.INFO
    logger.log(level, "%s: %s", trajectory_dir, report)
    return builder


def load_windows(
    trajectory_dir: str | Path,
    *,
    image_root: str | Path | None = None,
    prompt_layout: PromptLayout = "stream",
    history_frames: int | None = 16,
    windows: str = "all",
    on_bad_episode: str = "raise",
    verify_images: bool = True,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    seed: int = 0,
    history_noise: float = 0.0,
) -> datasets.Dataset | EpochWindows:
    """Load training samples that decode their frames when asked for.

    Every item is ``{episode_id, instruction, start, length, frames, actions, expert_actions}`` with `frames` as RGB
    pictures and `length` as their number.

    Args:
        trajectory_dir: folder of ``traj_*.json``.
        image_root: folder of ``ep_*_images/``; the same one by default.
        prompt_layout: ``stream`` or ``window``.
        history_frames: see `pgn_vln.data.windows`.
        windows: ``all``, a `datasets.Dataset`; or ``random``, an `EpochWindows` with one window an episode and epoch.
        on_bad_episode: ``raise`` or ``skip``.
        verify_images: decode every frame once while building.
        cache_dir: cache of the `datasets` library; its default is the library's own.
        num_proc: processes that build the table.
        seed: of the random windows and the noise.
        history_noise: share of past actions that are told wrongly, see `pgn_vln.data.transform.NoisyHistory`.

    Raises:
        BadEpisodeError, FileNotFoundError, ValueError: as `prepare_table`.
    """
    if windows not in WINDOW_MODES:
        raise ValueError(f"windows is {windows!r}; expected one of {', '.join(WINDOW_MODES)}")
    check_window_settings(prompt_layout, history_frames)
    root = trajectory_dir if image_root is None else image_root
    shared = {
        "image_root": image_root,
        "on_bad_episode": on_bad_episode,
        "verify_images": verify_images,
        "cache_dir": cache_dir,
        "num_proc": num_proc,
    }
    if windows == "random":
        table = prepare_table("episodes", trajectory_dir, **shared).as_dataset(split="train")
        return EpochWindows(table, root, prompt_layout, history_frames, seed, history_noise)
    layout = {"prompt_layout": prompt_layout, "history_frames": history_frames}
    table = prepare_table("windows", trajectory_dir, **layout, **shared).as_dataset(split="train")
    return table.with_transform(Transforms(NoisyHistory(history_noise, seed), DecodeFrames(root)))
