"""The same arrays through a second implementation: ranks, expected coverage, TARP; and levels that exact draws attain.

sbi's diagnostics are a third one: `benchmarks/calibration_sbi.py` runs both on equal arrays. The tests do not depend on
sbi, since it brings seventeen packages, among them scikit-learn and tensorboard.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference_calibration as reference
import torch
from scipy import stats

from midguide.calibration import (
    attained,
    covered,
    highest_density,
    needed,
    points_for,
    tarp,
    truth_coverage,
    uniform_rank,
    uniformity,
)
from midguide.errors import ConfigError, DataError, ShapeError

N, L, D = 120, 31, 3


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths, draws with a spread that is a little wrong, references."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)), 0.8 * rng.normal(size=(N, L, D)), rng.normal(size=(N, D))


def ranks(truth: np.ndarray, draws: np.ndarray) -> np.ndarray:
    return uniform_rank(torch.from_numpy(truth), torch.from_numpy(draws), 0.5).numpy()


def test_ranks_are_those_of_simulation_based_calibration(arrays: tuple[np.ndarray, ...]) -> None:
    truths, draws, _ = arrays
    for i in range(D):
        want = reference.sbc_ranks(truths[:, i], draws[:, :, i])
        assert np.array_equal(np.floor(ranks(truths[:, i], draws[:, :, i]) * (L + 1)), want)


def test_ranks_that_are_not_uniform_are_seen_by_a_chi_square_test_too(arrays: tuple[np.ndarray, ...]) -> None:
    truths, draws, _ = arrays
    u = ranks(truths[:, 0], draws[:, :, 0] * 0.4)
    counts = np.histogram(u, bins=8, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue < 1e-6
    assert uniformity(u, points_for(L)) < 1e-6


def test_coverage_by_random_points_is_that_of_the_second_implementation(arrays: tuple[np.ndarray, ...]) -> None:
    truths, draws, references = arrays
    far = np.linalg.norm(truths - references, axis=-1)
    u = ranks(far, np.linalg.norm(draws - references[:, None], axis=-1))
    levels = (np.arange(L) + 0.75) / (L + 1)  # between the places that ranks have, where the two conventions agree
    want = reference.tarp_coverage(truths, draws, references, np.arange(L) / L + 1e-9)
    assert [c.share for c in tarp(u, list(levels))] == pytest.approx(list(want))


def test_coverage_of_highest_density_is_that_of_the_second_implementation(arrays: tuple[np.ndarray, ...]) -> None:
    truths, draws, _ = arrays
    of_truths, of_draws = (stats.norm.logpdf(x).sum(-1) for x in (truths, draws))
    u = ranks(of_truths, of_draws)
    levels = (np.arange(L) + 0.75) / (L + 1)
    want = reference.highest_density_coverage(of_truths, of_draws, np.arange(L) / L + 1e-9)
    assert [c.share for c in highest_density(u, list(levels))] == pytest.approx(list(want))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_central_coverage_at_attainable_levels_is_counted(arrays: tuple[np.ndarray, ...], k: int) -> None:
    truths, draws, _ = arrays
    level = 1 - 2 * k / (L + 1)
    pairs = zip(truths[:, 0], draws[..., 0], strict=True)
    got = [float(truth_coverage(torch.from_numpy(own), torch.tensor(truth), level)) for truth, own in pairs]
    assert np.mean(got) == pytest.approx(reference.central_coverage(truths[:, 0], draws[..., 0], k))


def test_what_exact_draws_attain_is_below_the_level_and_simulated() -> None:
    """31 draws: the central 90 % of them hold 0.875 (20,000 trials: five standard errors are 0.012)."""
    assert attained(31, 0.9) == 0.875
    rng = np.random.default_rng(5)
    truths, draws = rng.normal(size=20000), np.sort(rng.normal(size=(20000, 31)), axis=1)
    held = (draws[:, 1] <= truths) & (truths <= draws[:, -2])
    assert abs(held.mean() - attained(31, 0.9)) < 0.012
    assert (needed(0.9), needed(0.5), needed(0.95)) == (19, 3, 39)


def test_an_interval_over_problems_respects_dependence_within_them() -> None:
    """Shares of 1,000 values that all stand and fall together are no more certain than one value each."""
    rng = np.random.default_rng(6)
    together = (rng.uniform(size=50) < 0.9).astype(float)
    assert covered(0.9, together).ci95 == pytest.approx(stats.t.ppf(0.975, 49) * together.std(ddof=1) / 50**0.5)
    with pytest.raises(DataError, match="at least two problems"):
        covered(0.9, [1.0])


def test_equal_values_are_placed_by_the_jitter_and_weights_count_as_draws() -> None:
    same = torch.zeros(3)
    assert [float(uniform_rank(torch.tensor(0.0), same, j)) for j in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
    draws = torch.tensor([0.0, 1.0, 2.0])
    equal = uniform_rank(torch.tensor(1.5), draws, 0.3, torch.full((3,), 1 / 3))
    assert equal == pytest.approx(float(uniform_rank(torch.tensor(1.5), draws, 0.3)))
    heavy = uniform_rank(torch.tensor(1.5), draws, 0.0, torch.tensor([0.5, 0.5, 0.0]))
    assert float(heavy) == pytest.approx(2 / 3)  # two draws, both below


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_a_level_that_is_no_probability_is_one_line(level: float) -> None:
    for function in (needed, lambda a: attained(31, a)):
        with pytest.raises(ConfigError, match="level must be in"):
            function(level)


def test_truths_without_draws_are_refused() -> None:
    with pytest.raises(ShapeError, match="have no rank among draws"):
        uniform_rank(torch.zeros(3), torch.zeros(3), 0.5)
