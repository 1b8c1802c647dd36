"""Tables of numbers in text: `.csv`, `.tsv`, `.txt`, with whatever lines in front, and exports of smart watches.

The numbers begin where lines of as many numbers as in the next ones follow each other. Of the lines in front, the last
with a name for each column names them, and one below may name their units. `Sample Rate,512 hertz`, `Lead,Lead I` and
`Unit,uV` are understood by their values, in any language; what the others state is handed on.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from midguide.domains.ecg.formats._arrays import in_memory, matrix
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
from midguide.domains.ecg.leads import signed_lead
from midguide.errors import DataError
from midguide.storage.outside import afford

T = TypeVar("T")
PROBED = 250
"""Lines in which the numbers must begin."""
_LINE = 128
"""Bytes that a line takes besides its letters."""
TIMES = {
    "time",
    "t",
    "seconds",
    "times",
    "timestamp",
    "elapsed time",
    "zeit",
    "temps",
    "tiempo",
    "tempo",
    "sec",
    "date",
}
COUNTS = {"", "sample", "samples", "sample number", "sample #", "index", "n", "nr", "#", "frame", "unnamed: 0"}
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "min": 60.0}
_RATE = re.compile(r"^([\d.,]+)\s*(hz|hertz|sps|samples? ?(/|per) ?s(ec(ond)?)?)\b", re.IGNORECASE)
_RATE_KEY = re.compile(r"\b(sampl\w*[ _-]*(rate|freq\w*)|fs|sfreq|messrate|abtastrate)\b", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"^(.*?)[\s_]*[\[(/]\s*([^\[\]()/]+?)\s*[\])]?$|^(.*)_(mv|uv|ms|s)$", re.IGNORECASE)
_CLOCK = re.compile(r"^\[?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_COMMA = re.compile(r"^[+-]?\d*,\d+(e[+-]?\d+)?$", re.IGNORECASE)


@RECORDINGS.register("table", summary="a table in text with names above its columns, or the export of a smart watch")
class Table(RecordingFormat):
    """Columns of numbers, or one; between them commas, semicolons, tabs or spaces; decimal points or commas."""

    extensions = (".csv", ".tsv", ".txt")
    order = 30

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The columns of the table.

        Raises:
            DataError: If it is not a table of numbers, or it does not say which leads its columns are.
        """
        content = RECORDING.read(file.path)
        lines = content.count(b"\n") + content.count(b"\r")
        afford(8 * len(content) + _LINE * lines, f"the table {file.path.name}")
        with RECORDING.damage(file.path):
            found = _taken_apart(_decoded(content), file.path)
        yield _contents(file.path, found, said)


@dataclass(frozen=True)
class _Parts:
    """Lines in front, in cells, and the columns of numbers below."""

    front: list[list[str]]
    columns: np.ndarray


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content[:4096]:
        raise ValueError("it is not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _taken_apart(text: str, path: Path) -> _Parts:
    lines = [line for line in text.splitlines() if line.strip()]
    probe = lines[: PROBED + 1]
    mark = _mark(probe[-1]) if probe else ","
    rows = [_cells(line, mark) for line in probe]
    start, width = len(rows), len(rows[-1]) if rows else 0
    while start and len(rows[start - 1]) == width and _numbers(rows[start - 1]) is not None:
        start -= 1
    front = [row for row in rows[:start] if any(row)]
    early = next((row for row in front if _numbers(row) is not None), None)
    if start == len(rows) or early is not None:
        raise _no_table(path, front, uneven=early is not None and len(early) != width)
    columns = _columns(lines[start:], mark, width, path)
    if mark == "," and width % 2 == 0 and _split_by_decimal_commas(front, lines[start : start + 1000], width):
        columns = _columns([_with_points(line) for line in lines[start:]], mark, width // 2, path)
    return _Parts(front, columns)


def _no_table(path: Path, front: Sequence[Sequence[str]], *, uneven: bool) -> DataError:
    bad = next((row for row in reversed(front) if _numbers(row) is None), [])
    why = "its rows have different lengths" if uneven else f"no columns of numbers follow {','.join(bad)[:60]!r}"
    return DataError(
        f"{path} is not a table of numbers: {why}", hint="first a line of lead names, then one row per sample"
    )


def _mark(line: str) -> str:
    """What stands between the columns; a comma where there is one column only, as in lines like `Lead,Lead I`."""
    words = line.split()
    if "\t" not in line and len(words) > 1 and _numbers(words) is not None:
        return " "
    return next((mark for mark in "\t;," if mark in line), " " if len(words) > 1 else ",")


def _cells(line: str, mark: str) -> list[str]:
    if mark == " ":
        return line.split()
    return [cell.strip().strip("'\"").strip() for cell in next(csv.reader([line.strip()], delimiter=mark))]


def _columns(lines: list[str], mark: str, width: int, path: Path) -> np.ndarray:
    """All numbers, shape (columns, rows)."""
    try:
        text = io.StringIO("\n".join(lines))
        found = np.loadtxt(text, delimiter=None if mark == " " else mark, ndmin=2, comments=None, quotechar='"')
        if found.shape[1] == width:
            return found.T
    except ValueError:  # empty cells, decimal commas, times of the clock
        pass
    out = np.empty((len(lines), width))
    for i, line in enumerate(lines):
        values = _numbers(cells := _cells(line, mark))
        if values is None or len(cells) != width:
            raise _no_table(path, [cells], uneven=len(cells) != width)
        out[i] = values
    return out.T


def _numbers(row: Sequence[str]) -> list[float] | None:
    values = [_number(cell) for cell in row]
    return None if None in values or not row else values  # type: ignore[return-value]


def _number(cell: str) -> float | None:
    """A number with a point or a comma, a time of the clock or the calendar in seconds, or NaN for an empty cell."""
    try:
        return float(cell)
    except ValueError:
        pass
    if cell in ("", "-"):  # as `rdsamp` writes what was not recorded
        return float("nan")
    if _COMMA.match(cell):
        return float(cell.replace(",", "."))
    if clock := _CLOCK.match(cell):
        return 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    try:
        return datetime.fromisoformat(cell).timestamp() if re.match(r"\d{4}-\d\d-\d\d", cell) else None
    except ValueError:
        return None


def _split_by_decimal_commas(front: Sequence[Sequence[str]], lines: Sequence[str], width: int) -> bool:
    """Whether every number was cut in two at its decimal comma: digits only, and half as many names as cells."""
    last = front[-1] if front else []
    one = width == 2 and _is_fact(last) and _fact(front, _lead_in) is not None
    if not (one or len(last) == width // 2):
        return False
    rows = [_cells(line, ",") for line in lines]
    return all(re.fullmatch(r"[+-]?\d*", row[k]) and row[k + 1].isdigit() for row in rows for k in range(0, width, 2))


def _with_points(line: str) -> str:
    cells = _cells(line, ",")
    return ",".join(f"{whole}.{part}" for whole, part in zip(cells[::2], cells[1::2], strict=True))


def _is_fact(row: Sequence[str]) -> bool:
    """Whether a line states one thing of the recording, `Lead,Lead I`, and does not name two columns, `time,I`."""
    if len(row) != 2 or row[0].lower() in TIMES | COUNTS or signed_lead(row[0]):
        return False
    return any(found(row) is not None for found in (_rate_in, _unit_in, _lead_in)) or not row[1]


def _rate_in(row: Sequence[str]) -> float | None:
    cells = [cell for cell in row[1:] if cell]
    for cell in cells[:1]:
        if found := _RATE.match(cell):
            return _number(found[1])
        if _RATE_KEY.search(row[0]):
            return _number(cell)
    return None


def _unit_in(row: Sequence[str]) -> str | None:
    return row[1] if len(row) == 2 and millivolts(row[1]) is not None else None


def _lead_in(row: Sequence[str]) -> str | None:
    """The lead in `Lead,Lead I`, in any language: the lead, or a word and the lead."""
    words = row[1].split() if len(row) == 2 else []
    found = (" ".join(words), words[-1] if len(words) == 2 else "")
    return next((text for text in found if signed_lead(text)), None)


def _fact(front: Sequence[Sequence[str]], find: Callable[[Sequence[str]], T | None]) -> T | None:
    """What the first line says that says anything of this kind."""
    return next((found for row in front if _is_fact(row) and (found := find(row)) is not None), None)


def _contents(path: Path, parts: _Parts, said: Said) -> Contents:
    width = len(parts.columns)
    above = [row for row in parts.front if len(row) == width and not (width == 2 and _is_fact(row))]
    units = above.pop() if len(above) > 1 and all(map(_is_unit, above[-1])) else [""] * width
    names = above[-1] if above else None
    facts = [row for row in parts.front if row is not names and row is not units]
    if names is None and any(len(row) > 1 and any(map(signed_lead, row)) and not _is_fact(row) for row in facts[-1:]):
        raise DataError(f"{path} has {len(facts[-1])} names and {width} columns", hint="name every column")
    unit, rate, stated = _fact(facts, _unit_in), _fact(facts, _rate_in), {row[0]: ",".join(row[1:]) for row in facts}
    if names is None and width == 1 and said.order is None and (lead := _fact(facts, _lead_in)):
        names = [lead]
    if names is None:
        found = matrix(path, in_memory(parts.columns), None, unit, said)
        return replace(found, frame_rate=agreed_rate(path, rate, said.rate_hz), stated=stated)
    labels = [_label(name, own) for name, own in zip(names, units, strict=True)]
    time = next((k for k, (name, _) in enumerate(labels) if name.lower() in TIMES), None)
    if time is not None:
        scale = _SECONDS.get((labels[time][1] or "s").lower(), 1.0)
        rate = _rate_of(path, scale * parts.columns[time], said.rate_hz if rate is None else rate)
    kept = [k for k, (name, _) in enumerate(labels) if k != time and name.lower() not in COUNTS]
    columns = parts.columns[kept]
    return Contents(
        channels=tuple(Channel(name=labels[k][0], unit=labels[k][1] or unit) for k in kept),
        frames=columns.shape[1],
        frame_rate=agreed_rate(path, rate, said.rate_hz),
        read=lambda rows, first, stop: [columns[row, first:stop] for row in rows],
        stated=stated,
    )


def _is_unit(text: str) -> bool:
    """Whether a cell can be that of a line of units: a unit, a pattern of the clock, or nothing."""
    plain = text.strip("[]() ").lower()
    return plain in {*_SECONDS, "", "nu", "adu", "-", "count", "counts"} or ":" in plain or bool(millivolts(plain))


def _label(name: str, unit: str) -> tuple[str, str | None]:
    """The name of a column and its unit, which may stand in brackets behind the name: `I (mV)`, `time_ms`."""
    found = _IN_BRACKETS.match(name)
    inside = (found[2] or found[4]) if found else ""
    if found and (millivolts(inside) or inside.lower() in _SECONDS):
        return (found[1] or found[3] or "").strip(), inside
    return name, (unit.strip("[]() ") or None) if ":" not in unit else None


def _rate_of(path: Path, times: np.ndarray, rate_hz: float | None) -> float | None:
    """Samples per second of a column of times in seconds."""
    steps = np.diff(times)
    even = len(steps) > 0 and bool((steps > 0).all()) and float(np.ptp(steps)) <= 0.1 * float(steps.mean())
    if not even and rate_hz is None:
        raise DataError(f"the times of {path} are not equally spaced", hint="in seconds; or give the rate with --rate")
    stated = 1 / float(steps.mean()) if even else None
    if stated and rate_hz is not None and not abs(rate_hz - stated) <= 0.01 * stated:
        raise DataError(
            f"the times of {path} are those of {stated:g} samples per second, not of {rate_hz:g}",
            hint="are they in seconds? Leave the rate out, or the times",
        )
    return rate_hz if stated is None else stated
