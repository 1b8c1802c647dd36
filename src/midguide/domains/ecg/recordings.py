"""Electrocardiograms from files of any format in `RECORDINGS`, in millivolts, with leads in any order.

A `Recording` holds what stands in the file, or a part of it. `nine_leads` brings it into the form of a prior (its
leads, rate and high-pass). `check_complete` says what a recording lacks for training or comparison. The module makes
limb leads agree only after measuring that they do, up to noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midguide.domains.ecg import limbs
from midguide.domains.ecg.channels import Chosen, choose
from midguide.domains.ecg.formats.base import Contents, Said, millivolts, opened
from midguide.domains.ecg.leads import LIMB, MODELED, TWELVE, EcgFormat, limb_leads, signed_lead
from midguide.domains.ecg.limbs import is_flat
from midguide.errors import ConfigError, DataError

LARGEST_MV, SMALLEST_MV = 20.0, 0.02
"""Outside of which the largest amplitude of a recording tells of a wrong unit."""
ROUNDING_MV = 0.01
"""What the relations of limb leads may be violated by without a word: two steps of a coarse converter."""
MOST_HZ = 20_000.0
EDGE_SECONDS = 30.0
"""Read on both sides of a part: after so long the filter of 0.6 Hz has forgotten where it began, to 1e-9 mV."""
FINEST = 10_000
"""Rates are brought to each other by fractions of whole numbers up to this."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which part of a recording is wanted.

    Args:
        start: seconds from its beginning.
        seconds: duration.
        rate_hz: of the prior that will see it. What is read begins where a sample of that rate lies.

    Example:
        >>> Part(start=20.0, seconds=2.56).start
        20.0
    """

    start: float
    seconds: float
    rate_hz: float = 100.0

    def frames(self, contents: Contents, frame_rate: float, per_frame: int) -> tuple[int, int]:
        """The frames to read, with the edges of the filter: the first, and that after the last."""
        step = _factor(frame_rate * per_frame, self.rate_hz).denominator
        step //= math.gcd(step, per_frame)
        first = max(math.floor((self.start - EDGE_SECONDS) * frame_rate), 0) // step * step
        stop = math.ceil((self.start + self.seconds + EDGE_SECONDS) * frame_rate)
        return min(first, contents.frames), min(stop, contents.frames)


@dataclass(frozen=True, eq=False)
class Recording:
    """One electrocardiogram, or a part of one.

    Args:
        name: of its file, for messages.
        signal: millivolts, float64, shape (leads, time); NaN where nothing was recorded.
        leads: usual names of the rows.
        rate_hz: samples per second.
        begins: seconds from the beginning of the file to the first sample.
        whole_seconds: duration of all that the file holds; by default that of `signal`.
        remarks: what was done with the file, and what of it was not used, one line each.
        stated: what else the file states, by key. It may name a person, so it is written nowhere.
    """

    name: str
    signal: Tensor
    leads: tuple[str, ...]
    rate_hz: float
    begins: float = 0.0
    whole_seconds: float | None = None
    remarks: tuple[str, ...] = ()
    stated: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration of the signal."""
        return self.signal.shape[1] / self.rate_hz

    @property
    def lasts(self) -> float:
        """Duration of all that the file holds."""
        return self.begins + self.seconds if self.whole_seconds is None else self.whole_seconds


def load_recording(
    path: str | Path,
    *,
    rate_hz: float | None = None,
    unit: str | None = None,
    leads: Sequence[str] | None = None,
    channels: Mapping[str, str] | None = None,
    variable: str | None = None,
    part: Part | None = None,
    form: str | None = None,
) -> Recording:
    """Read a recording: WFDB, EDF, a table in text, NumPy, MATLAB, HDF5, or a zip file with one of them.

    Args:
        path: of the file; a WFDB record also by its name, without an ending.
        rate_hz: samples per second of a file that does not say; it may repeat what a file says, not contradict it.
        unit: of the numbers of a file that does not say: mV (the default), uV or V.
        leads: leads of the rows or columns of a file that does not name them; `_` for a row without a lead. By default
            nine are I, II, III, V1 to V6, and twelve are in the usual order.
        channels: which channel is a lead, where its name does not say it or is not to be followed: `{"II": "MLII"}`;
            `"-NAME"` is the channel times -1, and an empty name sets the lead aside.
        variable: which array, in a file of several.
        part: what is wanted; by default all. Only that, and the edges that filters need, is read.
        form: the format of the file, a name of `RECORDINGS` or `FILE.py:NAME`; by default the one that recognizes it.

    Raises:
        ConfigError: If there is no such unit, lead or format, or the file names its channels and `leads` are given.
        DataError: If there is no such file, or it is damaged, of an unknown rate, of another rate or unit than is said,
            holds no lead or one twice, limb leads that contradict each other, or amplitudes that no heart has.

    Example:
        >>> load_recording("records100/00000/00001_lr").leads  # doctest: +SKIP
        ('I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6')
    """
    path = Path(path)
    if unit is not None and millivolts(unit) is None:
        raise ConfigError(f"unknown unit `{unit}`", hint="mV, uV or V")
    order = None if leads is None else _order(leads)
    with opened(path, Said(rate_hz=rate_hz, unit=unit, order=order, variable=variable), form) as contents:
        if order is not None and tuple(channel.name for channel in contents.channels) != order:
            own = ", ".join(channel.name for channel in contents.channels[:40])
            raise ConfigError(
                f"{path} names its channels: {own}", hint="channels, or --lead II=NAME, say which is what"
            )
        name = path.stem if path.suffix.lower() in (".hea", ".dat") else path.name
        chosen, told = choose(name, contents.channels, channels or {}, unit)
        return _read(path, name, contents, chosen, part, told, said=unit is not None)


def nine_leads(recording: Recording, form: EcgFormat) -> Tensor:
    """A recording in the leads, at the rate and after the high-pass of a prior.

    Limb leads that contradict each other are an error. Those that agree up to noise are made to agree. At any time I
    and II follow by least squares from all limb leads there are, and III = II - I. A single limb lead stays as it is.

    Resampling is polyphase with mirrored ends; the high-pass is a Butterworth filter of order 5, run both ways.

    Args:
        recording: any leads at any rate that is not below the prior's.
        form: the form of the prior.

    Returns:
        Millivolts, float64, shape (9, time), from the recording's first sample on; NaN in leads that neither were
        recorded nor follow from others, and at times of gaps.

    Raises:
        DataError: If the rate is below the prior's, or limb leads contradict each other.
    """
    if recording.rate_hz < form.rate_hz:
        raise DataError(
            f"{recording.name} has {recording.rate_hz:g} samples per second, the prior needs {form.rate_hz:g} or more",
            hint="is the rate right?",
        )
    if found := limbs.conflict(recording.signal, recording.leads, recording.rate_hz):
        raise limbs.refused(recording.name, found)
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


def resampled(signal: np.ndarray, rate_hz: float, new_rate_hz: float) -> np.ndarray:
    """A signal at another rate: polyphase filter, ends mirrored, shape (..., time) -> (..., new time)."""
    from scipy.signal import resample_poly

    factor = _factor(rate_hz, new_rate_hz)
    if factor == 1:
        return signal
    return np.asarray(resample_poly(signal, factor.numerator, factor.denominator, axis=-1, padtype="symmetric"))


def _factor(rate_hz: float, new_rate_hz: float) -> Fraction:
    return Fraction(new_rate_hz / rate_hz).limit_denominator(FINEST)


def high_passed(signal: np.ndarray, rate_hz: float, cut_hz: float) -> np.ndarray:
    """Baseline wander removed without a phase shift, shape (..., time)."""
    from scipy.signal import sosfiltfilt

    if cut_hz == 0:
        return signal
    sections = _high_pass(rate_hz, cut_hz)
    return np.asarray(sosfiltfilt(sections, signal, axis=-1, padtype="even", padlen=signal.shape[-1] - 1))


def _bridged(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leads with lines through their gaps, zero where there is nothing; and where the gaps were."""
    gaps, times = np.isnan(signal), np.arange(signal.shape[1])
    bridged = np.where(gaps, 0.0, signal)
    for row in np.flatnonzero(gaps.any(1) & ~gaps.all(1)):
        known = ~gaps[row]
        bridged[row] = np.interp(times, times[known], signal[row, known])
    return bridged, gaps


def _processed(signal: np.ndarray, rate_hz: float, form: EcgFormat) -> np.ndarray:
    """Leads resampled and filtered; gaps are bridged for the filters and are gaps again afterwards."""
    bridged, gaps = _bridged(signal)
    out = high_passed(resampled(bridged, rate_hz, form.rate_hz), form.rate_hz, form.high_pass_hz)
    nearest = np.rint(np.arange(out.shape[1]) * rate_hz / form.rate_hz).astype(int)
    return np.where(gaps[:, np.minimum(nearest, signal.shape[1] - 1)], np.nan, out)


@cache
def _high_pass(rate_hz: float, cut_hz: float) -> np.ndarray:
    """Second-order sections of the filter."""
    from scipy.signal import butter

    return np.asarray(butter(5, cut_hz, "highpass", fs=rate_hz, output="sos"))


def _order(leads: Sequence[str]) -> tuple[str, ...]:
    """Leads of rows, by their names in the file or the usual ones."""
    unknown = [text for text in leads if text.strip() != "_" and signed_lead(text) is None]
    if unknown:
        raise ConfigError(
            f"unknown lead `{unknown[0]}`", hint=f"leads: {', '.join(TWELVE)}; `_` for a row without a lead"
        )
    return tuple(text.strip() for text in leads)


def _read(
    path: Path,
    name: str,
    contents: Contents,
    chosen: Sequence[Chosen],
    part: Part | None,
    told: list[str],
    *,
    said: bool,
) -> Recording:
    """The leads that were chosen, checked, at one rate."""
    frame_rate, counts = contents.frame_rate, [contents.channels[found.place].per_frame for found in chosen]
    if frame_rate is None:
        raise DataError(f"the sampling rate of {path} is unknown", hint="give it in Hz, for example --rate 500")
    most = max(counts)
    rate = frame_rate * most
    if contents.frames * most < 2 or not 1 <= rate <= MOST_HZ:
        raise DataError(
            f"{name}: {contents.frames * most} samples at {rate:g} per second",
            hint="is it a recording, and the rate right?",
        )
    first, stop = (0, contents.frames) if part is None else part.frames(contents, frame_rate, most)
    if first >= stop:
        raise _ended(name, contents.frames / frame_rate, part)
    read = contents.read([found.place for found in chosen], first, stop)
    rows = [found.scale * np.asarray(values) for found, values in zip(chosen, read, strict=True)]
    if slower := [found.lead for found, count in zip(chosen, counts, strict=True) if count < most]:
        told = [*told, f"lead {', '.join(slower)} of a lower rate: brought to {rate:g} samples per second"]
    signal = np.stack([_at_rate(row, count, most) for row, count in zip(rows, counts, strict=True)])
    stated = all(contents.channels[found.place].unit for found in chosen)
    kept, amplitudes = _plausible(name, signal, [found.lead for found in chosen], in_header=stated and not said)
    recording = Recording(
        name,
        torch.from_numpy(np.ascontiguousarray(signal[kept], np.float64)),
        tuple(chosen[k].lead for k in kept),
        float(rate),
        begins=first / frame_rate,
        whole_seconds=contents.frames / frame_rate,
        remarks=(*contents.remarks, *told, *amplitudes),
        stated=contents.stated,
    )
    return _agreeing(recording, guessed=contents.rows)


def _ended(name: str, lasts: float, part: Part | None) -> DataError:
    wanted = f", the window begins at {part.start:g} s" if part else ""
    return DataError(f"{name} lasts {lasts:g} s{wanted}", hint="choose another --start")


def _agreeing(recording: Recording, *, guessed: bool) -> Recording:
    """A recording whose limb leads agree, without the one that contradicts the others; or the error that says why."""
    found = limbs.conflict(recording.signal, recording.leads, recording.rate_hz)
    if found is None:
        size = limbs.disagreement(recording.signal, recording.leads)
        told = f"limb leads disagree by up to {size:.2f} mV, as noise does: I and II are by least squares of all"
        return replace(recording, remarks=(*recording.remarks, told)) if size > ROUNDING_MV else recording
    if guessed and (order := limbs.order_of(recording.signal, recording.rate_hz)):
        raise DataError(
            f"the limb leads of {recording.name} contradict each other by up to {found.largest:.2f} mV in the usual "
            "order of rows; they agree in another one",
            hint=f"--order {','.join(order)}, if the chest leads are in that order",
        )
    if not found.lead or guessed and "upside down" not in found.how:
        raise limbs.refused(recording.name, found)
    kept = [i for i, lead in enumerate(recording.leads) if lead != found.lead]
    told = (
        f"lead {found.lead} contradicts the other limb leads by up to {found.largest:.2f} mV: it {found.how}; set aside"
    )
    return replace(
        recording,
        signal=recording.signal[kept],
        leads=tuple(recording.leads[i] for i in kept),
        remarks=(*recording.remarks, told),
    )


def _plausible(
    name: str, signal: np.ndarray, leads: Sequence[str], *, in_header: bool
) -> tuple[list[int], tuple[str, ...]]:
    """The rows that a heart can have made, and what to tell of the others."""
    correct = "correct the gain or the units in its header"
    if np.isinf(signal).any():
        raise DataError(f"{name} holds infinite values", hint="write NaN where nothing was recorded")
    sizes = [float(np.nanmax(np.abs(row))) if np.isfinite(row).any() else 0.0 for row in signal]
    kept = [k for k, size in enumerate(sizes) if size <= LARGEST_MV]
    if not any(sizes[k] > SMALLEST_MV for k in kept) and len(kept) < len(sizes):
        raise DataError(
            f"{name} reaches {max(sizes):,.0f} mV, no heart does: its numbers are probably uV or ADC counts",
            hint=correct if in_header else "say --unit uV, or divide ADC counts by the gain",
        )
    largest = max((sizes[k] for k in kept), default=0.0)
    if 0.0 < largest < SMALLEST_MV:
        raise DataError(
            f"{name} reaches {largest:.2g} mV only: its numbers are probably V",
            hint=correct if in_header else "say --unit V; or is it a recording?",
        )
    wrong = [
        f"lead {leads[k]} reaches {size:,.0f} mV, no heart does: set aside"
        for k, size in enumerate(sizes)
        if k not in kept
    ]
    return kept, tuple(wrong)


def _at_rate(row: np.ndarray, count: int, most: int) -> np.ndarray:
    """A lead of `count` samples in each frame as one of `most`; gaps stay gaps."""
    if count == most:
        return row
    bridged, gaps = _bridged(row[None])
    out = resampled(bridged, count, most)[0]
    nearest = np.minimum(np.rint(np.arange(len(out)) * count / most).astype(int), len(row) - 1)
    return np.where(gaps[0, nearest], np.nan, out)
