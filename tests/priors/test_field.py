"""Gaussian fields beside the same law with a matrix; their posteriors beside the closed form."""

from __future__ import annotations

import math

import pytest
import torch

from midguide import Problem, make_operator, make_sampler, sample
from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.likelihoods.poisson import observe_counts
from midguide.maths.stationary import Stationary
from midguide.operators import Identity
from midguide.priors.field import GaussianField, matern_spectrum
from midguide.testing import check_denoiser


def field(*space: int, channels: int = 2) -> GaussianField:
    mean = torch.linspace(-1, 1, channels * math.prod(space), dtype=torch.float64).reshape(channels, *space)
    return GaussianField(mean, matern_spectrum(space, std=0.7, length=2.0))


def scan(prior: GaussianField) -> Problem:
    operator = make_operator("fourier-coils", prior.event_shape, coils=3, complex_signal=True)
    return Problem.simulate(prior, operator, prior.sample(1), sigma_y=0.1)


SPACES = [(7,), (6, 5), (3, 4, 2)]


@pytest.mark.parametrize("space", SPACES)
def test_a_field_is_the_gaussian_with_its_covariance_matrix(space: tuple[int, ...]) -> None:
    prior = field(*space)
    dense = prior.dense()
    check_denoiser(prior)
    x = 2 * torch.randn(3, *prior.event_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(prior(x, 300), dense(x, 300), atol=1e-12)
    assert torch.allclose(prior.log_prob(x), dense.log_prob(x), atol=1e-8)
    ours, theirs = prior.moments(x, 300).covariance, dense.moments(x, 300).covariance
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    assert torch.allclose(ours.diagonal(x), theirs.diagonal(x), atol=1e-12)
    assert torch.allclose(ours.shrunk(x[:, None], 0.2), theirs.shrunk(x[:, None], 0.2), atol=1e-12)
    one, other = (each.solve(Identity(), 0.3, x).gain for each in (ours, theirs))
    assert torch.allclose(one, other, atol=1e-6)  # the dense one has the noise in single precision


@pytest.mark.parametrize("space", SPACES)
def test_the_root_of_a_stationary_covariance_is_one(space: tuple[int, ...]) -> None:
    prior = field(*space)
    units = torch.eye(prior.dimension, dtype=torch.float64).reshape(-1, *prior.event_shape)
    root = prior.covariance.root(units).value.flatten(1)
    assert torch.allclose(root.mT @ root, prior.dense().covariance_matrix(), atol=1e-12)


def test_a_matern_field_of_smoothness_one_half_has_an_exponential_covariance() -> None:
    spectrum = matern_spectrum((4096,), std=1.0, length=20.0, smoothness=0.5)
    pixel = torch.zeros(1, 4096, dtype=torch.float64)
    pixel[0, 0] = 1.0
    along = Stationary(spectrum, 1)(pixel)[0, :100]
    # discrete frequencies fold the tail of the spectrum: 1 % at a length of 20 pixels
    assert torch.allclose(along, torch.exp(-torch.arange(100.0, dtype=torch.float64) / 20), atol=0.03)
    assert float(along[0]) == pytest.approx(1.0)


def test_the_posterior_of_a_scan_with_coils_is_the_closed_form() -> None:
    prior = field(6, 5)
    problem = scan(prior)
    posterior = prior.posterior(problem.likelihood)
    mean, covariance = posterior.mean_and_covariance()
    assert torch.allclose(posterior.mean, mean, atol=1e-6)
    draws = posterior.sample(1000, seed=1).flatten(1).double()
    std = covariance.diagonal().sqrt()
    # 60 means and variances of 1,000 draws: five standard errors, false alarms below 1e-4
    assert bool(((draws.mean(0) - mean.flatten()).abs() < 5 * std / math.sqrt(1000)).all())
    assert bool(((draws.var(0) / std.square() - 1).abs() < 5 * math.sqrt(2 / 1000)).all())


def test_matheron_draws_from_the_posterior_of_a_field_at_few_steps() -> None:
    prior = field(6, 5)
    problem = scan(prior)
    mean, covariance = prior.posterior(problem.likelihood).mean_and_covariance()
    sampler = make_sampler("matheron", {"steps": 2})
    draws = sample(sampler, problem, 1000, stream_size=1000, progress=False).draws[0].flatten(1).double()
    std = covariance.diagonal().sqrt()
    # as above
    assert bool(((draws.mean(0) - mean.flatten()).abs() < 5 * std / math.sqrt(1000)).all())
    assert bool(((draws.var(0) / std.square() - 1).abs() < 5 * math.sqrt(2 / 1000)).all())


def test_check_of_a_large_field_is_quick_and_says_what_it_leaves_out(recwarn: pytest.WarningsRecorder) -> None:
    prior = GaussianField(torch.zeros(6, 32, 32), matern_spectrum((32, 32), std=0.5, length=4.0))
    problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.3)
    draws = prior.posterior(problem.likelihood).sample(4)
    result = sample(make_sampler("matheron", {"steps": 2}), problem, 4, progress=False)
    verdict = result.check(problem)
    assert draws.shape == result.draws[0].shape == (4, 6, 32, 32)
    assert not verdict.findings
    assert "6144 values are too large to simulate" in verdict.left_out["measurement"]
    assert "6144 values are too large" in verdict.left_out["spread: beside the exact posterior"]


def test_what_makes_no_field_is_refused() -> None:
    even = matern_spectrum((4, 4), std=1.0, length=1.0)
    with pytest.raises(ShapeError, match="does not fit"):
        GaussianField(torch.zeros(1, 4, 5), even)
    with pytest.raises(ConfigError, match="not even"):
        GaussianField(torch.zeros(1, 4), torch.tensor([1.0, 2.0, 1.0, 3.0]))
    with pytest.raises(ConfigError, match="not negative"):
        GaussianField(torch.zeros(1, 4, 4), -even)
    with pytest.raises(ConfigError, match="length must be positive"):
        matern_spectrum((4, 4), std=1.0, length=0.0)
    with pytest.raises(NumericalError, match="no density"):
        GaussianField(torch.zeros(1, 4, 4), torch.zeros(4, 4)).log_prob(torch.zeros(1, 1, 4, 4))


def test_a_posterior_that_is_not_known_is_refused() -> None:
    prior = field(8, 8)
    with pytest.raises(UnsupportedProblem, match="no exact posterior for PoissonLikelihood"):
        prior.posterior(observe_counts(Identity(), prior.sample(1), 10.0))
    two = Problem.simulate(prior, Identity(), prior.sample(2), sigma_y=0.1).likelihood
    with pytest.raises(ShapeError, match="one observation"):
        prior.posterior(two)
    with pytest.raises(UnsupportedProblem, match="too large"):
        field(32, 32).dense()
