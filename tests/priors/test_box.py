"""The uniform law on a box: denoiser and posterior against scipy's truncated normals and against quadrature."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from midguide.errors import ConfigError, UnsupportedProblem
from midguide.likelihoods import observe
from midguide.maths import autodiff
from midguide.operators.mask import Mask
from midguide.operators.matrix import Matrix
from midguide.priors.box import UniformBox, truncated

CENTERS = torch.tensor([-30.0, -3, -1.2, -0.3, 0, 0.5, 1, 4], dtype=torch.float64)


@pytest.mark.parametrize("deviation", [0.1, 0.5, 3.0, 100.0])
def test_truncated_moments_are_those_of_scipy(deviation):
    found = truncated(CENTERS, torch.tensor(deviation, dtype=torch.float64), -1, 1)
    centers = CENTERS.numpy()
    law = truncnorm((-1 - centers) / deviation, (1 - centers) / deviation, loc=centers, scale=deviation)
    np.testing.assert_allclose(found.mean.numpy(), law.mean(), atol=1e-9)
    np.testing.assert_allclose(found.variance.numpy(), law.var(), rtol=2e-6)


def test_moments_far_outside_and_far_wider_than_the_box_are_finite_and_inside():
    for deviation in (1e-4, 1e6):
        found = truncated(torch.tensor([-1e3, 0.2, 1e3]).double(), torch.tensor(deviation).double(), -1, 1)
        assert bool(found.mean.isfinite().all() and (found.mean.abs() <= 1).all())
        assert bool((found.variance >= 0).all() and (found.variance <= 1).all())


@pytest.mark.parametrize("t", [3, 500, 990])
def test_derivative_of_the_denoiser_is_its_finite_difference_and_its_moments(t):
    prior = UniformBox((3,))
    x, v = (normal(seed) for seed in (0, 1))
    _, pull = autodiff.vjp(lambda u: prior(u, t), x)
    slope = (prior(x + 1e-5 * v, t) - prior(x - 1e-5 * v, t)) / 2e-5
    torch.testing.assert_close(pull(v), slope, rtol=1e-4, atol=1e-6)
    level = prior.schedule.level(t)
    torch.testing.assert_close(
        prior.moments(x, t).covariance(v), level.sigma**2 / level.alpha * pull(v), rtol=1e-6, atol=1e-9
    )


def normal(seed):
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_posterior_is_a_truncated_normal_where_seen_and_uniform_where_hidden():
    """40,000 draws: five errors are 0.025 deviations of a mean, 4 % of a variance."""
    prior = UniformBox((3,))
    likelihood = observe(Mask(torch.tensor([True, True, False])), torch.tensor([[0.9, -0.2, 0.0]]), 0.3)
    posterior = prior.posterior(likelihood)
    mean, covariance = posterior.mean_and_covariance()
    y = likelihood.y[0, :2].numpy()
    law = truncnorm((-1 - y) / 0.3, (1 - y) / 0.3, loc=y, scale=0.3)
    np.testing.assert_allclose(mean[:2].numpy(), law.mean(), atol=1e-6)
    np.testing.assert_allclose(covariance.diagonal().numpy(), [*law.var(), 1 / 3], rtol=1e-5)
    draws = posterior.sample(40_000, seed=1).double()
    assert bool((draws.abs() <= 1).all())
    assert float(((draws.mean(0) - mean) / covariance.diagonal().sqrt()).abs().max()) < 0.025
    torch.testing.assert_close(draws.var(0), covariance.diagonal(), rtol=0.04, atol=0)


def test_values_that_are_measured_together_are_refused():
    likelihood = observe(Matrix.create(torch.ones(1, 3), (3,)), torch.zeros(1, 3), 0.3)
    with pytest.raises(UnsupportedProblem, match="where no value is measured together with another"):
        UniformBox((3,)).posterior(likelihood)


def test_an_empty_box_is_refused():
    with pytest.raises(ConfigError, match="`low` below `high`"):
        UniformBox((3,), 1.0, 1.0)


def test_bounds_are_real_numbers_of_any_library():
    prior = UniformBox(tuple(np.array([3])), np.float32(-2), torch.tensor(1.0))
    assert json.dumps(prior.record()) == json.dumps(UniformBox((3,), -2.0, 1.0).record())
    for low in (1j, np.complex128(1j), np.array([-1.0, 0.0]), torch.tensor(1j)):
        with pytest.raises(ConfigError, match="`low` and `high` must be real numbers"):
            UniformBox((3,), low)


def test_density_integrates_to_one_on_the_box():
    prior = UniformBox((2,), -2.0, 1.0)
    x = torch.tensor([[0.0, 0.0], [1.5, 0.0]])
    assert prior.log_prob(x).exp().tolist() == pytest.approx([1 / 9, 0.0])
