"""WFDB headers are checked before a signal is read: which files they name, and how long these must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midguide.errors import DataError
from midguide.storage.outside import GIB, MIB, Outside, afford, plain_name

HEADER = Outside("header", "is the WFDB record complete?", limit=16 * MIB)
SIGNALS = Outside("signal file", "is the WFDB record complete?", limit=16 * GIB)

_BITS = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 32 / 3, "311": 32 / 3}
"""Of a sample by format; those of compressed formats are not known."""
_BYTES = 24  # a sample takes while it is read: as integer, as float64, and once more in millivolts
_NO_SEGMENT = "~"


def check_header(record: Path, wfdb: Any, *, depth: int = 0) -> None:
    """Refuse a record whose header names files outside of its folder, or promises more than they hold.

    Args:
        record: without an ending.
        wfdb: the library.
        depth: how many headers led to this one; only one may.

    Raises:
        DataError: If it does, or a file is missing, damaged or no regular file.
    """
    path = record.with_name(record.name + ".hea")
    HEADER.read(path)
    with HEADER.damage(path):
        header = wfdb.rdheader(str(record))
        channels, length = int(header.n_sig or 0), int(header.sig_len or 0)
        segments = getattr(header, "seg_name", None)
    afford(
        _BYTES * channels * length, f"the recording {record}, {channels} signals of {length:,} samples by its header"
    )
    if segments is None:
        _check_files(record, header)
        return
    if depth:
        raise HEADER.damaged(path, "it is a segment that has segments")
    for name in {name for name in segments if name != _NO_SEGMENT}:
        check_header(record.with_name(_inside(name, path)), wfdb, depth=1)


def _check_files(record: Path, header: Any) -> None:
    """Refuse files that are shorter than the header says."""
    path = record.with_name(record.name + ".hea")
    needed: dict[str, float] = {}
    with HEADER.damage(path):
        frames = header.samps_per_frame or [1] * int(header.n_sig or 0)
        for name, form, count in zip(header.file_name or (), header.fmt or (), frames, strict=False):
            needed[name] = needed.get(name, 0.0) + _BITS.get(str(form), 0.0) / 8 * int(count or 1) * (
                header.sig_len or 0
            )
    for name, least in needed.items():
        if name == _NO_SEGMENT:
            continue
        file = SIGNALS.check(record.with_name(_inside(name, path)))
        if file.stat().st_size + 16 < least:
            raise HEADER.damaged(path, f"it promises {least:,.0f} bytes in {name}, which has {file.stat().st_size:,}")


def _inside(name: str, path: Path) -> str:
    """The name of a file beside the header."""
    return plain_name(str(name), f"a file that {path} names,", error=DataError)
