"""Writing files so that they appear complete or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from midguide.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

FAILED_WRITES = (OSError, SafetensorError)  # safetensors reports a full disk in its own way


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes if the block fails.

    Raises:
        DataError: If the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _usual_mode(temporary)
        yield temporary
        temporary.chmod(mode)  # some libraries write files that only their owner may read
        os.replace(temporary, path)
    except FAILED_WRITES as error:
        raise _unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder whose files move into `path` when the block ends; nothing is left if the block fails.

    Files of other names that are already in `path` stay.

    Raises:
        DataError: If the folder is not writable, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process of the same number, as in a container
        temporary.mkdir(parents=True)
        mode = _usual_mode(temporary / ".mode")
        (temporary / ".mode").unlink()
        yield temporary
        path.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir()):
            if file.is_file():
                file.chmod(mode)
            os.replace(file, path / file.name)
    except FAILED_WRITES as error:
        raise _unwritten(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: str | Path) -> None:
    """Make sure that a file can be written at `path`, before anything is computed for it.

    Raises:
        DataError: If it cannot.
    """
    try:
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.lstat(path)  # refuses what is not a name of a file
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, TypeError, ValueError) as error:
        raise _unwritten(Path(str(path)), error) from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While the block runs no other process of this machine gets past this point with the same folder.

    The lock lies in no file, and ends with the process, however that ends.

    Raises:
        DataError: If another process is there.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"another process is writing into {folder}", hint="wait for it, or choose another --out"
                ) from error
        yield
    finally:
        os.close(place)


def _usual_mode(path: Path) -> int:
    """The mode of a file that is newly made at `path`: what the user's mask leaves."""
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777


def aside(path: Path, mark: str) -> Path:
    """Where something keeps its content when its name is taken: `STEM.MARK`, `STEM.MARK-2`... whichever is free."""
    place, number = path.with_suffix(f".{mark}"), 1
    while place.exists():
        number += 1
        place = path.with_suffix(f".{mark}-{number}")
    return place


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwritten(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(f"cannot write {path}: {reason}", hint="check the folder and free space")


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, contiguous, no two of them in one piece of memory: what safetensors can write."""
    seen: set[int] = set()
    apart = {}
    for name, value in tensors.items():
        value = value.detach().contiguous()
        place = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if place in seen else value
        seen.add(place)
    return apart
