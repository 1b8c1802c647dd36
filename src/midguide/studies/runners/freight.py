"""Jobs for machines that share no folder: the files that a job names travel with it, once for each content.

The pickle of a job names files by digest. A digest replaces every absolute path that exists here: priors, data, Python
files with their neighbors, folders of weights. On the other machine files appear in a folder by these digests, and the
job names them there. A unit's address stays the same, since it does not depend on the places of files.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from midguide.catalogue import plugins
from midguide.errors import DataError
from midguide.storage.files import replacing_folder
from midguide.studies.runners.base import Job

Contents = dict[str, np.ndarray]
"""Files as bytes, by their paths in a folder."""
ENVIRONMENT = ("MIDGUIDE_WEIGHTS",)
"""Variables that name folders of files."""


class Freight:
    """Packs jobs.

    Args:
        store: is given the contents of a place once, and returns how another machine gets them.
    """

    def __init__(self, store: Callable[[Contents], Any]) -> None:
        self._store = store
        self._stored: dict[str, Any] = {}
        self._places: dict[str, tuple[str, str] | None] = {}

    def pack(self, job: Job) -> tuple[bytes, dict[str, Any]]:
        """The job without its folder of draws, and how to get what it needs, by digest."""
        needed: dict[str, Any] = {}
        environment = {name: os.path.abspath(os.environ[name]) for name in ENVIRONMENT if name in os.environ}
        inner = self._pickled(replace(job, kept=None), needed)
        return self._pickled((environment, dict(job.code), inner), needed), needed

    def _pickled(self, thing: object, needed: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        pickler = pickle.Pickler(file)

        def persistent_id(part: object) -> tuple[str, str, str] | None:
            if not (isinstance(part, str) and part.startswith("/") and part.count("/") > 1):
                return None
            code = plugins.PLACE.match(part)
            path, rest = (code[1], part[len(code[1]) :]) if code else (part, "")
            place = self._place(path)
            if place is None:
                return None
            needed[place[0]] = self._stored[place[0]]
            return (*place, rest)

        pickler.persistent_id = persistent_id  # pyright: ignore[reportAttributeAccessIssue]
        pickler.dump(thing)
        return file.getvalue()

    def _place(self, path: str) -> tuple[str, str] | None:
        """Digest and name of what is at a path; None where there is nothing."""
        if path not in self._places:
            found = _contents(Path(path)) if os.path.exists(path) else None
            self._places[path] = None if found is None else (digest := _digest(found), Path(path).name)
            if found is not None and digest not in self._stored:
                self._stored[digest] = self._store(found)
        return self._places[path]


def unpack(packed: bytes, needed: Mapping[str, Any], fetch: Callable[[Any], Contents]) -> Job:
    """The job that `Freight.pack` packed, with the files that it needs in a folder of this machine.

    Args:
        packed: the job.
        needed: how to get the files, by digest.
        fetch: gets them; called for what this machine does not have yet.
    """
    folder = cache_folder()

    def place(known: tuple[str, str, str]) -> str:
        digest, name, rest = known
        if not (folder / digest).exists():
            _appear(folder / digest, fetch(needed[digest]))
        return str(folder / digest / name) + rest

    environment, code, inner = _unpickled(packed, place)
    os.environ.update(environment)
    for path in code:
        plugins.load_file(path)
    return _unpickled(inner, place)


def _unpickled(data: bytes, place: Callable[[tuple[str, str, str]], str]) -> Any:
    unpickler = pickle.Unpickler(io.BytesIO(data))
    unpickler.persistent_load = place  # pyright: ignore[reportAttributeAccessIssue]
    return unpickler.load()


def cache_folder() -> Path:
    """Where files that came to this machine lie: for this user, until the machine clears its temporary files.

    Raises:
        DataError: If somebody else has a folder of this name.
    """
    folder = Path(tempfile.gettempdir()) / f"midguide-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise DataError(f"{folder} belongs to another user", hint="set TMPDIR on that machine")
    return folder / "freight"


def _appear(folder: Path, contents: Contents) -> None:
    """Write files into a folder that appears with all of them; another process may do the same at the same time."""
    folder.parent.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    _write(temporary, contents)
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(temporary)


def _contents(path: Path) -> Contents:
    """A file, a Python file with its neighbors, or all files of a folder, under the name of the path."""
    if path.is_dir():
        return {f"{path.name}/{file.relative_to(path)}": _bytes(file) for file in _files(path)}
    beside = sorted(path.parent.glob("*.py")) if path.suffix == ".py" else []
    return {file.name: _bytes(file) for file in dict.fromkeys([path, *beside])}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _bytes(file: Path) -> np.ndarray:
    return np.frombuffer(file.read_bytes(), np.uint8)


def _digest(contents: Contents) -> str:
    total = hashlib.sha256()
    for name, data in sorted(contents.items()):
        total.update(f"{name} {len(data)} ".encode())
        total.update(data.data)
    return total.hexdigest()


def read_folders(parent: Path, names: Iterable[str]) -> dict[str, Contents]:
    """The files of some folders in `parent`, of those that are there."""
    found = {name: parent / name for name in names if (parent / name).is_dir()}
    return {name: {str(file.relative_to(path)): _bytes(file) for file in _files(path)} for name, path in found.items()}


def write_folder(folder: Path, contents: Contents) -> None:
    """Write files into a folder, all or nothing."""
    with replacing_folder(folder) as temporary:
        _write(temporary, contents)


def _write(folder: Path, contents: Contents) -> None:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.tobytes())
