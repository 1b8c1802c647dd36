"""Bands for averages of dependent draws, from the law of a single one.

The draws of one observation share it, so that a statistic of theirs is dependent in a way that nobody knows. Its mean
over them is a conditional mean, or an average of variables of one law: it lies below that law in convex order. Then

    P(mean >= ES) <= level,   ES = E[X | X >= q],   P(X >= q) = level

since the expected shortfall ES is monotone in convex order and bounds the quantile. So the two shortfalls of the law
make a band for the mean of any number of draws, however dependent they are. For a single draw the quantiles are the
band.

References: Shaked and Shanthikumar 2007, "Stochastic orders", Chapter 3; McNeil, Frey and Embrechts 2015, Section 8.4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy import special
from torch import Tensor


class Band(NamedTuple):
    """The values that a right answer has, but for a stated share; None where there is no limit."""

    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        """Whether a value lies in the band; NaN does not."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def widened(self, by: float) -> Band:
        """The band with `1 - by` to `1 + by` inside."""
        return Band(
            None if self.low is None else min(self.low, 1 - by), None if self.high is None else max(self.high, 1 + by)
        )


def chi_square_band(freedom: float, level: float, *, averaged: bool = True) -> Band:
    """Two-sided band for a chi-square variable over its degrees of freedom.

    Args:
        freedom: degrees of freedom, at least 1; need not be an integer.
        level: share outside the band.
        averaged: whether it is the mean over dependent draws, which has the shortfalls as its band.

    Example:
        >>> [round(limit, 2) for limit in chi_square_band(64, 0.01, averaged=False)]
        [0.6, 1.51]
    """
    half = level / 2
    low, high = 2 * special.gammaincinv(freedom / 2, half), 2 * special.gammainccinv(freedom / 2, half)
    if averaged:  # E[X; X < q] is the freedom times the probability that freedom + 2 gives
        low = freedom * special.gammainc(freedom / 2 + 1, low / 2) / half
        high = freedom * special.gammaincc(freedom / 2 + 1, high / 2) / half
    return Band(float(low) / freedom, float(high) / freedom)


def normal_limit(level: float, *, averaged: bool = True) -> float:
    """How far a standard normal variable, or a mean of dependent ones, gets from zero, but for a share of `level`."""
    z = float(-special.ndtri(level / 2))
    return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) / (level / 2) if averaged else z


def student_limit(freedom: float, level: float) -> float:
    """How far a variable of Student's law gets from zero, but for a share of `level`."""
    return float(-special.stdtrit(freedom, level / 2))


def upper_limit(values: Tensor, level: float, *, averaged: bool = False) -> float:
    """What a further value of the law of these, shape (n,), exceeds with a chance of at most `level`.

    Without a shortfall this is exact for exchangeable values: the `k` largest of n are exceeded with the chance
    `k / (n + 1)`. The shortfall is that of the empirical law.

    Args:
        values: independent draws of the law.
        level: the chance; infinite limits are given where n is too small for it.
        averaged: whether it is for a mean over dependent draws.
    """
    ordered = values.double().sort(descending=True).values
    k = int(level * (len(ordered) + 1) + 1e-9)
    if k < 1:
        return math.inf
    return float(ordered[:k].mean() if averaged else ordered[k - 1])


def quantile_band(values: Tensor, level: float) -> Band:
    """Two-sided band for the mean over dependent draws, from independent draws of the law, shape (n,): shortfalls."""
    return Band(-upper_limit(-values, level / 2, averaged=True), upper_limit(values, level / 2, averaged=True))


def sampled_spread_band(variances: Tensor, draws: float, level: float) -> Band:
    """Band for a total variance as n normal draws estimate it, over its true value.

    `sum_j l_j chi2_{n-1}` over its mean is nearly a chi-square with `(n - 1) (sum l)^2 / sum l^2` degrees of freedom
    (Satterthwaite 1946).

    Args:
        variances: the l_j, not negative, shape (m,).
        draws: n, of independent draws.
        level: share outside the band.
    """
    share = variances.double().sum().square() / variances.double().square().sum().clamp_min(torch.finfo().tiny)
    return chi_square_band(max(float(share) * (draws - 1), 1.0), level, averaged=False)
