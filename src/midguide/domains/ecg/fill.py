"""Baselines for missing parts of electrocardiograms: what a posterior sampler must beat. Each gives one guess.

Zero is hard to beat in absolute error, since most of an ECG is near zero. Repeated beats are hard to beat where the
rhythm is regular. Linear regression is hard to beat where leads are missing: it is the lead reconstruction that
clinicians know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.errors import ShapeError

_PART = 256
"""Recordings that a regression takes in at a time."""

SHORTEST, LONGEST = 0.35, 1.6
"""Seconds between two beats that `repeat_beats` looks for."""


def zero_fill(y: Tensor, observed: Tensor) -> Tensor:
    """Baseline: hidden entries are zero. Shapes (B, leads, time) and boolean (leads, time); equal to y elsewhere."""
    return torch.where(observed, y, 0.0)


def repeat_beats(y: Tensor, observed: Tensor, rate_hz: float) -> Tensor:
    """Baseline for a missing block: what was measured goes on with its own period.

    The period maximizes the autocorrelation of the measured block, summed over the leads and divided by the number of
    overlapping samples. It lies between 0.35 and 1.6 s, or two thirds of the block if that is less.

    Args:
        y: signals, shape (B, leads, time); what stands in hidden entries is ignored.
        observed: the same block of all leads, boolean, shape (leads, time); it begins or ends the signal.
        rate_hz: samples per second.

    Returns:
        Shape of y, equal to it where it was measured.

    Raises:
        ShapeError: If the measured part is not a block at either end, or shorter than a beat can be.
    """
    known = observed[0]
    length, samples = int(known.sum()), known.numel()
    at_start = bool(known[:length].all())
    if not (bool((observed == known).all()) and (at_start or bool(known[samples - length :].all()))):
        raise ShapeError("repeating beats needs one measured block of all leads at the start or the end")
    least, most = round(SHORTEST * rate_hz), min(round(LONGEST * rate_hz), 2 * length // 3)
    if most < least:
        raise ShapeError(f"a measured block of {length / rate_hz:g} s is too short to hold two beats")
    # Backwards in time a block at the end is a block at the start.
    block = y[..., :length] if at_start else y[..., samples - length :].flip(-1)
    rows = [_continued(row, _period(row, least, most), samples) for row in block]
    filled = torch.stack(rows) if at_start else torch.stack(rows).flip(-1)
    return torch.where(observed, y, filled)


@dataclass(frozen=True, eq=False)
class LeadRidge:
    """Baseline for missing leads: each hidden lead is a linear combination of the measured leads around the same time.

    Args:
        measured: rows of the measured leads.
        weights: of measured leads and lags, shape (measured * (2 lags + 1), leads).
        lags: samples before and after.
    """

    measured: tuple[int, ...]
    weights: Tensor
    lags: int

    @classmethod
    def fit(cls, signals: Tensor, measured: tuple[int, ...], *, lags: int = 0, penalty: float = 1e-3) -> Self:
        """Least squares over all recordings and times, with `penalty` times the mean feature power as ridge.

        Args:
            signals: whole recordings of mean about zero, shape (N, leads, time).
            measured: rows of the leads that will be known.
            lags: samples before and after that count as well.
            penalty: relative to the mean power of a feature.
        """
        parts = (
            (_lagged(part[:, list(measured)], lags).transpose(1, 2).flatten(0, 1), part.transpose(1, 2).flatten(0, 1))
            for part in signals.split(_PART)
        )
        return cls(measured, _ridge(parts, penalty), lags)

    def __call__(self, y: Tensor) -> Tensor:
        """All leads, shape (B, leads, time); the measured ones as they are."""
        features = _lagged(y[:, list(self.measured)], self.lags)
        filled = torch.einsum("bft,fl->blt", features.double(), self.weights).to(y.dtype)
        filled[:, list(self.measured)] = y[:, list(self.measured)]
        return filled


@dataclass(frozen=True, eq=False)
class BlockRidge:
    """Baseline for any mask: each hidden entry is a linear combination of all measured ones.

    Args:
        observed: boolean, shape (leads, time).
        weights: shape (measured entries, hidden entries).
    """

    observed: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, signals: Tensor, observed: Tensor, *, penalty: float = 1e-2) -> Self:
        """Least squares over windows of mean about zero, shape (N, leads, time); `penalty` as for `LeadRidge`."""
        parts = ((part[:, observed], part[:, ~observed]) for part in signals.split(_PART))
        return cls(observed, _ridge(parts, penalty))

    def __call__(self, y: Tensor) -> Tensor:
        """Shape of y, (B, leads, time), equal to it where it was measured."""
        filled = y.clone()
        filled[:, ~self.observed] = (y[:, self.observed].double() @ self.weights).to(y.dtype)
        return filled


def _ridge(parts: Iterable[tuple[Tensor, Tensor]], penalty: float) -> Tensor:
    """`argmin_W |X W - Y|^2 + penalty p |W|^2` with p the mean squared norm of a column of X.

    X and Y come as some rows at a time: only sums over the rows are kept.
    """
    gram, moment = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for features, targets in parts:
        x = features.double()
        gram, moment = gram + x.T @ x, moment + x.T @ targets.double()
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    return torch.linalg.solve(gram, moment)


def _lagged(signals: Tensor, lags: int) -> Tensor:
    """Each signal beside its neighbors in time, zeros beyond the ends: (B, C, T) -> (B, C (2 lags + 1), T)."""
    padded = F.pad(signals, (lags, lags))
    return padded.unfold(2, signals.shape[2], 1).flatten(1, 2)


def _period(block: Tensor, least: int, most: int) -> int:
    """Lag of the largest autocorrelation, block of shape (leads, time)."""
    length = block.shape[1]
    centered = (block - block.mean(1, keepdim=True)).double()
    products = [
        (centered[:, lag:] * centered[:, : length - lag]).sum() / (length - lag) for lag in range(least, most + 1)
    ]
    return least + int(torch.stack(products).argmax())


def _continued(block: Tensor, period: int, samples: int) -> Tensor:
    """A block followed by copies of its last period."""
    length = block.shape[1]
    times = torch.arange(samples)
    beyond = length - period + (times - length) % period
    return block[:, torch.where(times < length, times, beyond)]
