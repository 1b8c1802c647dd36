"""Moments of the denoised state in samplers: exact on Gaussians, weights that tend to the posterior, exact evidence."""

import math

import pytest
import torch

from midguide.errors import UnsupportedProblem
from midguide.exact.laws import unconditional_law
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.inference.loop import sample
from midguide.metrics.distribution import sliced_wasserstein
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.samplers.unconditional import Unconditional

N = 4000
FALSE_ALARM = 4.89  # standard errors: two-sided 1e-6 for a normal law


@pytest.fixture(scope="module")
def problem() -> Problem:
    return random_gaussian_problem(6, 3, 0, 0.5, dtype=torch.float64)


def log_evidence(problem: Problem) -> float:
    """`log p(y)` in closed form."""
    prior, size = problem.denoiser, problem.event_shape[0]
    a = problem.likelihood.operator(torch.eye(size, dtype=torch.float64)).T
    noise = problem.likelihood.sigma_y**2 * torch.eye(len(a), dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(a @ prior.mean, a @ prior.covariance_matrix() @ a.T + noise)
    return float(law.log_prob(problem.likelihood.y[0]))


def assert_has_moments(draws: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """Mean and variances of independent draws, within their standard errors."""
    std = covariance.diagonal().sqrt()
    assert bool(((draws.mean(0) - mean).abs() < FALSE_ALARM * std / math.sqrt(len(draws))).all())
    spread = draws.var(0) / covariance.diagonal() - 1
    assert bool((spread.abs() < FALSE_ALARM * math.sqrt(2 / len(draws))).all())


@pytest.mark.parametrize("steps", [2, 3, 25])
def test_second_order_transitions_are_exact_on_gaussians_at_any_number_of_steps(problem: Problem, steps: int) -> None:
    posterior = problem.denoiser.posterior(problem.likelihood)
    drawn = sample(make_sampler("matheron", {"steps": steps}), problem, N, seed=1, stream_size=200)
    assert_has_moments(drawn.draws[0], posterior.mean, posterior.covariance_matrix())


@pytest.mark.parametrize("spec", ["matheron:weighted", "matheron:islands"])
def test_weights_of_second_order_transitions_are_equal_on_gaussians_and_give_the_exact_evidence(
    problem: Problem, spec: str
) -> None:
    drawn = sample(make_sampler(spec, {"steps": 5}), problem, 200, seed=2)
    assert float(drawn.effective_sample_size()[0]) > 199.9
    # at the noisiest time alpha^2 is 4e-5, and what it still says of x_0 is all that the weights do not know
    assert drawn.log_evidence is not None
    torch.testing.assert_close(
        drawn.log_evidence, torch.full_like(drawn.log_evidence, log_evidence(problem)), atol=0.05, rtol=0
    )


@pytest.mark.parametrize(("particles", "derivative"), [(1, False), (8, False), (8, True)])
def test_evidence_of_the_twisted_sampler_is_that_of_the_discretized_prior(
    problem: Problem, particles: int, derivative: bool
) -> None:
    steps, groups = 40, 1000
    law = unconditional_law(Unconditional(steps=steps), problem)
    prior = type(problem.denoiser)(law.mean, law.covariance)
    exact = log_evidence(Problem(prior, problem.likelihood))
    sampler = make_sampler("tds", {"steps": steps, "particles": particles, "derivative": derivative})
    drawn = sample(sampler, problem, groups * particles, seed=3, stream_size=200)
    assert drawn.log_evidence is not None
    ratio = (drawn.log_evidence[0] - exact).exp()
    assert abs(float(ratio.mean()) - 1) < FALSE_ALARM * float(ratio.std()) / math.sqrt(len(ratio))


def test_moment_matching_tends_to_the_posterior_of_a_gaussian_as_steps_grow(problem: Problem) -> None:
    posterior = problem.denoiser.posterior(problem.likelihood)
    total = posterior.covariance_matrix().trace()
    ratios = []
    for steps in (16, 64, 256):
        drawn = sample(make_sampler("mmps", {"steps": steps}), problem, N, seed=4, stream_size=200)
        ratios.append(abs(float(drawn.draws[0].var(0).sum() / total) - 1))
    # first order: a quarter at each stage; noise of the last is about 0.01
    assert ratios[1] < 0.5 * ratios[0]
    assert ratios[2] < 0.5 * ratios[1] + 0.02


def test_weights_bring_second_order_transitions_near_the_posterior_of_a_mixture() -> None:
    problem = mixture_problem(20, 0)
    exact = problem.denoiser.posterior(problem.likelihood).sample(2000, seed=5)
    distances = {}
    for spec in ("matheron", "matheron:weighted", "matheron:islands", "tds:islands"):
        drawn = sample(make_sampler(spec), problem, 2000, seed=6, stream_size=200)
        distances[spec] = sliced_wasserstein(drawn.resampled(seed=7).draws[0], exact, order=1, slices=100)
    # problem 0 has 4.3 without weights, and a floor of about 0.15; two seeds gave 0.2 to 0.6 with them
    assert max(distances["matheron:weighted"], distances["matheron:islands"], distances["tds:islands"]) < 1.0
    assert distances["matheron"] > 2.0


def test_more_measured_values_than_weights_can_bear_are_refused() -> None:
    problem = random_gaussian_problem(80, 70, 0, 0.5)
    with pytest.raises(UnsupportedProblem, match="`matheron` weighs draws of up to 64 measured values, here are 70"):
        sample(make_sampler("matheron:weighted"), problem, 2)
