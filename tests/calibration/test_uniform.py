"""Uniformity of ranks: exact by enumeration, p-values with their level, bands that say the same."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from midguide.calibration import band, holm, points_for, share_below, uniformity
from midguide.errors import DataError, NumericalError


def cells_of(counts: tuple[int, ...]) -> list[float]:
    """Ranks in the middle of their cells."""
    return [(cell + 0.5) / len(counts) for cell, count in enumerate(counts) for _ in range(count)]


def least_tail(counts: tuple[int, ...]) -> float:
    """The statistic of Säilynoja et al.: the least binomial tail of the cumulative counts."""
    n, cells = sum(counts), len(counts)
    path = np.cumsum(counts)[:-1]
    z = np.arange(1, cells) / cells
    return min(np.minimum(stats.binom.cdf(path, n, z), stats.binom.sf(path - 1, n, z)))


@pytest.mark.parametrize(("n", "cells"), [(4, 3), (5, 4), (6, 2)])
def test_p_values_are_those_of_all_outcomes_counted(n: int, cells: int) -> None:
    """Every way to put n ranks into cells, with its multinomial probability; no tolerance but rounding."""
    outcomes = [c for c in product(range(n + 1), repeat=cells) if sum(c) == n]
    chance = [stats.multinomial.pmf(c, n, [1 / cells] * cells) for c in outcomes]
    tails = [least_tail(c) for c in outcomes]
    for counts, tail in zip(outcomes, tails, strict=True):
        want = sum(p for p, other in zip(chance, tails, strict=True) if other <= tail * (1 + 1e-7))
        assert uniformity(cells_of(counts), cells - 1) == pytest.approx(min(want, 1), rel=1e-9)


def test_a_p_value_below_any_level_is_as_rare_as_the_level() -> None:
    """2,000 sets of 100 ranks among 31: shares at most four standard errors above their level (false alarm 3e-5)."""
    rng = np.random.default_rng(1)
    p = np.array([uniformity((rng.integers(0, 32, 100) + 0.5) / 32, 31) for _ in range(2000)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() < level + 4 * np.sqrt(level * (1 - level) / 2000)
    assert (p <= 0.05).mean() > 0.02  # nor is the test empty


def test_ranks_leave_the_band_where_their_p_value_is_below_its_level() -> None:
    rng = np.random.default_rng(2)
    found = band(60, 7, level=0.8)
    for _ in range(300):
        u = (rng.integers(0, 8, 60) + 0.5) / 8
        share = share_below(u, 7)
        outside = bool(((share < found.low - 1e-12) | (share > found.high + 1e-12)).any())
        assert outside == (uniformity(u, 7) < 0.2)


def test_the_band_holds_at_all_points_together_by_simulation() -> None:
    """4,000 sets: the share outside is within four standard errors of at most 5 %, and not below 2 %."""
    rng, found = np.random.default_rng(3), band(200, 31)
    outside = 0
    for _ in range(4000):
        share = share_below((rng.integers(0, 32, 200) + 0.5) / 32, 31)
        outside += bool(((share < found.low - 1e-12) | (share > found.high + 1e-12)).any())
    assert 0.02 < outside / 4000 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_tiny_p_values_are_bounds_above_the_exact_one() -> None:
    """All 30 ranks in the first of 4 cells: the exact p-value is 2 / 4^30, and what is given is at least that."""
    p = uniformity([0.1] * 29 + [0.11], 3)
    assert 2 * 0.25**30 <= p < 1e-15


def test_points_divide_the_ranks_evenly() -> None:
    assert [points_for(draws) for draws in (31, 9, 99, 1, 1000)] == [31, 9, 99, 1, 90]
    assert 1001 % (points_for(1000) + 1) == 0
    assert points_for(12) == 12  # 13 is prime


def test_holm_rejects_no_more_than_bonferroni_would_and_keeps_the_order() -> None:
    p = [0.2, 0.001, 0.04, 0.012]
    adjusted = holm(p)
    assert adjusted == pytest.approx([0.2, 0.004, 0.08, 0.036])
    assert np.argsort(adjusted).tolist() == np.argsort(p).tolist()


def test_holm_keeps_the_level_for_the_family() -> None:
    """2,000 families of ten uniform p-values: at least one below 5 % in at most 5 % and four standard errors."""
    rng = np.random.default_rng(4)
    hits = np.mean([min(holm(list(rng.uniform(size=10)))) <= 0.05 for _ in range(2000)])
    assert hits < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("ranks", "error", "words"),
    [
        ([0.1, float("nan"), 0.3], NumericalError, "1 of 3 ranks are NaN"),
        ([0.0, 5.0, 31.0], NumericalError, "between 0 and 1, got 0 to 31"),
        ([], DataError, "ranks are a list of numbers"),
    ],
)
def test_ranks_that_are_none_are_one_line(ranks: list[float], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        uniformity(ranks, 9)
