"""PTB-XL in its official folder layout: index, folds, labels, and the recordings of a split.

    ptbxl_database.csv  scp_statements.csv  records100/*/NNNNN_lr.{hea,dat}  records500/*/NNNNN_hr.{hea,dat}

Folds 1 to 8 train, 9 validates, 10 tests; a column `split` (train, val, test) takes their place where `strat_fold` is
empty. A label is a statement that stands among `scp_codes`, whatever its likelihood: rhythm statements mostly carry 0.

Sizes of the folds: 17,418 / 2,183 / 2,198 in version 1.0.3 and 17,441 / 2,193 / 2,203 in 1.0.1 and before. A complete
release with other sizes is an error. The 17,403 / 2,183 / 2,203 of the MGPS paper (Table 12) mix versions. Its second
number is that of 1.0.3, its third that of 1.0.1. The first is 1.0.1's training folds less all 38 records that 1.0.3
dropped from any fold. No filter of one version gives them.

References: Wagner et al. 2020, "PTB-XL, a large publicly available electrocardiography dataset", Scientific Data 7.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from midguide.domains.ecg.formats.base import RECORDING
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.recordings import check_complete, load_recording, nine_leads
from midguide.errors import DataError, unknown
from midguide.storage.outside import GIB, Outside, afford

_TABLE = Outside(
    "table",
    "is it complete? download it again",
    limit=GIB,
    place="unzip PTB-XL and give the folder that holds ptbxl_database.csv; or download it again",
)
_LETTER, _ROW = 20, 512
"""Bytes that a letter and a row of a table take, as dictionaries."""

SPLITS = ("train", "val", "test")
SECONDS = 10.0
RELEASES = {21_799: (17_418, 2_183, 2_198), 21_837: (17_441, 2_193, 2_203)}
"""Records of a complete release -> records of its splits."""

DIAGNOSES = {"RBBB": "CRBBB", "LBBB": "CLBBB", "AF": "AFIB", "SB": "SBRAD"}
"""Class of the MGPS paper -> statement: complete bundle branch blocks, atrial fibrillation, sinus bradycardia."""

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""Normal, myocardial infarction, ST/T change, conduction disturbance, hypertrophy: those of `scp_statements.csv`."""

TARGETS = {"diagnoses": tuple(DIAGNOSES), "superclasses": SUPERCLASSES}
"""What a classifier can be asked for, and its classes."""


@dataclass(frozen=True)
class Entry:
    """One line of the index.

    Args:
        name: number of the record.
        split: train, val or test.
        files: record by rate, relative to the folder, without suffix.
        codes: its statements, or None where they are unknown.
        superclass: those of its statements, separated by semicolons; empty where there is none.
    """

    name: str
    split: str
    files: dict[int, str]
    codes: frozenset[str] | None
    superclass: str = ""


@dataclass(frozen=True)
class Split:
    """Recordings of one split, in the form of a prior.

    Args:
        entries: their lines of the index.
        signals: millivolts, float32, shape (N, 9, time).
        broken: what was left out: name -> why.
    """

    entries: tuple[Entry, ...]
    signals: Tensor
    broken: dict[str, str]


def read_index(folder: str | Path) -> tuple[Entry, ...]:
    """The index of a PTB-XL folder.

    Raises:
        DataError: If it is missing or damaged, names a record twice or no split, or a complete release has folds of
            other sizes than the official ones.
    """
    path = Path(folder) / "ptbxl_database.csv"
    rows = _rows(path)
    known = _superclasses(path.with_name("scp_statements.csv"))
    entries = tuple(_entry(row, path, known) for row in rows)
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if not entries or twice:
        raise DataError(f"{path} has {f'record {twice[0]} twice' if twice else 'no records'}", hint="download it again")
    counts = tuple(sum(entry.split == split for entry in entries) for split in SPLITS)
    official = RELEASES.get(len(entries), counts)
    if counts != official:
        raise DataError(
            f"{path} has {counts} records to train, validate and test, this release has {official}",
            hint="was strat_fold changed?",
        )
    return entries


def entries_of(folder: str | Path, split: str) -> tuple[Entry, ...]:
    """The lines of the index that belong to a split, in its order.

    Raises:
        ConfigError: If there is no such split.
        DataError: If the index is missing or damaged, see `read_index`.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return tuple(entry for entry in read_index(folder) if entry.split == split)


def content(folder: str | Path, entries: Sequence[Entry], *, rate: int = 100) -> str:
    """SHA-256 of the files of these records; one that is missing counts as empty."""
    whole = hashlib.sha256()
    for entry in entries:
        for suffix in (".hea", ".dat"):
            path = Path(folder) / f"{entry.files.get(rate, '')}{suffix}"
            whole.update(hashlib.sha256(RECORDING.read(path) if os.path.isfile(path) else b"").digest())
    return whole.hexdigest()


def load_split(
    folder: str | Path, split: str, form: EcgFormat, *, rate: int = 100, refuse_broken: bool = False
) -> Split:
    """All recordings of a split in the form of a prior.

    Args:
        folder: of the data set.
        split: train, val or test.
        form: leads, rate and high-pass.
        rate: which files to read: 100 or 500 samples per second.
        refuse_broken: stop at a broken recording instead of leaving it out.

    Raises:
        DataError: If the index is damaged, the split has no recording, or, with `refuse_broken`, one is broken.
    """
    entries, signals, broken = [], [], {}
    for entry in entries_of(folder, split):
        try:
            signals.append(load_entry(folder, entry, form, rate=rate).float())
            entries.append(entry)
        except DataError as error:
            if refuse_broken:
                raise
            broken[entry.name] = error.message
    if not signals:
        first = next(iter(broken.values()), "its index names none")
        raise DataError(f"{folder} has no whole recording to {split}: {first}", hint="see ptbxl_database.csv")
    return Split(tuple(entries), torch.stack(signals), broken)


def labels(entries: Sequence[Entry], targets: str = "diagnoses") -> Tensor:
    """Which of the classes of `TARGETS` each record has: boolean, shape (N, classes).

    Raises:
        ConfigError: If there are no such targets.
        DataError: If those of a record are unknown; leave such records out: see `is_labeled`.
    """
    if targets not in TARGETS:
        raise unknown("targets", targets, TARGETS)
    unlabeled = [entry.name for entry in entries if not is_labeled(entry, targets)]
    if unlabeled:
        raise DataError(
            f"the {targets} of record {unlabeled[0]} are unknown", hint="use records whose labels are known"
        )
    rows = []
    for entry in entries:
        if targets == "diagnoses":
            rows.append([code in (entry.codes or ()) for code in DIAGNOSES.values()])
        else:
            rows.append([name in entry.superclass.split(";") for name in SUPERCLASSES])
    return torch.tensor(rows, dtype=torch.bool).reshape(len(entries), len(TARGETS[targets]))


def is_labeled(entry: Entry, targets: str = "diagnoses") -> bool:
    """Whether the classes of a record are known: its statements, or for superclasses that it has any."""
    return entry.codes is not None if targets == "diagnoses" else bool(entry.superclass)


def load_entry(folder: str | Path, entry: Entry, form: EcgFormat, *, rate: int = 100) -> Tensor:
    """One record in the form of a prior: mV, float64, shape (9, time).

    Raises:
        DataError: If the record is broken, of another length or rate, or there is no file of this rate; names it.
    """
    if rate not in entry.files:
        known = ", ".join(map(str, entry.files)) or "none"
        raise DataError(f"record {entry.name} has no file of {rate} samples per second", hint=f"it has: {known}")
    recording = load_recording(Path(folder) / entry.files[rate])
    if recording.rate_hz != rate:
        raise DataError(f"record {entry.name} has {recording.rate_hz:g} samples per second, not {rate}")
    check_complete(recording, seconds=SECONDS)
    return nine_leads(recording, form)


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table of the release."""
    text = _TABLE.text(path)
    afford(_LETTER * len(text) + _ROW * text.count("\n"), f"the table {path}", error=_TABLE.error)
    with _TABLE.damage(path):
        return list(csv.DictReader(io.StringIO(text, newline="")))


def _superclasses(path: Path) -> dict[str, str]:
    """Diagnostic statement -> superclass, from `scp_statements.csv`; empty where there is no such file."""
    if not os.path.isfile(path):
        return {}
    rows = [row for row in _rows(path) if row.get("diagnostic_class")]
    return {next(iter(row.values())): row["diagnostic_class"] for row in rows}  # the first column has no name


def _entry(row: dict[str, str], path: Path, superclasses: Mapping[str, str]) -> Entry:
    """One line, whose empty cells are unknown."""
    name, text = row.get("ecg_id", ""), row.get("scp_codes") or ""
    try:
        # A dictionary as Python or JSON write it; numbers in it are likelihoods, which do not count here.
        codes = frozenset(map(str, dict(ast.literal_eval(text)))) if text else None
        fold = int(float(row["strat_fold"])) if row.get("strat_fold") else None
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{path}: record {name}: {error}", hint="download the index again") from error
    split = row.get("split") or "" if fold is None else "train" if fold <= 8 else "val" if fold == 9 else "test"
    if split not in SPLITS or (fold is not None and not 1 <= fold <= 10):
        raise DataError(
            f"{path}: record {name} is in no split", hint="strat_fold is 1 to 10, or split train, val, test"
        )
    files = {rate: row[key] for rate, key in ((100, "filename_lr"), (500, "filename_hr")) if row.get(key)}
    if outside := [name for name in files.values() if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise DataError(f"{path}: the file {outside[0]} lies outside of the folder", hint="download the index again")
    found = {superclasses[code] for code in codes or () if code in superclasses}
    own = row.get("superclass") or ";".join(each for each in SUPERCLASSES if each in found)
    return Entry(name, split, files, codes, own)
