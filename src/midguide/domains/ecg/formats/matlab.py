"""MATLAB files: up to version 7 by SciPy, version 7.3 as the HDF5 that it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from midguide.domains.ecg.formats._arrays import Array, in_memory, of_arrays
from midguide.domains.ecg.formats._matlab_elements import needed
from midguide.domains.ecg.formats.base import RECORDING, RECORDINGS, Contents, File, RecordingFormat, Said
from midguide.domains.ecg.formats.hdf5 import MAGIC
from midguide.storage.outside import afford


@RECORDINGS.register("matlab", summary="a MATLAB file: arrays by name, also in structures; 7.3 is read as HDF5")
class Matlab(RecordingFormat):
    """Arrays by name. A file beside a header of the same name is a WFDB record."""

    extensions = (".mat",)
    order = 30
    home = "https://www.mathworks.com/help/matlab/import_export/mat-file-versions.html"

    def recognizes(self, file: File) -> bool:
        return file.suffix == ".mat" and os.path.exists(file.path) and MAGIC not in file.start

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The array of the signals.

        Raises:
            DataError: If the file is damaged, or no array, or several, can be the signals.
        """
        from scipy.io import loadmat
        from scipy.io.matlab import matfile_version

        path = file.path
        with RECORDING.open(path) as opened:
            first = matfile_version(opened)[0] == 0
            opened.seek(0)
            afford(needed(opened, path.stat().st_size, first=first), f"the file {path.name}")
            opened.seek(0)
            found = loadmat(opened, squeeze_me=False, chars_as_strings=True, struct_as_record=True)
        arrays: dict[str, Array] = {}
        for name, value in found.items():
            if not name.startswith("__"):
                _add(arrays, name, np.asarray(value))
        yield of_arrays(path, arrays, said)


def _add(arrays: dict[str, Array], name: str, value: np.ndarray, depth: int = 0) -> None:
    """An array, or the fields of a structure, by names with points."""
    if value.dtype.names and value.size == 1 and depth < 3:
        for field in value.dtype.names:
            _add(arrays, f"{name}.{field}", np.asarray(_inner(value[field])), depth + 1)
    else:
        arrays[name] = in_memory(value)


def _inner(field: np.ndarray) -> Any:
    return field.item() if field.dtype == object and field.size == 1 else field
