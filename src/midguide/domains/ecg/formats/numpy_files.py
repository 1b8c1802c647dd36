"""Arrays of NumPy: `.npy` with one recording, `.npz` with named arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod

import numpy as np

from midguide.domains.ecg.formats._arrays import in_memory, matrix, of_arrays
from midguide.domains.ecg.formats.base import RECORDING, RECORDINGS, Contents, File, RecordingFormat, Said
from midguide.storage.outside import array_header, arrays_of


@RECORDINGS.register("npy", summary="an array of NumPy, of shape (leads, time)")
class Npy(RecordingFormat):
    """One array, of which the part that is wanted is read."""

    extensions = (".npy",)
    home = "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The rows of the array.

        Raises:
            DataError: If it is damaged, holds no numbers, or has another shape.
        """
        with RECORDING.open(file.path) as opened:
            shape, by_columns, dtype = array_header(opened, file.path.stat().st_size)
            start = opened.tell()
        order = "F" if by_columns else "C"
        values = np.memmap(file.path, dtype, "r", start, shape, order) if prod(shape) else np.empty(shape, dtype)
        yield replace(matrix(file.path, in_memory(values), None, None, said), frame_rate=said.rate_hz)


@RECORDINGS.register("npz", summary="arrays of NumPy by name: the signals, perhaps `leads`, `rate_hz` and `unit`")
class Npz(RecordingFormat):
    """Named arrays; those that say something of the signals are used, the others are named."""

    extensions = (".npz",)
    home = "https://numpy.org/doc/stable/reference/generated/numpy.savez.html"

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The array of the signals.

        Raises:
            DataError: If the file is damaged, or no array, or several, can be the signals.
        """
        found = arrays_of(RECORDING, file.path)
        yield of_arrays(file.path, {name: in_memory(values) for name, values in found.items()}, said)
