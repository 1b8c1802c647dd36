"""Numbers of papers and reference runs, from `expected/*.csv` beside a study's file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from midguide.errors import DataError
from midguide.storage.outside import MIB, Outside

COLUMNS = ("experiment", "problem", "sampler", "metric", "value", "ci95", "source")

_NUMBERS = Outside("table of expected numbers", "columns as in experiments/expected", limit=64 * MIB)


@dataclass(frozen=True)
class Expected:
    """One number that a cell of a report is compared with; `ci95` is None where it is not known."""

    experiment: str
    problem: str
    sampler: str
    metric: str
    value: float
    ci95: float | None
    source: str


def load_expected(folder: str | Path, experiment: str) -> list[Expected]:
    """The numbers of one experiment from all CSV files of a folder; none where there is no such folder.

    Raises:
        DataError: If a file has other columns or a row that cannot be read.
    """
    found = []
    for path in sorted(Path(folder).glob("*.csv")):
        with _NUMBERS.damage(path):
            reader = csv.DictReader(io.StringIO(_NUMBERS.text(path)), strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(
                    f"{path} has the columns {reader.fieldnames}", hint=f"they must be {', '.join(COLUMNS)}"
                )
            for row in reader:
                try:
                    interval = float(row["ci95"]) if row["ci95"] else None
                    value = float(row["value"])
                except ValueError as error:
                    raise DataError(f"{path}, line {reader.line_num}: {error}") from error
                if row["experiment"] == experiment:
                    found.append(Expected(**{**row, "value": value, "ci95": interval}))
    return found
