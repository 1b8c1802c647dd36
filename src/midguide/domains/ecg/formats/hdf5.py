"""HDF5 files, also those of MATLAB 7.3: arrays by name, in groups, with attributes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from midguide.domains.ecg.formats._arrays import Array, in_memory, of_arrays
from midguide.domains.ecg.formats.base import RECORDING, RECORDINGS, Contents, File, RecordingFormat, Said
from midguide.errors import ConfigError
from midguide.storage.outside import afford

MAGIC = b"\x89HDF\r\n\x1a\n"
_LETTERS = 1000
"""Of a text, or texts of an array: longer ones say nothing of a recording."""


@RECORDINGS.register("hdf5", summary="an HDF5 file, or one of MATLAB 7.3: arrays by name and their attributes")
class Hdf5(RecordingFormat):
    """Arrays by name, of which the part that is wanted is read."""

    extensions = (".h5", ".hdf5", ".hdf")
    needs = "h5py, in the extra `ecg`"
    order = 20
    home = "https://www.hdfgroup.org/solutions/hdf5"

    def recognizes(self, file: File) -> bool:
        return MAGIC in (file.start[:8], file.start[512:520]) or (
            file.suffix in self.extensions and os.path.exists(file.path)
        )

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The array of the signals.

        Raises:
            ConfigError: If the library is not installed.
            DataError: If the file is damaged, or no array, or several, can be the signals.
        """
        try:
            import h5py
        except ImportError as error:
            raise ConfigError(
                f"{file.path} is an HDF5 file, read by the library h5py, which is not installed",
                hint="pip install 'midguide[ecg]'",
            ) from error
        path = RECORDING.check(file.path)
        with RECORDING.damage(path):
            opened = h5py.File(path, "r")
        with opened:
            with RECORDING.damage(path):
                contents = of_arrays(path, _arrays(opened, path), said)
            yield contents


def _arrays(opened: Any, path: Path) -> dict[str, Array]:
    """Arrays, and attributes as if they were arrays."""
    arrays: dict[str, Array] = {}

    def add(name: str, thing: Any) -> None:
        if hasattr(thing, "shape") and not name.startswith("#"):  # MATLAB's own
            arrays[name] = _array(thing, opened, path)
        for key in thing.attrs:
            if not key.startswith(("MATLAB_", "CLASS", "DIMENSION_", "REFERENCE_", "H5PATH", "NAME")):
                stated = thing.attrs.get_id(key)
                afford(prod(stated.shape) * stated.dtype.itemsize, f"the attribute {key} in {path.name}")
                arrays[f"{name}.{key}".lstrip("./")] = in_memory(_plain(thing.attrs[key]))

    add("", opened) if len(opened.attrs) else None
    opened.visititems(add)
    return arrays


def _plain(value: Any) -> np.ndarray:
    values = np.asarray(value)
    return values.astype(str) if values.dtype.kind in "SO" else values


def _array(dataset: Any, opened: Any, path: Path) -> Array:
    if dataset.attrs.get("MATLAB_class") in (b"char", "char"):  # letters as numbers
        letters = dataset[()] if dataset.size <= _LETTERS else np.empty(0, int)
        return in_memory(np.array(["".join(map(chr, np.ravel(letters, order="F")))]))
    if dataset.dtype.kind == "O" or dataset.dtype.kind == "S":
        values = dataset[()] if dataset.size <= _LETTERS else np.empty(0)
        return in_memory(np.array([_text(value, opened) for value in np.ravel(values)]))

    def part(which: slice, axis: int) -> Any:
        afford(2 * prod(dataset.chunks or ()) * dataset.dtype.itemsize, f"a piece of {dataset.name} in {path.name}")
        with RECORDING.damage(path):
            return dataset[(slice(None),) * axis + (which,)] if dataset.ndim else dataset[()]

    return Array(shape=dataset.shape, numeric=dataset.dtype.kind in "fiu", part=part)


def _text(value: Any, opened: Any) -> str:
    """A text, or what a reference of MATLAB's cells leads to."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    letters = opened[value]
    return "".join(map(chr, np.ravel(letters[()]))) if letters.size <= _LETTERS else ""
