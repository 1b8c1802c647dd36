"""Every sampler against linear-Gaussian problems, where its law or its posterior is known.

The statistic of the two-sided tests is T = d^T S^{-1} d, with d the difference of the means of the features (x, and the
products x_i x_j) and S its covariance. For draws of the same law it is chi-square with as many degrees of freedom as
features. The false-alarm rate of each such test is 1e-4 (seeds are fixed, so a passing test stays passing).
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from midguide.data.toy import random_gaussian_problem
from midguide.diagnostics.accuracy import gaussian_accuracy
from midguide.diagnostics.laws import Law, mgps_law, unconditional_law
from midguide.optim import Adam
from midguide.rules import StepRule
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS
from midguide.samplers.unconditional import Unconditional
from midguide.sampling import sample
from midguide.schedules import DiscreteVP

sys.path.insert(0, str(Path(__file__).parent))
import reference

FALSE_ALARM = 1e-4
FEW = StepRule(default=2, cleanest=(20, 2), noisiest=(10, 20), every=(10, 20))  # the paper's rule for mixtures


def toy(dimension, measurements, seed=0, sigma_y=0.3):
    return random_gaussian_problem(dimension, measurements, seed, sigma_y, dtype=torch.float64)


def dense(problem):
    prior, likelihood = problem.denoiser, problem.likelihood
    A = likelihood.operator(torch.eye(prior.dimension, dtype=torch.float64)).T.numpy()
    mean, covariance = prior.mean.double().numpy(), prior.covariance_matrix().numpy()
    return reference.LinearGaussian(mean, covariance, A, likelihood.y[0].numpy(), likelihood.sigma_y)


def features(x):
    x = np.asarray(x, dtype=float)
    upper = np.triu_indices(x.shape[1])
    return np.concatenate([x, (x[:, :, None] * x[:, None, :])[:, upper[0], upper[1]]], axis=1)


def p_value_same_law(a, b):
    a, b = features(a), features(b)
    gap = a.mean(0) - b.mean(0)
    spread = np.cov(a.T) / len(a) + np.cov(b.T) / len(b)
    return stats.chi2.sf(gap @ np.linalg.solve(spread, gap), len(gap))


def p_value_of_law(draws, law):
    x = np.asarray(draws, dtype=float)
    root = np.linalg.inv(np.linalg.cholesky(law.covariance.numpy()))
    white = (x - law.mean.numpy()) @ root.T
    n, d = white.shape
    gap = np.cov(white.T, bias=True).reshape(d, d) - np.eye(d)
    # means: n |m|^2 ~ chi2_d; covariance: n/2 ||S - I||_F^2 ~ chi2_{d (d+1) / 2}, as n grows
    statistic = n * (white.mean(0) ** 2).sum() + n / 2 * (gap**2).sum()
    return stats.chi2.sf(statistic, d + d * (d + 1) / 2)


def draw(sampler, problem, n=4000, seed=0):
    return sample(sampler, problem, n, seed=seed, stream_size=n).draws[0]


@pytest.mark.parametrize("dimension", [2, 5, 16])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_unconditional_draws_follow_the_closed_form_law(dimension, eta):
    problem = toy(dimension, 1)
    sampler = Unconditional(steps=60, eta=eta)
    assert p_value_of_law(draw(sampler, problem), unconditional_law(sampler, problem)) > FALSE_ALARM


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_unconditional_law_tends_to_the_prior_at_first_order(eta):
    """DDIM and DDPM are first-order: halving the step halves the error. The schedule has more levels and ends at
    alpha_T = 5e-5, so that neither they nor the start from N(0, I) hide the order; the band allows for the next
    order, a few per cent at 250 to 500 steps."""
    problem = toy(4, 1)
    problem.denoiser.schedule = DiscreteVP(DiscreteVP.linear(8000, 1e-4 / 8, 0.04 / 8).alphas_cumprod, floor=1e-10)
    prior = Law.of(problem.denoiser)
    coarse, finer = (unconditional_law(Unconditional(steps=n, eta=eta), problem).w2(prior) for n in (250, 500))
    assert 0.85 < np.log2(coarse / finer) < 1.15


@pytest.mark.parametrize("dimension", [2, 6])
def test_dps_has_the_law_of_its_pseudo_code(dimension):
    problem = toy(dimension, dimension // 2)
    expected = reference.dps(dense(problem), 100, 0.1, 4000, np.random.default_rng(1))
    assert p_value_same_law(draw(DPS(steps=100, guidance=0.1), problem), expected) > FALSE_ALARM


@pytest.mark.parametrize("dimension", [2, 6])
@pytest.mark.parametrize(("midpoint", "warm"), [(0.5, None), (0.75, None), (1.0, None), (0.5, 0.7), (0.75, 0.4)])
def test_mgps_with_few_gradient_steps_has_the_law_of_its_pseudo_code(dimension, midpoint, warm):
    problem = toy(dimension, dimension // 2)
    sampler = MGPS(steps=50, midpoint=midpoint, warm_start=warm, gradient_steps=FEW, optimiser=Adam(rate=0.1))
    rule, warm_from = (lambda i: FEW.at(i, 50)), warm and 1000 * warm
    expected = reference.mgps(dense(problem), 50, midpoint, rule, 0.1, 4000, np.random.default_rng(1), warm_from)
    assert p_value_same_law(draw(sampler, problem), expected) > FALSE_ALARM


@pytest.mark.parametrize("midpoint", [0.5, 0.75])
def test_mgps_tends_to_the_closed_form_recursion_as_gradient_steps_grow(midpoint):
    """Converged fits give the mean-field law. Adam keeps a fluctuation of the order of its rate: with rate 0.01 and 200
    steps the distance left is 1-2 % of the prior's; Monte Carlo adds sqrt(d/n) of the posterior's spread, 1 %."""
    problem = toy(3, 1)
    sampler = MGPS(
        steps=40, midpoint=midpoint, warm_start=None, gradient_steps=StepRule(default=200), optimiser=Adam(rate=0.01)
    )
    x = draw(sampler, problem, n=2000)
    law = mgps_law(sampler, problem)
    empirical = Law(x.mean(0), torch.cov(x.T))
    posterior = Law.of(problem.denoiser.posterior(problem.likelihood))
    assert empirical.w2(law) < 0.04 * Law.of(problem.denoiser).w2(posterior)
    assert empirical.w2(law) < empirical.w2(posterior)


@pytest.mark.parametrize("warm_start", [None, 0.7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mgps_beats_the_prior_and_is_near_the_posterior(seed, warm_start):
    """A sanity row, two-sided: far better than ignoring y, neither collapsed nor over-dispersed."""
    problem = toy(4, 2, seed=seed)
    prior = problem.denoiser
    sampler = MGPS(
        steps=100, midpoint=0.6, warm_start=warm_start, gradient_steps=StepRule(default=20), optimiser=Adam(rate=0.05)
    )
    row = gaussian_accuracy(draw(sampler, problem), prior.posterior(problem.likelihood), prior)
    nothing = gaussian_accuracy(draw(Unconditional(steps=100), problem), prior.posterior(problem.likelihood), prior)
    assert nothing.relative_w2 > 0.8
    assert row.relative_w2 < 0.25
    assert 0.6 < row.covariance_ratio < 1.4
    assert 0.35 < row.coverage50 < 0.65
    assert 0.75 < row.coverage90 < 0.97
