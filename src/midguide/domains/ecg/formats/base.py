"""What a file format of recordings is, and how the one of a file is found.

A format says which channels a file has, in the file's own names and units, and reads a part of them. What a channel is
(a lead, its negative, something foreign) is decided in one place for all formats, `domains/ecg/channels.py`.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from midguide.catalogue import plugins
from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, DataError
from midguide.storage.outside import Outside

RECORDING = Outside(what="recording")
"""The gate that all formats open files through."""

Read = Callable[[Sequence[int], int, int], Sequence[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One channel of a file.

    Args:
        name: as it stands in the file.
        unit: as it stands there; None where the file does not say.
        per_frame: samples in each frame.

    Example:
        >>> Channel(name="MLII", unit="mV").per_frame
        1
    """

    name: str
    unit: str | None = None
    per_frame: int = 1


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds, before anything is read that is not needed.

    Args:
        channels: all of them.
        frames: how many times of the frame rate there are.
        frame_rate: frames per second; None where neither the file nor the user says.
        read: values of channels, by their places, from one frame to before another, in the channels' units; float64,
            NaN where there is none, shape (frames x per_frame,) each.
        remarks: what a user should know of how the file is read, one line each; reading may add some.
        stated: what else the file states, by key. It may name a person: it is given to who reads the file and written
            nowhere.
        rows: whether the names of the channels are not in the file, but those of its rows in the usual order.

    Example:
        >>> from midguide.domains.ecg.formats.base import Channel
        >>> zeros = lambda rows, first, stop: [np.zeros(stop - first) for _ in rows]
        >>> contents = Contents(channels=(Channel(name="I", unit="mV"),), frames=500, frame_rate=250.0, read=zeros)
        >>> contents.read([0], 0, 100)[0].shape
        (100,)
    """

    channels: tuple[Channel, ...]
    frames: int
    frame_rate: float | None
    read: Read
    remarks: Sequence[str] = ()
    stated: Mapping[str, str] = field(default_factory=dict)
    rows: bool = False


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a user says of a file.

    Args:
        rate_hz: samples per second.
        unit: of the numbers.
        order: leads of the rows or columns of a file that does not name them; `_` for a row without a lead.
        variable: which array of a file that holds several.
    """

    rate_hz: float | None = None
    unit: str | None = None
    order: tuple[str, ...] | None = None
    variable: str | None = None


@dataclass(frozen=True)
class File:
    """A file, or the name of a record without an ending."""

    path: Path

    @property
    def suffix(self) -> str:
        """The ending in lower case."""
        return self.path.suffix.lower()

    @cached_property
    def start(self) -> bytes:
        """The first bytes; empty where there is no regular file."""
        if not os.path.isfile(self.path):  # of any name, also one too long
            return b""
        with RECORDING.open(self.path) as file:
            return file.read(1024)


class RecordingFormat(ABC):
    """One format of recordings: a class in a file of its own, registered in `RECORDINGS`, or named as `FILE.py:NAME`.

    Attributes:
        extensions: endings of its files.
        needs: the library that reads it and the extra that brings it; empty where none is needed.
        order: formats are asked in this order, the lowest first, whether they recognize a file.
        home: where it is described.

    Example:
        >>> class Raw(RecordingFormat):
        ...     extensions = (".raw",)
        ...
        ...     def open(self, file, said):
        ...         "Yields the `Contents` of a file."
    """

    extensions: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = ""
    order: ClassVar[int] = 50
    home: ClassVar[str] = ""

    def recognizes(self, file: File) -> bool:
        """Whether `file` is of this format; must not raise for one of another."""
        return file.suffix in self.extensions and os.path.exists(file.path)

    @abstractmethod
    def open(self, file: File, said: Said) -> AbstractContextManager[Contents]:
        """What the file holds; it stays open in the block."""


def _check(thing: object) -> None:
    lacking = getattr(thing, "__abstractmethods__", ())
    if not (isinstance(thing, type) and issubclass(thing, RecordingFormat)) or lacking:
        raise ConfigError(
            f"it lacks {', '.join(sorted(lacking))}" if lacking else "it is not a subclass of RecordingFormat",
            hint="class Mine(RecordingFormat) with open(file, said)",
        )


RECORDINGS: Catalogue[type[RecordingFormat]] = Catalogue(
    "recording format",
    "midguide.domains.ecg.formats",
    group="midguide.recordings",
    check=_check,
    columns=lambda entry: {
        "extensions": " ".join(entry.thing.extensions),
        "needs": entry.thing.needs,
        "home": entry.thing.home,
    },
)
"""Formats of recordings by name."""


@contextmanager
def opened(path: Path, said: Said, form: str | None = None) -> Iterator[Contents]:
    """What a file holds, in whatever format.

    Args:
        path: of the file, or of a record.
        said: what the user says of it.
        form: name of a format, or `FILE.py:NAME`; by default the first that recognizes the file.

    Raises:
        DataError: If there is no such file, it is damaged, or no format recognizes it.
    """
    file = File(path)
    found = RECORDINGS[form].thing() if form else recognized(file)
    if not plugins.source_digest(found):
        with found.open(file, said) as contents:
            yield contents
        return
    with (
        plugins.outside_code(f"the recording format `{RECORDINGS.name_of(found)}`"),
        found.open(file, said) as contents,
    ):
        yield contents


def recognized(file: File) -> RecordingFormat:
    """The first format that recognizes a file."""
    known = sorted((entry.thing() for entry in RECORDINGS.values()), key=lambda form: form.order)
    if found := next((form for form in known if form.recognizes(file)), None):
        return found
    if os.path.exists(file.path) and not os.path.isdir(file.path):
        RECORDING.check(file.path)
        raise DataError(f"{file.path} is not a recording of a known kind", hint=f"known are {_names(known)}")
    what = "a folder, not a recording" if os.path.isdir(file.path) else "not there"
    raise DataError(
        f"there is no recording {file.path}: it is {what}",
        hint=f"give the path of one; known are {_names(known)}",
    )


def _names(forms: Sequence[RecordingFormat]) -> str:
    return ", ".join(f"{RECORDINGS.name_of(form)} ({' '.join(form.extensions)})" for form in forms if form.extensions)


_VOLTS = {"": 1e3, "m": 1.0, "milli": 1.0, "u": 1e-3, "micro": 1e-3, "µ": 1e-3, "μ": 1e-3, "n": 1e-6, "nano": 1e-6}
_UNIT = re.compile(r"(milli|micro|nano|[muµμn]?)(v|volts?)(olt)?")


def millivolts(unit: str) -> float | None:
    """Millivolts of one of a unit, as `uV`, `µV` or `millivolt`; None where it is not a voltage.

    Example:
        >>> millivolts("uV"), millivolts("Ohm")
        (0.001, None)
    """
    found = _UNIT.fullmatch(unit.strip(" []()").lower())
    return _VOLTS[found[1]] if found else None


def agreed_rate(path: Path, stated: float | None, said: float | None) -> float | None:
    """The rate that a file states, which what is said may repeat and must not contradict.

    Raises:
        DataError: If they differ by more than 1 %.
    """
    if stated is not None and said is not None and not abs(said - stated) <= 0.01 * stated:
        raise DataError(f"{path} says {stated:g} samples per second, not {said:g}", hint="leave --rate out")
    return said if stated is None else stated
