"""Episodes on disk: reading trajectory files, and refusing what would teach a model the wrong thing.

A folder holds ``traj_{episode_id}.json`` = ``{"episode_id", "instruction", "steps": [{"image_path", "action"}, ...]}``
and the frames of each in ``ep_{episode_id}_images/``. ``steps[t].image_path`` is seen before ``steps[t].action``.
A step may carry ``expert_action``, the action that should have been taken (default: the one that was), and ``pose``;
a file may carry ``instructions``, a list, in place of ``instruction``. Whatever else it holds becomes `Episode.meta`.
"""

import json
import math
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile
from tqdm.auto import tqdm

from modeling_pgn.prompting_pgn import SPECIAL_TOKENS, Action
from pgn_vln.formats import GENERATION_FILE, TRAJECTORY_GLOB, images_folder, trajectory_file

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_READ_KEYS = ("episode_id", "instruction", "instructions", "steps")
# What Pillow's decoders are known to raise for broken files, beside the errors that they mean to raise.
_BROKEN_IMAGE = (
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    TypeError,
)


@dataclass(frozen=True)
class Episode:
    """One episode: what was seen, done, and should have been done.

    Attributes:
        id: letters, digits, dots, dashes and underscores.
        instructions: one or more texts for the same path.
        frames: [T] file paths relative to the image root, with forward slashes.
        actions: [T] action ids that were done; `frames[t]` was seen before `actions[t]`.
        expert_actions: [T] action ids that should be done: the labels.
        poses: [T] poses as they stand in the file, or None.
        meta: everything else that the file says.
        warnings: oddities that do not make the episode unusable.
    """

    id: str
    instructions: tuple[str, ...]
    frames: tuple[str, ...]
    actions: tuple[int, ...]
    expert_actions: tuple[int, ...]
    poses: tuple[tuple[float, ...], ...] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadEpisode:
    """An episode that was refused: its trajectory file, and why."""

    file: str
    reason: str


class BadEpisodeError(ValueError):
    """One or more episodes cannot be used; `bad` lists all of them."""

    def __init__(self, bad: Iterable[BadEpisode]) -> None:
        self.bad = tuple(bad)
        shown = "\n".join(f"  {entry.file}: {entry.reason}" for entry in self.bad[:10])
        more = f"\n  ... and {len(self.bad) - 10} more" if len(self.bad) > 10 else ""
        super().__init__(
            f"{len(self.bad)} episode(s) cannot be used:\n{shown}{more}\n"
            "Repair or remove them, or set on_bad_episode=skip to go on without them."
        )

    def __reduce__(self) -> tuple[type, tuple[tuple[BadEpisode, ...]]]:
        # Exceptions are rebuilt from their message by default, which would lose the list between processes.
        return type(self), (self.bad,)


class FrameError(ValueError):
    """A frame that cannot be decoded; the message names the file and the reason."""


@dataclass
class EpisodeReport:
    """What a set of trajectory files holds, and what was refused."""

    episodes: int = 0
    frames: int = 0
    actions: dict[str, int] = field(default_factory=dict)
    bad: list[BadEpisode] = field(default_factory=list)
    warnings: list[BadEpisode] = field(default_factory=list)

    def add(self, episode: Episode, file: str) -> None:
        """Count a good episode; the histogram is of the labels."""
        self.episodes += 1
        self.frames += len(episode.frames)
        counts = Counter(Action(action).name.lower() for action in episode.expert_actions)
        for name, count in counts.items():
            self.actions[name] = self.actions.get(name, 0) + count
        self.warnings += [BadEpisode(file, reason) for reason in episode.warnings]

    def merge(self, other: "EpisodeReport") -> None:
        """Add another part's counts."""
        self.episodes += other.episodes
        self.frames += other.frames
        for name, count in other.actions.items():
            self.actions[name] = self.actions.get(name, 0) + count
        self.bad += other.bad
        self.warnings += other.warnings

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "EpisodeReport":
        """Undo `to_json`."""
        lists = {key: [BadEpisode(**entry) for entry in data[key]] for key in ("bad", "warnings")}
        return cls(data["episodes"], data["frames"], dict(data["actions"]), **lists)

    def __str__(self) -> str:
        actions = ", ".join(f"{name} {count}" for name, count in sorted(self.actions.items()))
        lines = [f"{self.episodes} episodes, {self.frames} frames ({actions}), {len(self.bad)} refused"]
        lines += [f"  refused {entry.file}: {entry.reason}" for entry in self.bad]
        lines += [f"  warning {entry.file}: {entry.reason}" for entry in self.warnings]
        return "\n".join(lines)


def list_trajectories(folder: str | Path) -> list[Path]:
    """All trajectory files of a folder, sorted by name: file systems list them in any order, nodes must agree.

    Raises:
        FileNotFoundError: if the folder does not exist or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one that holds traj_*.json")
    files = sorted(folder.glob(TRAJECTORY_GLOB), key=lambda path: path.name)
    if not files:
        raise FileNotFoundError(f"{folder} holds no traj_*.json; generate or import episodes into it first")
    return files


def read_generation_settings(folder: str | Path) -> dict[str, Any] | None:
    """The settings that episodes were made with (``turn_degrees``, ``step_m``, ``hfov_degrees``, ``image_size``, ...).

    Returns:
        the content of ``generation.json``, or None if there is none.

    Raises:
        ValueError: if the file is not a JSON object.
    """
    path = Path(folder) / GENERATION_FILE
    if not path.exists():
        return None
    return _read_object(path)


def load_frame(path: str | Path) -> Image.Image:
    """Decode a picture to RGB, completely.

    Raises:
        FrameError: if the file is missing, cut short, no picture, or larger than Pillow's limit against decompression
            bombs. It is never replaced by another one.
    """
    # Some libraries set this flag for the whole process; Pillow then fills what is missing with black.
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FrameError(f"{path}: image file is missing") from None
    except _BROKEN_IMAGE as error:
        raise FrameError(f"{path}: image cannot be decoded ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def verify_frame(path: str | Path) -> None:
    """Check a picture's checksums where the format has them, and decode it.

    Raises:
        FrameError: as `load_frame`.
    """
    try:
        with Image.open(path) as image:
            image.verify()
    except FileNotFoundError:
        raise FrameError(f"{path}: image file is missing") from None
    except _BROKEN_IMAGE as error:
        raise FrameError(f"{path}: image cannot be decoded ({error})") from error
    load_frame(path)


def read_trajectory(path: str | Path, image_root: str | Path | None = None, *, verify_images: bool = False) -> Episode:
    """Read one trajectory file.

    Args:
        path: the file ``traj_{episode_id}.json``.
        image_root: folder that holds ``ep_{episode_id}_images/``; by default the file's own.
        verify_images: also decode every frame; without it, a frame only has to exist.

    Raises:
        BadEpisodeError: naming the file and the reason.
    """
    path = Path(path)
    root = Path(image_root) if image_root is not None else path.parent
    try:
        return _parse(_read_object(path), path, root, verify_images)
    except RecursionError as error:  # values nested too deeply to be shown in a message
        reason = f"{path.name} is nested too deeply"
        raise BadEpisodeError([BadEpisode(_printable(path), _printable(reason))]) from error
    except (OSError, ValueError) as error:
        raise BadEpisodeError([BadEpisode(_printable(path), _printable(error))]) from error


def iter_trajectories(
    files: Iterable[Path], image_root: str | Path | None, report: EpisodeReport, *, verify_images: bool = True
) -> Iterator[Episode]:
    """Yield the good episodes of `files`, and put the bad ones into `report`."""
    for file in files:
        try:
            episode = read_trajectory(file, image_root, verify_images=verify_images)
        except BadEpisodeError as error:
            report.bad += error.bad
            continue
        report.add(episode, str(file))
        yield episode


def validate_trajectories(
    folder: str | Path, image_root: str | Path | None = None, *, verify_images: bool = True
) -> EpisodeReport:
    """Read every trajectory of a folder and report; nothing is raised for bad episodes.

    A progress bar is shown on a terminal.
    """
    report = EpisodeReport()
    files = tqdm(list_trajectories(folder), desc="validating", unit="episode", disable=None)
    for _ in iter_trajectories(files, image_root, report, verify_images=verify_images):
        pass
    return report


def _printable(value: object) -> str:
    """As text that UTF-8 can write: names on disk may be no UTF-8, and JSON may hold half of a surrogate pair."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise ValueError(f"{path.name} is not valid JSON (nested too deeply)") from error
    except ValueError as error:  # broken JSON, or bytes that are no UTF-8
        raise ValueError(f"{path.name} is not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds a {type(data).__name__}; expected a JSON object")
    return data


def _parse(data: dict[str, Any], path: Path, root: Path, verify_images: bool) -> Episode:
    episode_id = _episode_id(data, path)
    instructions = _instructions(data)
    steps = data.get("steps")
    if not isinstance(steps, list) or not steps:
        raise ValueError("steps is missing or empty; expected a list of at least one {image_path, action}")
    names, actions, expert_actions, poses = [], [], [], []
    for number, step in enumerate(steps):
        if not isinstance(step, dict) or "image_path" not in step or "action" not in step:
            raise ValueError(f"step {number} lacks image_path or action; every frame needs an action and the reverse")
        names.append(step["image_path"])
        actions.append(_action(step["action"], f"step {number} action"))
        expert = step.get("expert_action")
        expert_actions.append(actions[-1] if expert is None else _action(expert, f"step {number} expert_action"))
        if step.get("pose") is not None:
            poses.append(_pose(step["pose"], f"step {number} pose"))
    if Action.STOP in actions[:-1]:
        raise ValueError(f"step {actions.index(Action.STOP)} of {len(actions)} is stop; nothing may follow a stop")
    if poses and len(poses) != len(steps):
        raise ValueError(f"{len(poses)} of {len(steps)} steps have a pose; expected all or none")
    warnings = ()
    if actions[-1] != Action.STOP:
        warnings = (f"the last action is {Action(actions[-1]).name.lower()}, not stop",)
    return Episode(
        id=episode_id,
        instructions=instructions,
        frames=_frames(names, episode_id, root, verify_images),
        actions=tuple(actions),
        expert_actions=tuple(expert_actions),
        poses=tuple(poses) or None,
        meta={key: value for key, value in data.items() if key not in _READ_KEYS},
        warnings=warnings,
    )


def _episode_id(data: dict[str, Any], path: Path) -> str:
    if "episode_id" not in data:
        raise ValueError("episode_id is missing")
    episode_id = str(data["episode_id"])
    if not _ID.fullmatch(episode_id):
        raise ValueError(f"episode_id is {episode_id!r}; expected letters, digits, dots, dashes and underscores")
    if path.name != trajectory_file(episode_id):
        raise ValueError(f"episode_id is {episode_id!r} in a file named {path.name}; expected traj_{episode_id}.json")
    return episode_id


def _instructions(data: dict[str, Any]) -> tuple[str, ...]:
    texts = data.get("instructions", [data.get("instruction")])
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"instruction is {texts!r}; expected a text that is not empty")
    for text in texts:
        if not _is_unicode(text):
            raise ValueError(f"instruction is {text!r}; expected text without lone surrogates")
        for token in SPECIAL_TOKENS:
            if token in text:
                raise ValueError(
                    f"instruction {text!r} contains the special token {token!r}, which the model would read as its "
                    "own markup; remove it from the text"
                )
    return tuple(texts)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _pose(value: Any, where: str) -> tuple[float, ...]:
    try:
        # A text would be read digit by digit, and true and false as 1 and 0.
        if isinstance(value, list) and not any(isinstance(number, (str, bool)) for number in value):
            pose = tuple(float(number) for number in value)
            if pose and all(map(math.isfinite, pose)):
                return pose
    except (TypeError, OverflowError):  # null, a list, a whole number beyond the range of floats
        pass
    raise ValueError(f"{where} is {value!r}; expected a list of finite numbers")


def _action(value: Any, where: str) -> int:
    # bool is an int in Python, and true is no action.
    if isinstance(value, int) and not isinstance(value, bool) and value in Action._value2member_map_:
        return value
    known = ", ".join(f"{action.value} {action.name.lower()}" for action in Action)
    raise ValueError(f"{where} is {value!r}; expected one of {known}")


def _frames(names: list[Any], episode_id: str, root: Path, verify_images: bool) -> tuple[str, ...]:
    folder = images_folder(episode_id)
    inside = os.path.realpath(root)
    if os.path.commonpath([inside, os.path.realpath(root / folder)]) != inside:
        raise ValueError(f"{folder} is a link that leaves {root}; frames must lie inside the image root")
    frames = []
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name or not _is_unicode(name) or "\0" in name:
            raise ValueError(f"step {number} image_path is {name!r}; expected a file name")
        parts = Path(name.replace("\\", "/")).parts
        full = root / folder / name
        if ".." in parts or os.path.isabs(name) or os.path.commonpath([inside, os.path.realpath(full)]) != inside:
            raise ValueError(f"step {number} image_path {name!r} leaves {folder}; frames must lie inside it")
        try:
            exists = full.is_file()
        except OSError as error:  # such as a name that is too long, or a folder that may not be read
            raise ValueError(f"step {number} image {folder}/{name} cannot be read ({error.strerror})") from error
        if not exists:
            raise ValueError(f"step {number} image {folder}/{name} is missing")
        if verify_images:
            try:
                verify_frame(full)
            except FrameError as error:
                raise ValueError(f"step {number}: {error}") from error
        frames.append(f"{folder}/{name}")
    return tuple(frames)
