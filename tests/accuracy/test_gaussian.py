"""Every sampler against linear-Gaussian problems, where its law or its posterior is known.

The samplers are compared with a second implementation in plain NumPy (reference.py), written from the papers'
pseudo-code. Seeds are fixed; each test states the probability at which it would fail for a right sampler.
"""

from dataclasses import astuple

import numpy as np
import pytest
import reference
import torch
from moments import p_value_same_moments
from scipy import stats

from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import SCHEDULES, DiscreteVP
from midguide.exact.accuracy import gaussian_accuracy
from midguide.exact.laws import Law, mgps_law, unconditional_law
from midguide.exact.problems import random_gaussian_problem
from midguide.inference.loop import sample
from midguide.maths.optim import Adam
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.ddnm import DDNM, DDNMPlus
from midguide.samplers.ddrm import DDRM
from midguide.samplers.diffpir import DiffPIR
from midguide.samplers.dps import DPS
from midguide.samplers.mgps import MGPS
from midguide.samplers.pgdm import PGDM
from midguide.samplers.red_diff import RedDiff
from midguide.samplers.unconditional import Unconditional

FALSE_ALARM = 1e-4
N = 4000
FEW = StepRule(default=2, cleanest=(20, 2), noisiest=(10, 20), every=(10, 20))  # the paper's rule for mixtures


def mgps(midpoint, warm=None):
    sampler = MGPS(steps=50, midpoint=midpoint, warm_start=warm, gradient_steps=FEW, optimizer=Adam(rate=0.1))

    def simulate(p, rng):
        return reference.mgps(p, 50, midpoint, lambda i: FEW.at(i, 50), 0.1, N, rng, warm and 1000 * warm)

    return sampler, simulate


def mgps_in_closed_form(midpoint, spread):
    """With as many directions as there are measured values."""
    sampler = MGPS(steps=20, midpoint=midpoint, spread=spread, iterations=8)
    return sampler, lambda p, rng: reference.mgps_in_closed_form(p, 20, midpoint, spread, N, rng)


CASES = {
    "unconditional": (Unconditional(steps=60, spacing=1.0), lambda p, rng: reference.unconditional(p, 60, N, rng)),
    "mgps in closed form": mgps_in_closed_form(1.0, 0.0),
    "mgps in closed form, 0.75, spread 0.5": mgps_in_closed_form(0.75, 0.5),
    "mgps 0.5": mgps(0.5),
    "mgps 0.75": mgps(0.75),
    "mgps 1": mgps(1.0),
    "mgps 0.5, warm start": mgps(0.5, 0.7),
    "mgps 0.75, long warm start": mgps(0.75, 0.4),
    "dps": (DPS(steps=100, guidance=0.1), lambda p, rng: reference.dps(p, 100, 0.1, N, rng)),
    "pgdm": (PGDM(steps=60), lambda p, rng: reference.pgdm(p, 60, "stable", N, rng)),
    "dps, annealed": (
        DPS(steps=100, annealed=True, guidance=1.0),
        lambda p, rng: reference.annealed_dps(p, 100, N, rng),
    ),
    "pgdm, guidance as score": (
        PGDM(steps=60, weighting="score"),
        lambda p, rng: reference.pgdm(p, 60, "score", N, rng),
    ),
    "pgdm, weighting of the paper": (
        PGDM(steps=60, weighting="paper"),
        lambda p, rng: reference.pgdm(p, 60, "paper", N, rng),
    ),
    "ddnm": (DDNM(steps=60), lambda p, rng: reference.ddnm(p, 60, 0.85, N, rng)),
    "ddnm-plus": (DDNMPlus(steps=60), lambda p, rng: reference.ddnm_plus(p, 60, 0.85, N, rng)),
    "ddrm": (DDRM(steps=60), lambda p, rng: reference.ddrm(p, 60, 0.85, 1.0, N, rng)),
    "ddrm, eta_measured 0.7": (
        DDRM(steps=60, eta=0.5, eta_measured=0.7),
        lambda p, rng: reference.ddrm(p, 60, 0.5, 0.7, N, rng),
    ),
    "diffpir": (DiffPIR(steps=60, share=0.3), lambda p, rng: reference.diffpir(p, 60, 1.0, 0.3, N, rng)),
    "red-diff": (RedDiff(steps=60), lambda p, rng: reference.red_diff(p, 60, 0.25, 0.1, N, rng)),
}


def toy(dimension, measurements, seed=0, sigma_y=0.3):
    return random_gaussian_problem(dimension, measurements, seed, sigma_y, dtype=torch.float64)


def prior_and_posterior(problem):
    assert isinstance(problem.denoiser, Gaussian)
    return problem.denoiser, problem.denoiser.posterior(problem.likelihood)


def dense(problem):
    prior, likelihood = problem.denoiser, problem.likelihood
    A = likelihood.operator(torch.eye(prior.dimension, dtype=torch.float64)).T.numpy()
    mean, covariance = prior.mean.double().numpy(), prior.covariance_matrix().numpy()
    return reference.LinearGaussian(mean, covariance, A, likelihood.y[0].numpy(), likelihood.sigma_y)


def draw(sampler, problem, n=N):
    return sample(sampler, problem, n, stream_size=n).draws[0]


def p_value_of_law(draws, law):
    """Of n |m|^2 + n/2 ||S - I||_F^2, whitened mean and covariance; chi-square if the law is right and n large."""
    root = np.linalg.inv(np.linalg.cholesky(law.covariance.numpy()))
    white = (draws.numpy() - law.mean.numpy()) @ root.T
    n, d = white.shape
    gap = np.cov(white.T, bias=True).reshape(d, d) - np.eye(d)
    statistic = n * (white.mean(0) ** 2).sum() + n / 2 * (gap**2).sum()
    return stats.chi2.sf(statistic, d + d * (d + 1) / 2)


def rows(x, problem, blocks=10):
    """The accuracy row (relative W2, mean error, covariance ratio, coverages) of each block of the draws."""
    prior, posterior = prior_and_posterior(problem)
    return np.array([astuple(gaussian_accuracy(block, posterior, prior)) for block in x.chunk(blocks)])


@pytest.mark.parametrize("dimension", [2, 6, 16])
@pytest.mark.parametrize("name", CASES)
def test_sampler_has_the_law_of_its_pseudo_code(name, dimension):
    """Means and covariances by the chi-square test; the accuracy row, hence the coverage of its intervals, by Welch's
    test on ten blocks. Bonferroni over the five columns; 1e-4 for each kind of test."""
    problem = toy(dimension, dimension // 2)
    sampler, simulate = CASES[name]
    ours = draw(sampler, problem)
    theirs = simulate(dense(problem), np.random.default_rng(1))
    assert p_value_same_moments(ours, theirs) > FALSE_ALARM
    p_values = stats.ttest_ind(rows(ours, problem), rows(torch.from_numpy(theirs), problem), equal_var=False).pvalue
    assert p_values.min() > FALSE_ALARM / 5


@pytest.mark.parametrize("dimension", [2, 5, 16])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_unconditional_draws_follow_the_closed_form_law(dimension, eta):
    problem = toy(dimension, 1)
    sampler = Unconditional(steps=60, eta=eta)
    assert p_value_of_law(draw(sampler, problem), unconditional_law(sampler, problem)) > FALSE_ALARM


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_unconditional_law_tends_to_the_prior_at_first_order(eta):
    """DDIM and DDPM are first-order: halving even steps halves the error. The schedule has more levels and ends at
    alpha_T = 5e-5, so that neither they nor the start from N(0, I) hide the order; the band allows for the next
    order, a few percent at 250 to 500 steps."""
    problem = toy(4, 1)
    problem.denoiser.schedule = DiscreteVP(DiscreteVP.linear(8000, 1e-4 / 8, 0.04 / 8).alphas_cumprod, floor=1e-10)
    prior = Law.of(prior_and_posterior(problem)[0])
    coarse, finer = (
        unconditional_law(Unconditional(steps=n, eta=eta, spacing=1.0), problem).w2(prior) for n in (250, 500)
    )
    assert 0.85 < np.log2(coarse / finer) < 1.15


@pytest.mark.parametrize(("schedule", "even"), [("vp-linear", False), ("edm", True), ("flow", True)])
def test_unconditional_draws_take_quadratic_times_with_the_discrete_times_of_ddpm_only(schedule, even):
    prior = Gaussian(torch.zeros(2), 1.0, schedule=SCHEDULES.make(schedule, {}))
    problem = Problem.unobserved(prior)
    times = Unconditional(steps=20).times(problem)
    assert times == Unconditional(steps=20, spacing=1.0 if even else 2.0).times(problem)
    assert (times == prior.schedule.times(20)) == even


@pytest.mark.parametrize("steps", [25, 50, 100, 250])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_quadratic_times_bring_unconditional_draws_nearer_to_the_prior(steps, eta):
    """Variances fall as those of images do, from 3 to 1e-3: most of the error of even times lies where there is little
    noise. At 25 steps the gain is smaller."""
    variances = 3.0 * torch.arange(1, 25, dtype=torch.float64) ** -2.5
    prior = Gaussian(torch.zeros(24, dtype=torch.float64), torch.diag(variances))
    problem = Problem.unobserved(prior)
    even, quadratic = (
        unconditional_law(Unconditional(steps=steps, eta=eta, spacing=spacing), problem).w2(Law.of(prior))
        for spacing in (1.0, 2.0)
    )
    assert quadratic < (0.8 if steps == 25 else 0.7) * even


@pytest.mark.parametrize("midpoint", [0.5, 0.75])
def test_mgps_tends_to_the_closed_form_recursion_as_gradient_steps_grow(midpoint):
    """Converged fits give the mean-field law. Adam keeps a fluctuation of the order of its rate: with rate 0.01 and 200
    steps the distance left is 1-2 % of the prior's; Monte Carlo adds sqrt(d/n) of the posterior's spread, 1 %."""
    problem = toy(3, 1)
    sampler = MGPS(
        steps=40, midpoint=midpoint, warm_start=None, gradient_steps=StepRule(default=200), optimizer=Adam(rate=0.01)
    )
    x = draw(sampler, problem, n=2000)
    law, empirical = mgps_law(sampler, problem), Law(x.mean(0), torch.cov(x.T))
    prior, posterior = (Law.of(gaussian) for gaussian in prior_and_posterior(problem))
    assert empirical.w2(law) < 0.04 * prior.w2(posterior)
    assert empirical.w2(law) < empirical.w2(posterior)


@pytest.mark.parametrize("warm_start", [None, 0.7])
@pytest.mark.parametrize("seed", [0, 1])
def test_mgps_is_near_the_posterior_where_the_unconditional_row_is_not(seed, warm_start):
    """Two-sided: far better than ignoring y, neither collapsed nor over-dispersed. The closed-form law at this midpoint
    has a relative W2 of 0.05 to 0.1 and covariance ratios of 0.9 to 1; the bands leave room for 20 gradient steps."""
    problem = toy(4, 2, seed=seed)
    prior, posterior = prior_and_posterior(problem)
    sampler = MGPS(
        steps=100, midpoint=0.6, warm_start=warm_start, gradient_steps=StepRule(default=20), optimizer=Adam(rate=0.05)
    )
    row = gaussian_accuracy(draw(sampler, problem), posterior, prior)
    nothing = gaussian_accuracy(draw(Unconditional(steps=100), problem), posterior, prior)
    assert nothing.relative_w2 > 0.8
    assert row.relative_w2 < 0.25
    assert 0.6 < row.covariance_ratio < 1.4
    assert 0.35 < row.coverage50 < 0.65
    assert 0.75 < row.coverage90 < 0.97
