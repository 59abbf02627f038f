"""Files that are either whole or absent: a killed run never leaves half a report behind."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A process can learn its umask only by changing it, so it is done once, before there are threads that write files.
_UMASK = os.umask(0)
os.umask(_UMASK)


def give_usual_rights(path: str | os.PathLike[str]) -> None:
    """Let everybody read a file whom the umask allows; some libraries make files that only their owner can read."""
    os.chmod(path, 0o666 & ~_UMASK)


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` beside `path` and rename it into place; the folder is created if need be.

    The temporary file lies in the same folder, because a rename is atomic only within one file system.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        give_usual_rights(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_text_atomic(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text with `write_bytes_atomic`."""
    return write_bytes_atomic(path, text.encode("utf-8"))


def strict_json(value: Any, indent: int | None = None) -> str:
    """Serialise to JSON that every parser reads.

    Raises:
        ValueError: on NaN or infinity, which JSON does not have (Python would write a bare ``NaN``).
    """
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def write_json_atomic(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> Path:
    """Write strict JSON (see `strict_json`), closed by a newline, with `write_bytes_atomic`."""
    return write_text_atomic(path, strict_json(value, indent) + "\n")


def _make_folder_around(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be written: {error}; choose another place") from None


@contextmanager
def new_file(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside ``out`` that becomes it when the block ends well, and vanishes when it does not.

    Raises:
        FileExistsError: ``out`` exists: nothing that was made before is overwritten.
        OSError: the folder around it cannot be made.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another name, or remove it first")
    _make_folder_around(out)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.", suffix=out.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        give_usual_rights(temporary)
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends well, and vanishes when it does not.

    Raises:
        FileExistsError: ``out`` exists and is not empty: nothing that was made before is overwritten.
        OSError: the folder around it cannot be made.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; choose another folder, or remove it first")
    _make_folder_around(out)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
