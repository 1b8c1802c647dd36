"""WFDB records, as PhysioNet publishes them: a header in text and files of samples.

Each signal comes at its own rate: frames hold several samples of it where it is faster than the record. It reads
segments of a record one by one, since they may differ in gain, unit and channels.
"""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midguide.domains.ecg.formats.base import (
    RECORDING,
    RECORDINGS,
    Channel,
    Contents,
    File,
    RecordingFormat,
    Said,
    agreed_rate,
    millivolts,
)
from midguide.errors import ConfigError, DataError
from midguide.storage.outside import Outside, afford, plain_name

HEADER = Outside("header", "is the WFDB record complete?", limit=2**24)
ENDINGS = (".hea", ".dat", ".mat")
NOTHING = "~"
"""The name of a segment, or of a signal's file, where nothing was recorded."""
_BITS = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10.67, "311": 10.67}


@contextmanager
def using_wfdb() -> Iterator[Any]:
    """The library `wfdb`; what it does in the block gives no warnings (it uses what pandas has deprecated).

    Raises:
        ConfigError: If it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import wfdb
        except ImportError as error:
            raise ConfigError(
                "WFDB records are read by the library wfdb, which is not installed", hint="pip install 'midguide[ecg]'"
            ) from error
        yield wfdb


@RECORDINGS.register("wfdb", summary="WFDB records of PhysioNet: a header .hea and its files of samples")
class Wfdb(RecordingFormat):
    """A record by its name, its header, or a file of samples beside its header."""

    extensions = (".hea", ".dat")
    needs = "wfdb, in the extra `ecg`"
    order = 10
    home = "https://wfdb.io/spec/header-5.htm"

    def recognizes(self, file: File) -> bool:
        return _header_of(file.path) is not None

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The channels of a record.

        Raises:
            ConfigError: If the library is not installed.
            DataError: If the record is damaged, incomplete, or of another rate than is said.
        """
        header = _header_of(file.path)
        if header is None:
            raise DataError(f"{file.path} has no header .hea", hint="a record is a header and its files of samples")
        with using_wfdb() as wfdb, _staged(header) as place:
            with _damage(place, header):
                record = wfdb.rdheader(str(place), rd_segments=True)
                parts = _parts(record, place)
                names = _names(record, parts)
            rate = agreed_rate(file.path, float(record.fs), said.rate_hz)
            told = list(_remarks(parts, names, header))
            yield Contents(
                channels=tuple(Channel(name=name, unit=unit, per_frame=count) for name, (unit, count) in names.items()),
                frames=sum(part.frames for part in parts),
                frame_rate=rate,
                read=lambda rows, first, stop: _read(parts, names, rows, (first, stop), header, told),
                remarks=told,
                stated={f"comment {i}": text for i, text in enumerate(record.comments or (), 1)} | _stated(record),
            )


@dataclass(frozen=True)
class _Part:
    """A segment: its header, None where nothing was recorded, and its length in frames."""

    record: Any
    place: Path
    frames: int


def _header_of(path: Path) -> Path | None:
    """The header of a record that is called so."""
    stems = [path.name] if path.suffix.lower() not in ENDINGS else [path.stem, path.name]
    candidates = [path] if path.suffix.lower() == ".hea" else []
    candidates += [path.with_name(stem + ending) for stem in stems for ending in (".hea", ".HEA", ".Hea") if stem]
    return next((place for place in candidates if os.path.isfile(place)), None)  # of any name, also one too long


@contextmanager
def _damage(place: Path, header: Path) -> Iterator[None]:
    """Errors of the library, which raises ValueError, IndexError, TypeError and others, as one of ours."""
    try:
        with RECORDING.damage(header):
            yield
    except DataError as error:  # the library's text names where a copy lies
        message = error.message.replace(f"{place.parent}/", "")
        raise DataError(message, hint=error.hint) from error


@contextmanager
def _staged(header: Path) -> Iterator[Path]:
    """The record's path without an ending, such that the library finds what the header names.

    The library needs endings in small letters, and headers in ASCII: it drops other characters, so that µV becomes V
    and a long minus goes. Otherwise a folder of its own holds plain copies of the headers and links to the other files.
    """
    text = _text(header)
    for name in _files(text):
        plain_name(name, f"a file that {header} names,", error=DataError)
    plain = header.suffix == ".hea" and all(
        os.path.exists(header.parent / name) for name in _files(text) if "." in name
    )
    if plain and text.isascii() and all(_text(h).isascii() for h in _segments(header, text)):
        yield header.with_suffix("")
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / f"{header.stem}.hea"
        for other in (header, *_segments(header, text)):
            (place.parent / f"{other.stem}.hea").write_text(_ascii(_text(other)), encoding="ascii")
            for name in _files(_text(other)):
                found = _any_case(header.parent, name)
                if found is not None and not os.path.exists(place.parent / name):
                    (place.parent / name).symlink_to(found.resolve())
        yield place.with_suffix("")


def _text(header: Path) -> str:
    content = HEADER.read(header)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _ascii(text: str) -> str:
    for old, new in (
        ("\N{MICRO SIGN}", "u"),
        ("\N{GREEK SMALL LETTER MU}", "u"),
        ("\N{MINUS SIGN}", "-"),
        ("\N{EN DASH}", "-"),
    ):
        text = text.replace(old, new)
    return unicodedata.normalize("NFKD", text.replace("\N{OHM SIGN}", "Ohm")).encode("ascii", "ignore").decode()


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _files(text: str) -> list[str]:
    """The files that a header names, in its lines after the first."""
    return sorted({line.split()[0] for line in _lines(text)[1:]} - {NOTHING})


def _segments(header: Path, text: str) -> list[Path]:
    """The headers of the segments, where the record has any."""
    if not re.match(r"\S+/\d", (_lines(text) or [""])[0]):
        return []
    return [found for name in _files(text) if (found := _any_case(header.parent, f"{name}.hea")) is not None]


def _any_case(folder: Path, name: str) -> Path | None:
    """A file by its name, in whatever case its letters are."""
    if os.path.exists(folder / name):
        return folder / name
    return next((file for file in sorted(folder.iterdir()) if file.name.lower() == name.lower()), None)


def _parts(record: Any, place: Path) -> list[_Part]:
    """The segments of a record; the record itself where it has none."""
    if not hasattr(record, "seg_name"):
        return [_Part(record, place, _length(record, place))]
    found = [
        _Part(header, place.with_name(name), length)
        for name, length, header in zip(record.seg_name, record.seg_len, record.segments, strict=True)
        if length
    ]
    for part in found:
        if part.record is not None and part.record.fs != record.fs:
            raise ValueError(f"segment {part.place.name} has {part.record.fs:g} frames per second, not {record.fs:g}")
        if part.record is not None:
            _check_files(part.record, part.place, part.frames)
    return found


def _length(record: Any, place: Path) -> int:
    """Frames of a record without segments, also where its header does not say."""
    length = record.sig_len
    if length is None:
        bits = _bits(record, record.file_name[0])
        size = (place.parent / record.file_name[0]).stat().st_size - (record.byte_offset[0] or 0)
        length = int(8 * size / bits) if bits else 0
    _check_files(record, place, length)
    return length


def _bits(record: Any, file: str) -> float:
    """Bits of one frame in a file of samples; 0 where they are packed."""
    own = [i for i, name in enumerate(record.file_name) if name == file]
    return sum(_BITS.get(record.fmt[i], 0) * (record.samps_per_frame[i] or 1) for i in own)


def _check_files(record: Any, place: Path, frames: int) -> None:
    """Refuse files of samples that are missing, none, or shorter than the header says, before they are read."""
    for name in sorted(set(record.file_name or ()) - {NOTHING}):
        file = RECORDING.check(place.parent / name)
        offset = record.byte_offset[record.file_name.index(name)] or 0
        needed, there = frames * _bits(record, name) / 8 + offset, file.stat().st_size
        if there + 2 < needed:
            bits = _bits(record, name)
            raise ValueError(f"{name} ends after {int(8 * (there - offset) / bits)} of {frames} frames")


def _names(record: Any, parts: Sequence[_Part]) -> dict[str, tuple[str, int]]:
    """Unit and samples in a frame of each channel, by name, in their order."""
    layout = [record.segments[0]] if getattr(record, "layout", "") == "variable" else []
    found: dict[str, tuple[str, int]] = {}
    for header in (*(part.record for part in parts if part.record is not None), *layout):
        for i, name in enumerate(header.sig_name or ()):
            name = name or f"signal {i}"
            if name in found and header is parts[0].record:
                raise ValueError(f"it has two signals called {name}")
            unit, count = header.units[i] or "mV", header.samps_per_frame[i] or 1
            known = found.setdefault(name, ("mV" if millivolts(unit) else unit, count))
            if known != ("mV" if millivolts(unit) else unit, count) and header not in layout:
                raise ValueError(f"its segments differ in unit or rate of {name}")
    return found


def _remarks(parts: Sequence[_Part], names: dict[str, Any], header: Path) -> Iterator[str]:
    held = {name for part in parts if part.record is not None for name in _own(part)}
    if absent := [name for name in names if name not in held]:
        yield f"no segment of {header.name} holds {', '.join(absent)}"
    silent = {name: None for part in parts if part.record is not None for name in _uncalibrated(part)}
    if silent:
        yield f"{header.name} states no gain of {', '.join(silent)}: taken as 200 per mV"


def _own(part: _Part) -> list[str]:
    """The names of the signals of a segment."""
    return [name or f"signal {i}" for i, name in enumerate(part.record.sig_name or ())]


def _uncalibrated(part: _Part) -> list[str]:
    """Signals whose lines in the header state no gain, or 0, which means the same."""
    lines = _lines(_text(part.place.with_name(f"{part.place.name}.hea")))[1:]
    gains = [re.match(r"\s*\S+\s+\S+\s+([\d.eE+-]*)", line) for line in lines]
    return [
        name
        for name, gain in zip(_own(part), gains, strict=False)
        if not gain or not gain[1] or not re.search("[1-9]", gain[1])
    ]


def _stated(record: Any) -> dict[str, str]:
    known = {name: getattr(record, name, None) for name in ("base_date", "base_time")}
    return {name: str(value) for name, value in known.items() if value is not None}


def _read(
    parts: Sequence[_Part],
    names: dict[str, tuple[str, int]],
    rows: Sequence[int],
    frames: tuple[int, int],
    header: Path,
    told: list[str],
) -> list[np.ndarray]:
    """Values of some channels, millivolts where they are voltages, from one frame to before another."""
    (first, stop), wanted, begin = frames, [list(names)[row] for row in rows], 0
    afford(3 * 8 * (stop - first) * sum(names[name][1] for name in wanted), f"a part of {header.name}")
    out = {name: np.full((stop - first) * names[name][1], np.nan) for name in wanted}
    for part in parts:
        low, high = max(first, begin), min(stop, begin + part.frames)
        if part.record is not None and low < high:
            read = _read_part(part, wanted, (low - begin, high - begin), header, told)
            for name, values in read.items():
                count = names[name][1]
                if len(values) != (high - low) * count:
                    raise DataError(f"{header} ends before its header says, in {name}", hint="is it complete?")
                out[name][(low - first) * count : (high - first) * count] = values
        begin += part.frames
    return [out[name] for name in wanted]


def _read_part(
    part: _Part, wanted: list[str], frames: tuple[int, int], header: Path, told: list[str]
) -> dict[str, np.ndarray]:
    """Values of the channels that a segment has."""
    own, (first, stop) = _own(part), frames
    there = [name for name in wanted if name in own]
    if not there:
        return {}
    with using_wfdb() as wfdb, _damage(part.place, header):
        read = wfdb.rdrecord(
            str(part.place),
            sampfrom=first,
            sampto=None if part.record.sig_len is None else stop,  # without a length the library takes all or fails
            channels=[own.index(name) for name in there],
            physical=False,
            smooth_frames=False,
        )
        if frames == (0, part.frames) and (wrong := _wrong_sums(read, there)):
            told.append(f"the samples of {', '.join(wrong)} do not have the sum that {header.name} states: damaged?")
        values = read.dac(expanded=True)
    scales = [millivolts(unit or "mV") or 1.0 for unit in read.units]
    return {name: scale * value for name, scale, value in zip(there, scales, values, strict=True)}


def _wrong_sums(read: Any, names: list[str]) -> list[str]:
    """Signals whose samples do not add up to what the header states; 0 says nothing, nor does a skewed signal."""
    sums = [int(np.sum(samples, dtype=np.int64)) for samples in read.e_d_signal]
    known = zip(names, sums, read.checksum, read.skew, strict=True)
    return [name for name, found, stated, skew in known if stated and not skew and (found - stated) % 2**16]
