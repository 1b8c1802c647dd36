"""A worker on another machine: what it is, and how it runs a job that came as freight."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from midguide._version import __version__
from midguide.nn import layout
from midguide.storage.code import code_of
from midguide.storage.machine import keep_freed_memory
from midguide.studies.engine.units import Rows, run_batch
from midguide.studies.runners.base import picklable
from midguide.studies.runners.freight import Contents, read_folders, unpack, write_folder


class Identity(NamedTuple):
    """What must be the same on all machines of a study."""

    version: str
    code: str
    python: str

    def differs(self, other: Identity) -> str:
        """How another machine differs from this one; empty where it does not."""
        if self.version != other.version:
            return f"has midguide {other.version}, this machine {self.version}"
        if self.python != other.python:
            return f"has Python {other.python}, this machine {self.python}"
        return "" if self.code == other.code else f"has other code of midguide {self.version} than this machine"


def identity() -> Identity:
    """That of this process."""
    python = ".".join(platform.python_version_tuple()[:2])
    return Identity(__version__, code_of(run_batch).sha256, python)


class Storage(NamedTuple):
    """Where draws go.

    Args:
        kept: the folder of stored draws on the machine that hands out; None where they are not kept.
        shared: a file that a worker sees if it sees that folder; None where it is not to look.
        address: where draws go instead, for fsspec.
    """

    kept: Path | None = None
    shared: Path | None = None
    address: str = ""


class Answer(NamedTuple):
    """What comes back of a job: rows, and the draws of units by the names of their folders."""

    rows: list[Rows]
    draws: dict[str, Contents]


class Worker:
    """Runs jobs on its machine, one after the other.

    Args:
        device: where networks compute.
        storage: where draws go.
        fetch: gets files from the store of the cluster.
    """

    def __init__(self, device: str, storage: Storage, fetch: Callable[[Any], Any]) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)
        self._device, self._storage, self._fetch = device, storage, fetch

    def about(self) -> tuple[str, Identity, bool] | Exception:
        """Its name, what it is, and whether it sees the folder of draws; an error where it lacks the device."""
        try:
            layout.check_device(self._device)
        except Exception as error:
            return picklable(error)
        return f"{socket.gethostname()}, process {os.getpid()}", identity(), self._sees

    @property
    def _sees(self) -> bool:
        storage = self._storage
        return not storage.address and storage.shared is not None and storage.shared.exists()

    def run(self, packed: bytes, needed: Mapping[str, Any], draws: Mapping[str, Contents]) -> Answer | Exception:
        """The answer to a job; an exception is a defect or a changed file, and not a failure of a method.

        Args:
            packed: the job.
            needed: its files.
            draws: what is stored of its units already.
        """
        try:
            with tempfile.TemporaryDirectory() as scratch:
                return self._run(packed, needed, draws, Path(scratch))
        except Exception as error:
            return picklable(error)

    def _run(self, packed: bytes, needed: Mapping[str, Any], draws: Mapping[str, Contents], scratch: Path) -> Answer:
        job = replace(unpack(packed, needed, self._fetch), device=self._device)
        kept, _, address = self._storage
        if kept is None or self._sees:
            return Answer(replace(job, kept=kept).run(), {})
        for name, contents in draws.items():
            write_folder(scratch / name, contents)
        rows = replace(job, kept=scratch).run()
        made = [name for unit in job.units if (name := unit.draws_address) not in draws]
        if address:
            _upload(scratch, made, address)
            made = []
        return Answer(rows, read_folders(scratch, made))


def _upload(folder: Path, names: Sequence[str], address: str) -> None:
    """Copy folders to an address of fsspec, such as `s3://bucket/draws`."""
    from fsspec.core import url_to_fs

    files, root = url_to_fs(address)
    for name in names:
        for file in sorted((folder / name).rglob("*")):
            if file.is_file():
                target = f"{root}/{file.relative_to(folder).as_posix()}"
                files.makedirs(target.rpartition("/")[0], exist_ok=True)
                files.put_file(str(file), target)
