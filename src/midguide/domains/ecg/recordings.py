"""Electrocardiograms from files: WFDB records, CSV and NPY, in millivolts, with leads in any order.

A `Recording` holds what stands in the file. `nine_leads` brings it into the form of a prior (its leads, rate and
high-pass), and `check_complete` says what a recording lacks that is to be learned from or compared with.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midguide.domains.ecg.headers import check_header
from midguide.domains.ecg.leads import LIMB, MODELED, TWELVE, EcgFormat, lead_name, limb_leads
from midguide.errors import ConfigError, DataError, MidguideError
from midguide.storage.outside import GIB, MIB, Outside

_TABLE = Outside("table", "first a line of lead names, then one row per sample", limit=256 * MIB)
_ARRAY = Outside("array of numbers", "write it with numpy.save", limit=16 * GIB)

MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "v": 1e3}
"""By unit, in lower case."""

LARGEST_MV, SMALLEST_MV = 20.0, 0.02
"""Outside of which the largest amplitude of a recording tells of a wrong unit."""
FLAT_MV = 0.002
"""A lead that moves by less in a whole recording was not connected: two steps of the usual 1000 per mV."""
MOST_HZ = 20_000.0


@dataclass(frozen=True, eq=False)
class Recording:
    """One electrocardiogram.

    Args:
        name: of its file, for messages.
        signal: millivolts, float64, shape (leads, time); NaN where nothing was recorded.
        leads: usual names of the rows.
        rate_hz: samples per second.
    """

    name: str
    signal: Tensor
    leads: tuple[str, ...]
    rate_hz: float

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.signal.shape[1] / self.rate_hz


def load_recording(
    path: str | Path, *, rate_hz: float | None = None, unit: str | None = None, leads: Sequence[str] | None = None
) -> Recording:
    """Read a WFDB record, a CSV or a NumPy file.

    Args:
        path: a WFDB record (with or without `.hea` or `.dat`); a `.csv` or `.tsv` with a header of lead names, and
            perhaps a column `time` in seconds; a `.npy` of shape (leads, time).
        rate_hz: samples per second of a NumPy file, or of a CSV without a column of times; it may repeat what a file
            says, not contradict it.
        unit: of the numbers of a CSV or NumPy file: mV (the default), uV or V; WFDB headers name theirs.
        leads: rows of a NumPy file; by default nine are I, II, III, V1 to V6, and twelve are in the usual order.

    Raises:
        ConfigError: If there is no such unit, or one is given for a WFDB record.
        DataError: If there is no such file, or it is damaged, of an unknown rate or unit, of another rate, or with an
            unknown lead or one that stands twice, or with amplitudes that no heart has.

    Example:
        >>> load_recording("records100/00000/00001_lr").leads  # doctest: +SKIP
        ('I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6')
    """
    path, scale = _named(path), MILLIVOLTS.get((unit or "mV").lower())
    if scale is None:
        raise ConfigError(f"unknown unit `{unit}`", hint="mV, uV or V")
    if path.suffix.lower() in (".csv", ".tsv"):
        names, values, rate = _read_csv(path, rate_hz)
    elif path.suffix.lower() == ".npy":
        names, values, rate = _read_npy(path, rate_hz, leads)
    elif unit is not None:
        raise ConfigError(
            f"{path} is a WFDB record, whose header names its units; got the unit {unit}", hint="leave --unit out"
        )
    else:
        return _checked(path.with_suffix("").name, *_read_wfdb(path, rate_hz), in_header=True)
    return _checked(path.name, names, values * scale, rate)


def nine_leads(recording: Recording, form: EcgFormat) -> Tensor:
    """A recording in the leads, at the rate and after the high-pass of a prior.

    Limb leads are made to agree: at any time I and II by least squares from all limb leads there are, III = II - I; one
    that is alone stays as it is. Resampling is polyphase with mirrored ends; the high-pass is a Butterworth filter of
    order 5, run forwards and backwards.

    Args:
        recording: any leads at any rate that is not below the prior's.
        form: the form of the prior.

    Returns:
        Millivolts, float64, shape (9, time); NaN in leads that neither were recorded nor follow from others, and at
        times of gaps.

    Raises:
        DataError: If the rate is below the prior's.
    """
    if recording.rate_hz < form.rate_hz:
        raise DataError(
            f"{recording.name} has {recording.rate_hz:g} samples per second, the prior needs {form.rate_hz:g} or more",
            hint="is the rate right?",
        )
    nine = torch.full((len(MODELED), recording.signal.shape[1]), torch.nan, dtype=torch.float64)
    for name in MODELED:
        if name in recording.leads:
            nine[MODELED.index(name)] = recording.signal[recording.leads.index(name)]
    limb = [row for row, name in enumerate(recording.leads) if name in LIMB]
    known = recording.signal[limb].isfinite()
    for pattern in known.unique(dim=1).T if len(limb) >= 2 else ():
        rows, times = [row for row, there in zip(limb, pattern, strict=True) if there], (known.T == pattern).all(1)
        if len(rows) >= 2:
            nine[:2, times] = limb_leads(recording.signal[rows][:, times], [recording.leads[row] for row in rows])
            nine[2, times] = nine[1, times] - nine[0, times]
    return torch.from_numpy(_processed(nine.numpy(), recording.rate_hz, form))


def check_complete(recording: Recording, *, seconds: float | None = None, leads: Sequence[str] = TWELVE) -> None:
    """Refuse a recording that lacks something.

    Args:
        recording: what to check.
        seconds: the duration that it must have.
        leads: the leads that it must have.

    Raises:
        DataError: If a lead is missing, has gaps (NaN) or is flat, or the duration is another; names the first.
    """
    absent = [name for name in leads if name not in recording.leads]
    if absent:
        raise DataError(f"{recording.name} has no lead {', '.join(absent)}", hint="leads: " + ", ".join(leads))
    if seconds is not None and abs(recording.seconds - seconds) > 0.5 / recording.rate_hz:
        raise DataError(f"{recording.name} lasts {recording.seconds:g} s, not {seconds:g} s", hint="is it cut short?")
    for name, row in zip(recording.leads, recording.signal, strict=True):
        gaps = int(torch.isnan(row).sum())
        if gaps:
            raise DataError(f"{recording.name}: lead {name} has {gaps} missing values (NaN)", hint="leave it out")
        if is_flat(row):
            raise DataError(f"{recording.name}: lead {name} is flat", hint="leave the recording or the lead out")


def is_flat(lead: Tensor) -> bool:
    """Whether the values of a lead (mV, shape (time,), NaN where there is none) move by less than `FLAT_MV`."""
    known = lead[lead.isfinite()]
    return len(known) > 0 and float(known.max() - known.min()) < FLAT_MV


def resampled(signal: np.ndarray, rate_hz: float, new_rate_hz: float) -> np.ndarray:
    """A signal at another rate: polyphase filter, ends mirrored, shape (..., time) -> (..., new time)."""
    from scipy.signal import resample_poly

    factor = Fraction(new_rate_hz / rate_hz).limit_denominator(10_000)
    if factor == 1:
        return signal
    return np.asarray(resample_poly(signal, factor.numerator, factor.denominator, axis=-1, padtype="symmetric"))


def high_passed(signal: np.ndarray, rate_hz: float, cut_hz: float) -> np.ndarray:
    """Baseline wander removed without a phase shift, shape (..., time)."""
    from scipy.signal import sosfiltfilt

    if cut_hz == 0:
        return signal
    sections = _high_pass(rate_hz, cut_hz)
    return np.asarray(sosfiltfilt(sections, signal, axis=-1, padtype="even", padlen=signal.shape[-1] - 1))


def _processed(signal: np.ndarray, rate_hz: float, form: EcgFormat) -> np.ndarray:
    """Leads resampled and filtered; gaps are bridged for the filters and are gaps again afterwards."""
    gaps, times = np.isnan(signal), np.arange(signal.shape[1])
    bridged = np.where(gaps, 0.0, signal)
    for row in np.flatnonzero(gaps.any(1) & ~gaps.all(1)):
        known = ~gaps[row]
        bridged[row] = np.interp(times, times[known], signal[row, known])
    out = high_passed(resampled(bridged, rate_hz, form.rate_hz), form.rate_hz, form.high_pass_hz)
    nearest = np.rint(np.arange(out.shape[1]) * rate_hz / form.rate_hz).astype(int)
    return np.where(gaps[:, np.minimum(nearest, len(times) - 1)], np.nan, out)


@cache
def _high_pass(rate_hz: float, cut_hz: float) -> np.ndarray:
    """Second-order sections of the filter."""
    from scipy.signal import butter

    return np.asarray(butter(5, cut_hz, "highpass", fs=rate_hz, output="sos"))


def _checked(
    name: str, names: Sequence[str], signal: np.ndarray, rate_hz: float, *, in_header: bool = False
) -> Recording:
    """A recording with usual lead names and possible amplitudes; whether its header states gain and units."""
    correct = "correct the gain or the units in its header"
    try:
        leads = tuple(lead_name(text) for text in names)
    except MidguideError as error:
        raise DataError(f"{name}: {error.message}", hint=error.hint) from error
    if len(set(leads)) < len(leads):
        raise DataError(f"{name} has a lead twice: {', '.join(leads)}", hint="keep one column of each")
    if signal.shape[1] < 2 or not 1 <= rate_hz <= MOST_HZ:
        raise DataError(
            f"{name}: {signal.shape[1]} samples at {rate_hz:g} per second",
            hint="is it a recording, and the rate right?",
        )
    if np.isinf(signal).any():
        raise DataError(f"{name} holds infinite values", hint="write NaN where nothing was recorded")
    largest = float(np.nanmax(np.abs(signal))) if np.isfinite(signal).any() else 0.0
    if largest > LARGEST_MV:
        raise DataError(
            f"{name} reaches {largest:,.0f} mV, no heart does: its numbers are probably uV or ADC counts",
            hint=correct if in_header else "say --unit uV, or divide ADC counts by the gain",
        )
    if 0.0 < largest < SMALLEST_MV:
        raise DataError(
            f"{name} reaches {largest:.2g} mV only: its numbers are probably V",
            hint=correct if in_header else "say --unit V; or is it a recording?",
        )
    return Recording(name, torch.from_numpy(np.ascontiguousarray(signal, np.float64)), leads, float(rate_hz))


def _named(path: str | Path) -> Path:
    """The path of a recording; that of a folder is none."""
    path = Path(path)
    if path.is_dir() and not path.with_name(f"{path.resolve().name}.hea").is_file():
        raise DataError(f"recording {path} is a folder", hint="give the path of one recording in it")
    return path


def _read_wfdb(path: Path, rate_hz: float | None) -> tuple[Sequence[str], np.ndarray, float]:
    """Lead names, millivolts of shape (leads, time), rate."""
    record = path.with_suffix("") if path.suffix in (".hea", ".dat", ".mat") else path
    if not record.with_name(record.name + ".hea").is_file():
        raise DataError(
            f"there is no recording {path}", hint="a WFDB record has a .hea file; other kinds: .csv, .tsv, .npy"
        )
    try:
        with using_wfdb() as wfdb:
            check_header(record, wfdb)
            read = wfdb.rdrecord(str(record))
        signal, units, length = read.p_signal.T, read.units, read.sig_len
    except MidguideError:
        raise
    except Exception as error:  # wfdb raises ValueError, IndexError, TypeError and others on damage
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"the WFDB record {record} cannot be read: {reason}", hint="is it complete?") from error
    if signal.shape[1] != length:
        raise DataError(f"{record} has {signal.shape[1]} samples, its header says {length}", hint="is it complete?")
    if rate_hz is not None and not abs(rate_hz - read.fs) <= 0.01 * read.fs:
        raise DataError(
            f"the header of {record} says {read.fs:g} samples per second, not {rate_hz:g}", hint="leave --rate out"
        )
    unknown = [unit for unit in units if str(unit).lower() not in MILLIVOLTS]
    if unknown:
        raise DataError(f"{record} is in {unknown[0]!r}, not in mV, uV or V", hint="correct the units in its header")
    scales = np.array([MILLIVOLTS[unit.lower()] for unit in units])
    return read.sig_name, signal * scales[:, None], read.fs


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


def _read_csv(path: Path, rate_hz: float | None) -> tuple[Sequence[str], np.ndarray, float]:
    """Lead names, values of shape (leads, time), rate."""
    file = io.StringIO(_TABLE.text(path), newline="")
    try:
        header = file.readline()
        delimiter = next((mark for mark in "\t;" if mark in header), ",")
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
        columns = np.array([[float(cell) if cell.strip() else np.nan for cell in row] for row in rows]).T
    except (ValueError, StopIteration, csv.Error) as error:
        reason = "its rows have different lengths" if "inhomogeneous" in str(error) else error
        raise DataError(f"{path} is no table of numbers: {reason}", hint=_TABLE.hint) from error
    if columns.ndim != 2 or len(columns) != len(names):
        raise DataError(f"{path} has {len(names)} names and {len(columns)} columns", hint="name every column")
    if names[0].lower() not in ("time", "t", "seconds"):
        return names, columns, _known_rate(path, rate_hz)
    steps = np.diff(columns[0])
    even = len(steps) > 0 and bool((steps > 0).all()) and float(np.ptp(steps)) <= 0.1 * float(steps.mean())
    if not even and rate_hz is None:
        raise DataError(f"the times of {path} are not equally spaced", hint="in seconds; or give the rate with --rate")
    stated = 1 / float(steps.mean()) if even else None
    if stated and rate_hz is not None and not abs(rate_hz - stated) <= 0.01 * stated:
        raise DataError(
            f"the times of {path} are those of {stated:g} samples per second, not of {rate_hz:g}",
            hint="are they in seconds? Leave the rate out, or the times",
        )
    return names[1:], columns[1:], _known_rate(path, rate_hz if stated is None else stated)


def _read_npy(
    path: Path, rate_hz: float | None, leads: Sequence[str] | None
) -> tuple[Sequence[str], np.ndarray, float]:
    """Lead names, values of shape (leads, time), rate."""
    values = _ARRAY.array(path)
    names = leads or {len(MODELED): MODELED, len(TWELVE): TWELVE}.get(len(values) if values.ndim else 0, ())
    if values.ndim != 2 or len(values) != len(names) or values.dtype.kind not in "fiu":
        raise DataError(
            f"{path} has shape {values.shape}, expected (leads, time)",
            hint="nine or twelve leads in the usual order, or say which",
        )
    return names, values.astype(np.float64), _known_rate(path, rate_hz)


def _known_rate(path: Path, rate_hz: float | None) -> float:
    if rate_hz is None:
        raise DataError(f"the sampling rate of {path} is unknown", hint="give it in Hz, for example --rate 500")
    return rate_hz
