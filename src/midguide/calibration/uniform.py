"""Whether ranks are uniform: the empirical distribution function with bands that hold at all points together.

The band at level `1 - alpha` contains, with that probability, the whole distribution function of N uniform ranks at K
points. Each side of the band misses with the same probability `gamma / 2` at every point. Gamma follows from the exact
probability that a multinomial path stays inside. The p-value is one minus the level of the narrowest band that still
contains the path. So a path leaves the band at `alpha` exactly where p is below alpha.

References: Säilynoja, Bürkner and Vehtari 2022, "Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison", Sections 2 and 3; Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from midguide.errors import DataError, NumericalError

Array = NDArray[np.float64]

RESOLVED = 1e-9
"""Smallest p-value that is computed exactly; below it stands an upper bound."""


class Band(NamedTuple):
    """Points in (0, 1), and the least and the greatest share of ranks at or below each, shape (K,)."""

    points: Array
    low: Array
    high: Array


def points_for(draws: int, most: int = 100) -> int:
    """How many points resolve ranks among so many draws: K with K + 1 a divisor of `draws + 1`, at most `most`.

    Ranks are then counted whole: how ties and the place within a rank were drawn does not matter.
    """
    cells = draws + 1
    return max((d for d in range(2, min(cells, most + 1) + 1) if cells % d == 0), default=2) - 1


def uniformity(ranks: Sequence[float] | Array, points: int) -> float:
    """The p-value of ranks as draws of the uniform distribution; below `RESOLVED` it is an upper bound.

    Args:
        ranks: in [0, 1], shape (N,).
        points: K, where the distribution function is looked at; see `points_for`.

    Raises:
        NumericalError: If a rank is NaN or outside [0, 1].
        DataError: If there is none.

    Example:
        >>> round(uniformity([0.1, 0.3, 0.5, 0.7, 0.9], 3), 2)
        1.0
        >>> uniformity([0.01] * 40 + [0.02], 9) < 1e-9
        True
    """
    u = checked(ranks)
    counts = _counts(u, points)
    z = _points(points)
    tails = np.minimum(stats.binom.cdf(counts, len(u), z), stats.binom.sf(counts - 1, len(u), z))
    gamma = 2 * float(tails.min())
    if gamma >= 1:
        return 1.0
    p = 1 - _stays(*_limits(gamma * (1 + 1e-9), len(u), z), len(u))  # a path as extreme as this one is outside
    return p if p > RESOLVED else min(1.0, points * gamma)


def band(n: int, points: int, level: float = 0.95) -> Band:
    """The simultaneous band for the distribution function of n uniform ranks at K points.

    Example:
        >>> bool((band(100, 9).high - band(100, 9).low < 0.4).all())
        True
    """
    z, low, high = _points(points), 0.0, 1.0
    for _ in range(40):
        gamma = (low + high) / 2
        inside = _stays(*_limits(gamma, n, z), n) >= level
        low, high = (gamma, high) if inside else (low, gamma)
    least, most = _limits(low, n, z)
    return Band(z, least / n, most / n)


def share_below(ranks: Sequence[float] | Array, points: int) -> Array:
    """The share of ranks at or below each of K points, shape (K,)."""
    u = checked(ranks)
    return _counts(u, points) / len(u)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values to compare with one level for the whole family (Holm's step-down rule).

    Example:
        >>> holm([0.01, 0.04, 0.5])
        [0.03, 0.08, 0.5]
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = least
    return adjusted


def checked(ranks: Sequence[float] | Array) -> Array:
    """Ranks as an array.

    Raises:
        NumericalError: If a rank is NaN or outside [0, 1].
        DataError: If there is none.
    """
    u = np.asarray(ranks, dtype=np.float64)
    if u.ndim != 1 or not len(u):
        raise DataError(f"ranks are a list of numbers, got the shape {u.shape}", hint="one rank for each problem")
    if np.isnan(u).any():
        raise NumericalError(f"{int(np.isnan(u).sum())} of {len(u)} ranks are NaN", hint="look at the test quantity")
    if u.min() < 0 or u.max() > 1:
        hint = "divide ranks among L draws by L + 1, or take `uniform_rank`"
        raise NumericalError(f"ranks are between 0 and 1, got {u.min():g} to {u.max():g}", hint=hint)
    return u


def _points(points: int) -> Array:
    return np.arange(1, points + 1) / (points + 1)


def _counts(u: Array, points: int) -> NDArray[np.int64]:
    cells = np.minimum((u * (points + 1)).astype(np.int64), points)
    return np.cumsum(np.bincount(cells, minlength=points + 1))[:points]


def _limits(gamma: float, n: int, z: Array) -> tuple[Array, Array]:
    """The least and greatest counts whose tails are not below `gamma / 2`."""
    return stats.binom.ppf(gamma / 2, n, z), stats.binom.isf(gamma / 2, n, z)


def _stays(low: Array, high: Array, n: int) -> float:
    """The probability that the counts of n uniform ranks lie within these limits at all points.

    The counts are those of a Poisson process given its total: each stretch adds a Poisson number to the path.
    """
    stretch = n / (len(low) + 1)
    steps = np.exp(stats.poisson.logpmf(np.arange(n + 1), stretch))
    path = np.ones(1)  # probabilities of the counts from `first` on
    first = 0
    for least, most in zip(low.astype(int), high.astype(int), strict=True):
        added = np.convolve(path, steps[: max(most - first, 0) + 1])
        path, first = added[max(least - first, 0) : max(most - first, -1) + 1], max(least, first)
        if not len(path):
            return 0.0
    rest = n - first - np.arange(len(path))
    ends = float((path[rest >= 0] * steps[rest[rest >= 0]]).sum())
    return min(1.0, ends / math.exp(stats.poisson.logpmf(n, n)))
