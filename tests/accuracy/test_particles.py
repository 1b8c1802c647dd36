"""Weighted draws of a particle filter tend to the exact posterior, and its evidence to the exact one."""

import math

import pytest
import torch
from particles import TwistedFilter

from midguide.exact.laws import unconditional_law
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.operators import Matrix
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional

STEPS = 12
FALSE_ALARM = 4.89  # standard errors: two-sided 1e-6 for a normal law; the means are over at least 500 groups


@pytest.fixture(scope="module")
def problem() -> Problem:
    prior = random_gaussian(3, 0, dtype=torch.float64)
    operator = Matrix.create(torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]], dtype=torch.float64), (3,))
    return Problem.simulate(prior, operator, prior.sample(1), sigma_y=0.5)


def discretized(problem: Problem) -> Gaussian:
    """The prior that `STEPS` even steps have: a Gaussian, in closed form."""
    law = unconditional_law(Unconditional(steps=STEPS, spacing=1.0), problem)
    return Gaussian(law.mean, law.covariance)


def exact_evidence(problem: Problem) -> float:
    """`log p(y)` for the discretized prior."""
    prior, operator, y = discretized(problem), problem.likelihood.operator, problem.likelihood.y[0]
    a = operator(torch.eye(3, dtype=torch.float64)).T
    noise = problem.likelihood.sigma_y**2 * torch.eye(2, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(a @ prior.mean, a @ prior.covariance_matrix() @ a.T + noise)
    return float(law.log_prob(y))


@pytest.mark.parametrize(("particles", "twist"), [(1, 0.0), (1, 0.5), (4, 0.5), (8, 1.0)])
def test_evidence_of_a_group_is_unbiased_for_any_number_of_particles(problem, particles, twist):
    drawn = sample(TwistedFilter(steps=STEPS, particles=particles, twist=twist), problem, 1000 * particles, seed=3)
    ratio = (drawn.log_evidence[0] - exact_evidence(problem)).exp()
    assert abs(ratio.mean() - 1) < FALSE_ALARM * ratio.std() / math.sqrt(len(ratio))


@pytest.mark.parametrize("particles", [1, 4, 16])
def test_weighted_mean_of_islands_is_that_of_the_exact_posterior(problem, particles):
    groups = 8000 // particles
    drawn = sample(TwistedFilter(steps=STEPS, particles=particles), problem, groups * particles, seed=4)
    exact = discretized(problem).posterior(problem.likelihood).mean
    weights = drawn.weights()[0]
    # the error of a ratio of means: each group adds its weight times its distance from the exact mean
    parts = (weights[:, None] * (drawn.draws[0] - exact)).reshape(groups, particles, 3).sum(1)
    assert torch.allclose(parts.sum(0), drawn.mean()[0] - exact, atol=1e-12)
    assert ((drawn.mean()[0] - exact).abs() < FALSE_ALARM * math.sqrt(groups) * parts.std(0)).all()


def test_error_of_the_log_evidence_falls_as_particles_grow(problem):
    exact, errors = exact_evidence(problem), []
    for particles in (2, 16, 128):
        drawn = sample(TwistedFilter(steps=STEPS, particles=particles), problem, 100 * particles, seed=5)
        errors.append(float((drawn.log_evidence[0] - exact).square().mean().sqrt()))
    # the law of large numbers gives a factor of sqrt(8) = 2.8 each; 100 groups fix each error to about 10 %
    assert errors[0] > 1.8 * errors[1] > 1.8**2 * errors[2]


def test_resampled_draws_have_the_moments_of_the_exact_posterior(problem):
    drawn = sample(TwistedFilter(steps=STEPS, particles=1000), problem, 4000, seed=6)
    exact = discretized(problem).posterior(problem.likelihood)
    equal = drawn.resampled(seed=1)
    scale = exact.covariance_matrix().diagonal().sqrt()
    # 4,000 draws that descend from fewer: 0.1 standard deviations are six standard errors of 4,000 independent ones
    assert ((equal.mean()[0] - exact.mean).abs() / scale < 0.1).all()
    assert ((equal.std()[0] / scale - 1).abs() < 0.1).all()
