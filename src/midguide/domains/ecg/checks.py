"""Whether draws of a prior of electrocardiograms look like recordings: power by frequency, amplitudes by quantile.

Two numbers for each lead and band or level. They compare laws of single values and of pairs in time, nothing more.
Draws that pass may still have impossible beats, so a picture of them belongs beside the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.domains.ecg.leads import MODELED
from midguide.errors import ShapeError

BANDS_HZ = ((0.6, 4.0), (4.0, 10.0), (10.0, 20.0), (20.0, 40.0))
"""Waves P and T, then the QRS complex, then its edges and muscle noise; below lies what the high-pass removes."""

LEVELS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)

POWER_DB, AMPLITUDE = 3.0, 0.25
"""Tolerances: a factor of two in power; a quarter of the quantile or of the lead's standard deviation."""


@dataclass(frozen=True)
class Likeness:
    """How draws differ from recordings.

    Args:
        power_db: power of the draws over that of the recordings in decibels, shape (leads, bands).
        amplitude: quantile of the draws minus that of the recordings, over the larger of that and the lead's standard
            deviation, shape (leads, levels).
    """

    power_db: Tensor
    amplitude: Tensor

    @property
    def agrees(self) -> bool:
        """Whether all are within `POWER_DB` and `AMPLITUDE`."""
        return float(self.power_db.abs().max()) <= POWER_DB and float(self.amplitude.abs().max()) <= AMPLITUDE


def likeness(draws: Tensor, recordings: Tensor, rate_hz: float) -> Likeness:
    """Compare draws with recordings, lead by lead.

    Args:
        draws: mV, shape (n, 9, time).
        recordings: windows of as many samples, mV, shape (N, 9, time).
        rate_hz: samples per second.

    Raises:
        ShapeError: If they are not nine leads of one length.
    """
    for signals in (draws, recordings):
        if signals.ndim != 3 or signals.shape[1:] != (len(MODELED), recordings.shape[-1]):
            raise ShapeError(f"expected two sets of shape (n, 9, {recordings.shape[-1]}), got {tuple(signals.shape)}")
    power = [band_power(signals, rate_hz) for signals in (draws, recordings)]
    ours, theirs = (amplitude_quantiles(signals) for signals in (draws, recordings))
    spread = recordings.double().transpose(0, 1).flatten(1).std(1)
    scale = torch.maximum(theirs.abs(), spread[:, None])
    return Likeness(10 * torch.log10(power[0] / power[1]), (ours - theirs) / scale)


def band_power(signals: Tensor, rate_hz: float) -> Tensor:
    """Mean power in `BANDS_HZ` of signals under a Hann window, shape (n, leads, time) -> (leads, bands), float64."""
    length = signals.shape[-1]
    window = torch.hann_window(length, dtype=torch.float64, device=signals.device)
    centered = signals.double() - signals.double().mean(-1, keepdim=True)
    power = torch.fft.rfft(centered * window).abs().square().mean(0) / window.square().sum()
    frequencies = torch.fft.rfftfreq(length, 1 / rate_hz, device=signals.device)
    inside = [(frequencies >= low) & (frequencies < high) for low, high in BANDS_HZ]
    return torch.stack([power[:, band].sum(1) for band in inside], dim=1)


def amplitude_quantiles(signals: Tensor) -> Tensor:
    """The quantiles `LEVELS` of all values of a lead, shape (n, leads, time) -> (leads, levels), float64."""
    values = signals.double().transpose(0, 1).flatten(1).sort(dim=1).values
    places = (torch.tensor(LEVELS, dtype=torch.float64) * (values.shape[1] - 1)).round().long()
    return values[:, places.to(values.device)]
