"""Noise levels that are not known: the chain has the posterior of signal and level where the sampler is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from midguide import Problem, make_sampler, sample
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.inference.unknown_noise import sample_with_unknown_noise
from midguide.likelihoods import GaussianLikelihood, observe, observe_counts
from midguide.operators import Identity, Matrix
from midguide.priors import Gaussian

EXACT = make_sampler("matheron", {"steps": 3})  # exact on Gaussians at every number of steps


def problem_of(d: int = 12, sigma_y: float = 0.5) -> Problem:
    prior = Gaussian(torch.zeros(d, dtype=torch.float64), 1.0)
    return Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=sigma_y, seed=3)


def law_of_level(problem: Problem, shape: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """A grid of levels and `p(sigma_y | y)` on it, for the prior N(0, I) and the identity."""
    y = problem.likelihood.y[0].numpy()
    grid = np.linspace(1e-3, 6.0, 20_000)
    log = stats.norm.logpdf(y[:, None], scale=np.sqrt(1 + grid**2)).sum(0)
    log += stats.gamma.logpdf(grid**-2, shape, scale=1 / rate) - 3 * np.log(grid)  # precision to level
    weight = np.exp(log - log.max())
    return grid, weight / weight.sum()


def test_levels_have_their_posterior() -> None:
    problem, n, shape, rate = problem_of(), 600, 3.0, 0.5
    drawn = sample_with_unknown_noise(EXACT, problem, n, sweeps=12, shape=shape, rate=rate)
    grid, weight = law_of_level(problem, shape, rate)
    levels = drawn.tensors["sigma_y"][0, :, -1].numpy()
    # Kolmogorov and Smirnov, chains independent: false alarms at 1e-4
    assert stats.kstest(levels, lambda x: np.interp(x, grid, weight.cumsum())).pvalue > 1e-4
    mean = (1 / (1 + grid**2)) @ weight * problem.likelihood.y[0].numpy()
    error = (drawn.mean()[0].numpy() - mean) / (drawn.std()[0].numpy() / n**0.5)
    assert np.abs(error).max() < 5  # 12 means, five standard deviations


def test_a_draw_depends_on_its_own_address_only() -> None:
    problem = problem_of()
    two = Problem.stack([problem, Problem(problem.denoiser, problem.likelihood, problem.truth)])
    many = sample_with_unknown_noise(EXACT, two, 3, sweeps=2, seed=1)
    few = sample_with_unknown_noise(EXACT, problem, 2, sweeps=2, seed=1, chunk=1)
    torch.testing.assert_close(many.draws[:1, :2], few.draws)
    torch.testing.assert_close(many.tensors["sigma_y"][:1, :2], few.tensors["sigma_y"])
    assert few.cost.network_forwards == 2 * sample(EXACT, problem, 1).cost.network_forwards


def test_ratios_of_levels_are_kept() -> None:
    prior = Gaussian(torch.zeros(2000, dtype=torch.float64), 1e-8)
    sigma = torch.where(torch.arange(2000) % 2 == 0, 0.2, 0.8)
    likelihood = observe(Identity(), prior.sample(1), 3 * sigma)
    asked = Problem(prior, GaussianLikelihood.of(Identity(), _raw(likelihood), sigma))
    level = sample_with_unknown_noise(EXACT, asked, 1, sweeps=2).tensors["sigma_y"][0, 0, -1]
    # the common level is 0.4, three times as much is true; 2,000 values: five standard deviations
    assert float(level) == pytest.approx(1.2, rel=5 / 4000**0.5)


def _raw(likelihood: GaussianLikelihood) -> torch.Tensor:
    """The observations before they were weighted."""
    return likelihood.y / likelihood.operator.weight  # pyright: ignore[reportAttributeAccessIssue]


def test_what_it_cannot_do_is_refused() -> None:
    problem = problem_of()
    with pytest.raises(ConfigError, match="sweeps=0"):
        sample_with_unknown_noise(EXACT, problem, sweeps=0)
    with pytest.raises(UnsupportedProblem, match="groups"):
        sample_with_unknown_noise(make_sampler("tds:islands", {"steps": 3}), problem, 16)
    with pytest.raises(UnsupportedProblem, match="without weights"):
        sample_with_unknown_noise(make_sampler("matheron:weighted", {"steps": 3}), problem, 2, sweeps=1)
    counts = Problem(problem.denoiser, observe_counts(Matrix.create(torch.ones(1, 12), (12,)), problem.truth, 5.0))
    with pytest.raises(UnsupportedProblem, match="not Gaussian"):
        sample_with_unknown_noise(EXACT, counts)
