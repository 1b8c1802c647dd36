"""Recordings in files of named arrays (NumPy, MATLAB, HDF5): which array holds the signals, and what the others say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from midguide.domains.ecg.formats.base import Channel, Contents, Said, agreed_rate
from midguide.domains.ecg.leads import MODELED, TWELVE, signed_lead
from midguide.errors import DataError
from midguide.storage.outside import afford

RATES = {"fs", "rate", "ratehz", "samplingrate", "samplingratehz", "samplerate", "samplingfrequency", "frequency"}
RATES |= {"freq", "sfreq", "hz", "fshz", "fsample"}
UNITS = {"unit", "units", "physicaldimension", "signalunit"}
NAMES = {"leads", "lead", "leadnames", "leadname", "signame", "signames", "signalnames", "channels", "channelnames"}
NAMES |= {"channelname", "labels", "label", "names", "leadorder"}
MOST_ROWS = 64
"""More leads than this no recording has: the other axis is time."""
_USUAL = {len(MODELED): MODELED, len(TWELVE): TWELVE}


@dataclass(frozen=True, kw_only=True)
class Array:
    """An array of a file.

    Args:
        shape: its shape.
        numeric: whether it holds real numbers.
        part: values at some places of an axis; all of them for the slice of everything.
    """

    shape: tuple[int, ...]
    numeric: bool
    part: Callable[[slice, int], Any]

    def all(self) -> Any:
        """Its values."""
        return self.part(slice(None), 0)

    @property
    def long(self) -> tuple[int, ...]:
        """Its shape without axes of one entry."""
        return tuple(size for size in self.shape if size != 1)


def in_memory(values: np.ndarray) -> Array:
    """An array that is there already, or mapped from a file."""

    def part(which: slice, axis: int) -> Any:
        return values[(slice(None),) * axis + (which,)] if values.ndim else values

    return Array(shape=values.shape, numeric=values.dtype.kind in "fiu", part=part)


def of_arrays(path: Path, arrays: Mapping[str, Array], said: Said) -> Contents:
    """The recording that some of these arrays hold.

    Args:
        path: of the file, for messages.
        arrays: by name.
        said: what the user says.

    Raises:
        DataError: If no array, or several, can be the signals, or their leads are not known.
    """
    texts = {name: found for name, array in arrays.items() if (found := _texts(array)) is not None}
    numbers = {name: float(np.ravel(a.all())[0]) for name, a in arrays.items() if a.numeric and prod(a.shape) == 1}
    rates = {name: value for name, value in numbers.items() if _key(name) in RATES}
    if len(set(rates.values())) > 1:
        raise DataError(f"{path} states several rates: {rates}", hint="write it with one")
    named = next((tuple(found) for name, found in texts.items() if _key(name) in NAMES), None)
    unit = next((found[0] for name, found in texts.items() if _key(name) in UNITS and len(set(found)) == 1), None)
    signals = _signals(path, arrays, said)
    used = {*rates, *signals, *(name for name, found in texts.items() if tuple(found) == named or found[:1] == [unit])}
    others = [name for name in arrays if name not in used]
    contents = _contents(path, arrays, signals, named, unit, said)
    told = (f"{path.name} also holds {_list(others)}: not used",) if others else ()
    return replace(
        contents,
        frame_rate=agreed_rate(path, next(iter(rates.values()), None), said.rate_hz),
        remarks=(*contents.remarks, *told),
        stated={name: ", ".join(found) for name, found in texts.items()},
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _key(name: str) -> str:
    """The last part of a name, without marks between its words, in lower case."""
    return name.replace("/", ".").rpartition(".")[2].lower().replace("_", "").replace("-", "").replace(" ", "")


def _own(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[2]


def _texts(array: Array) -> list[str] | None:
    """The words in an array of text; None where it is not text, or long."""
    if array.numeric or prod(array.shape) > 1000:
        return None
    found = [np.ravel(x)[0] if isinstance(x, np.ndarray) and x.size == 1 else x for x in np.ravel(array.all())]
    texts = [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in found]
    return [str(x).strip() for x in texts] if texts and all(isinstance(x, str) for x in texts) else None


def _signals(path: Path, arrays: Mapping[str, Array], said: Said) -> list[str]:
    """The array of the signals; or several with one signal each, named after leads."""
    if said.variable is not None:
        if said.variable not in arrays:
            raise DataError(f"{path} has no array `{said.variable}`", hint=f"it has {', '.join(arrays) or 'none'}")
        return [said.variable]
    single = [name for name, a in arrays.items() if a.numeric and len(a.long) == 1 and signed_lead(_own(name))]
    if single and len({max(arrays[name].shape) for name in single}) == 1:
        return single
    found = [name for name, a in arrays.items() if a.numeric and len(a.long) == 2 and min(a.long) <= MOST_ROWS]
    found = found or [name for name, a in arrays.items() if a.numeric and len(a.long) in (1, 3)]
    if len(found) == 1:
        return found
    shapes = _list([f"{name} {arrays[name].shape}" for name in found or arrays]) or "nothing"
    raise DataError(
        f"{path} holds {'several arrays' if found else 'no array'} that can be a recording: {shapes}",
        hint="say which with --variable NAME" if found else "a recording has the shape (leads, time)",
    )


def _contents(
    path: Path,
    arrays: Mapping[str, Array],
    signals: list[str],
    named: tuple[str, ...] | None,
    unit: str | None,
    said: Said,
) -> Contents:
    if len(signals) == 1 and not (len(arrays[signals[0]].long) == 1 and signed_lead(_own(signals[0]))):
        return matrix(path, arrays[signals[0]], named, unit, said)
    values = [arrays[name] for name in signals]

    def read(rows: Sequence[int], first: int, stop: int) -> list[np.ndarray]:
        axes = [int(np.argmax(values[row].shape)) for row in rows]
        parts = [values[row].part(slice(first, stop), axis) for row, axis in zip(rows, axes, strict=True)]
        return [np.ravel(np.asarray(part, np.float64)) for part in parts]

    channels = tuple(Channel(name=_own(name), unit=unit) for name in signals)
    return Contents(channels=channels, frames=max(values[0].shape), frame_rate=None, read=read)


def matrix(path: Path, array: Array, named: tuple[str, ...] | None, unit: str | None, said: Said) -> Contents:
    """One array of shape (leads, time) or (time, leads), with the names that are known of its rows.

    Raises:
        DataError: If its shape is another, or the leads of its rows are not known.
    """
    if len(array.shape) == 3:
        count = f"{array.shape[0]} recordings, an array of shape {array.shape}"
        raise DataError(f"{path} holds {count}, expected (leads, time)", hint="write one of them, as x[0]")
    if not array.numeric or len(array.shape) not in (1, 2):
        raise DataError(
            f"{path} has shape {array.shape}, expected (leads, time)", hint="real numbers, one row for each lead"
        )
    flat = len(array.shape) == 1
    shape = (1, *array.shape) if flat else array.shape
    names = said.order or named
    counts = [len(names)] if names else list(_USUAL)
    axis = 1 if shape[0] not in counts and shape[1] in counts and not flat else 0
    names = names or _USUAL.get(shape[axis])
    if names is None or shape[axis] != len(names):
        count = f"; {len(names)} leads are named" if names else ""
        raise DataError(
            f"{path} has shape {array.shape}, expected (leads, time){count}",
            hint="nine or twelve leads in the usual order, or say which: --order I,II,V1",
        )

    def read(rows: Sequence[int], first: int, stop: int) -> list[np.ndarray]:
        afford(2 * 8 * (stop - first) * shape[axis], f"a part of {path.name}")
        values = np.asarray(array.part(slice(first, stop), 0 if flat else 1 - axis))
        values = np.atleast_2d(values)
        return [np.asarray(values[row] if axis == 0 else values[:, row], np.float64) for row in rows]

    remarks = []
    if guessed := said.order is None and named is None:
        remarks.append(f"the rows of {path.name} have no names: taken as {', '.join(names)}; --order says otherwise")
    if axis == 1:
        remarks.append(f"{path.name} has shape (time, leads): turned")
    channels = tuple(Channel(name=name, unit=unit) for name in names)
    return Contents(
        channels=channels, frames=shape[1 - axis], frame_rate=None, read=read, remarks=tuple(remarks), rows=guessed
    )
