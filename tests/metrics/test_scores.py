"""CRPS and energy score against scoringrules, and coverage of the truth against its probability."""

import numpy as np
import pytest
import scoringrules
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.metrics.scores import crps, energy_score, truth_coverage


def answer(n, *event, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(n, *event, generator=generator, dtype=torch.float64)
    return 1.3 * draws, torch.randn(event, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 8, 51])
def test_crps_is_the_fair_one_of_scoringrules(n):
    draws, truth = answer(n, 3, 4)
    want = scoringrules.crps_ensemble(truth.numpy(), np.moveaxis(draws.numpy(), 0, -1), estimator="fair")
    np.testing.assert_allclose(crps(draws, truth).numpy(), want, rtol=1e-12, atol=1e-14)  # float64 sums


@pytest.mark.parametrize("n", [2, 7])
def test_energy_score_is_that_of_scoringrules_with_fair_pairs(n):
    """scoringrules divides the pairs by n^2; with n (n - 1) the second term grows by n / (n - 1)."""
    draws, truth = answer(n, 5)
    whole = float(scoringrules.es_ensemble(truth.numpy(), draws.numpy(), estimator="nrg"))
    first = float((draws - truth).norm(dim=1).mean())
    assert energy_score(draws, truth) == pytest.approx(first - (first - whole) * n / (n - 1), rel=1e-12)


def test_energy_score_of_single_numbers_is_the_crps():
    draws, truth = answer(9, 1)
    assert energy_score(draws, truth) == pytest.approx(float(crps(draws, truth)), rel=1e-12)


def test_crps_of_few_and_of_many_draws_agree_on_average():
    """The score of N(0, 1) at y = 0 is (sqrt(2) - 1) / sqrt(pi) = 0.2337, also from pairs of draws.

    One pair has a standard deviation of about 0.6: 20,000 pairs give 0.004. Five of them: one false alarm in a
    million, for another seed.
    """
    draws = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    assert float(crps(draws, torch.zeros(20_000)).mean()) == pytest.approx(0.23370, abs=0.02)


@pytest.mark.parametrize("n", [1, 4, 10, 19, 40])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_of_exact_draws_is_the_level_for_any_number_of_draws(n, level):
    """20,000 independent entries have a standard deviation below 0.0036; five of them: one false alarm in a million."""
    generator = torch.Generator().manual_seed(n)
    draws, truth = torch.randn(n, 20_000, generator=generator), torch.randn(20_000, generator=generator)
    assert float(truth_coverage(draws, truth, level).mean()) == pytest.approx(level, abs=0.018)


def test_coverage_is_that_of_the_ranks():
    """Of 19 draws, 0.9 is the interval from the first to the last: ranks 1 to 18 are inside, 0 and 19 are not."""
    draws = torch.arange(19.0)[:, None].expand(19, 4)
    truth = torch.tensor([-0.5, 0.5, 17.5, 18.5])
    assert truth_coverage(draws, truth, 0.9).tolist() == pytest.approx([0, 1, 1, 0], abs=1e-12)


def test_too_narrow_draws_cover_less_and_too_wide_ones_more():
    draws, truth = answer(20, 5000)
    assert truth_coverage(0.3 * draws, truth, 0.9).mean() < 0.6
    assert truth_coverage(3 * draws, truth, 0.9).mean() > 0.97


def test_few_draws_shapes_and_levels_are_refused():
    draws, truth = answer(2, 3)
    with pytest.raises(ShapeError, match="at least 2 draws"):
        crps(draws[:1], truth)
    with pytest.raises(ShapeError):
        energy_score(draws, truth[:2])
    with pytest.raises(ConfigError, match="level"):
        truth_coverage(draws, truth, 1.0)
