"""Kinds of recordings, and of other files, that are not read here: what such a file is, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from midguide.domains.ecg.formats.base import RECORDINGS, Contents, File, RecordingFormat, Said
from midguide.errors import DataError

_GENERAL = "ecgdatakit, which reads many clinical formats; then save it as .npz with `leads` and `rate_hz`"
KINDS: tuple[tuple[str, str, tuple[str, ...], tuple[bytes, ...], str], ...] = (
    ("dicom", "a DICOM file", (".dcm", ".dicom"), (), "pydicom, by its multiplex_array; then save it as .npz"),
    ("scp", "an SCP-ECG file", (".scp",), (), _GENERAL),
    ("ishne", "an ISHNE Holter file", (".ecg",), (b"ISHNE1.0", b"ANN  1.0"), _GENERAL),
    ("xml", "an XML file, perhaps of HL7 aECG, MUSE or Philips", (".xml",), (b"<?xml",), _GENERAL),
    ("json", "a JSON file", (".json",), (b"{",), "json.load; then save its values as .npz or .csv"),
    ("excel", "a workbook of Excel", (".xlsx", ".xls"), (), "a spreadsheet; save it as CSV"),
    ("matlab figure", "a figure of MATLAB", (".fig",), (), "MATLAB; save the arrays as .mat"),
    ("parquet", "a Parquet file", (".parquet",), (b"PAR1",), "pandas.read_parquet; write it with to_csv"),
    ("pickle", "a pickle, which may run code when it is read", (".pkl", ".pickle"), (), "the program that wrote it"),
    ("pdf", "a PDF, a picture of a recording", (".pdf",), (b"%PDF",), "no program here: get the numbers of it"),
    (
        "picture",
        "a picture of a recording",
        (".png", ".jpg", ".jpeg"),
        (b"\x89PNG", b"\xff\xd8\xff"),
        "no program here",
    ),
    ("gzip", "a packed file", (".gz", ".tgz"), (b"\x1f\x8b",), "gunzip or tar; name what is in it"),
    ("mfer", "an MFER file", (".mwf", ".mfer"), (), _GENERAL),
    ("gdf", "a GDF file", (".gdf",), (b"GDF ",), "mne.io.read_raw_gdf; then save it as .npz"),
)
"""Kind, what it is, endings, first bytes, and what reads it."""


@RECORDINGS.register("others", summary="known kinds that are not read here: says what the file is and what reads it")
class Others(RecordingFormat):
    """Always refused, in one line."""

    order = 90

    def recognizes(self, file: File) -> bool:
        return _kind(file) is not None

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """Nothing.

        Raises:
            DataError: Always.
        """
        _, what, _, _, reader = _kind(file) or KINDS[0]
        raise DataError(f"{file.path} is {what}: not read here", hint=f"it is read by {reader}")
        yield


def _kind(file: File) -> tuple[str, str, tuple[str, ...], tuple[bytes, ...], str] | None:
    if not os.path.isfile(file.path):
        return None
    if file.start[128:132] == b"DICM":
        return KINDS[0]
    by_start = next((kind for kind in KINDS if kind[3] and file.start.startswith(kind[3])), None)
    return by_start or next((kind for kind in KINDS if file.suffix in kind[2]), None)
