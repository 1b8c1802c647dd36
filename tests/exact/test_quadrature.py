"""Quadrature against closed forms, and the posteriors of nonlinear problems against weighted draws of the prior."""

import pytest
import torch

from midguide.errors import UnsupportedProblem
from midguide.exact.posteriors import error_of, known_prior, posterior_of
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.exact.quadrature import quadrature
from midguide.known.base import KNOWN
from midguide.likelihoods.poisson import observe_counts
from midguide.operators.matrix import Identity
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_quadrature_of_a_gaussian_problem_is_its_closed_form(dimension):
    problem = random_gaussian_problem(dimension, 1, 1, 0.2, dtype=torch.float64)
    exact = problem.denoiser.posterior(problem.likelihood)
    found = quadrature(problem.denoiser, problem)
    mean, covariance = found.mean_and_covariance()
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(covariance, exact.covariance_matrix(), rtol=1e-3, atol=1e-3)
    assert found.error < 1e-4


def test_quadrature_of_a_mixture_finds_the_weights_of_its_modes():
    problem = mixture_problem(2, 3, sigma_y=0.3, dtype=torch.float64)  # first cells are ten times wider
    exact = problem.denoiser.posterior(problem.likelihood)
    torch.testing.assert_close(
        quadrature(problem.denoiser, problem).mean_and_covariance()[0],
        exact.mean_and_covariance()[0],
        rtol=0,
        atol=0.01,
    )


def test_draws_have_the_moments_of_the_cells():
    """20,000 draws: errors of means are 0.007 deviations, of variances 1 %; five of each."""
    found = posterior_of(KNOWN.make("phase-retrieval", {}, 0))
    mean, covariance = found.mean_and_covariance()
    draws = found.sample(20_000, seed=1).double()
    deviation = covariance.diagonal().sqrt()
    assert float(((draws.mean(0) - mean).flatten() / deviation).abs().max()) < 0.036
    torch.testing.assert_close(draws.flatten(1).var(0), covariance.diagonal(), rtol=0.05, atol=0)


@pytest.mark.parametrize("name", ["phase-retrieval", "photon-counts", "saturation"])
def test_nonlinear_posteriors_are_those_of_weighted_draws_of_the_prior(name):
    """400,000 draws, their effective number n: five errors of a mean are 5 / sqrt(n) deviations (1 in a million)."""
    problem = KNOWN.make(name, {}, 2)
    posterior = posterior_of(problem)
    draws = known_prior(problem).sample(400_000, seed=5)
    weights = torch.softmax(problem.expand(400_000).likelihood.log_prob(draws).double(), 0)
    effective = float(1 / weights.square().sum())
    assert effective > 300
    flat = draws.double().flatten(1)
    mean, covariance = posterior.mean_and_covariance()
    gap = (weights @ flat - mean.flatten()) / covariance.diagonal().sqrt()
    assert float(gap.abs().max()) < 5 / effective**0.5
    assert error_of(posterior) < 0.01


def test_phase_retrieval_has_a_signal_and_its_mirror_image():
    """Both explain y equally well: only the prior tells them apart."""
    problem = KNOWN.make("phase-retrieval", {}, 0)
    x = problem.truth
    torch.testing.assert_close(problem.likelihood.log_prob(x), problem.likelihood.log_prob(x.flip(-1)))


def test_posteriors_of_many_entries_behind_nonlinear_instruments_are_not_known():
    prior = Gaussian(torch.zeros(9), 0.1)
    problem = Problem(prior, observe_counts(Identity(), prior.sample(1), 10.0))
    with pytest.raises(UnsupportedProblem, match="no exact posterior"):
        posterior_of(problem)
