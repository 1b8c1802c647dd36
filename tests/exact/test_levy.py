"""Levy processes: the denoiser against the closed form, the Gibbs sampler against the messages, both against draws."""

import math

import pytest
import torch

from midguide.errors import ConfigError, NumericalError
from midguide.exact import gibbs
from midguide.exact.increments import BernoulliLaplace, Gauss, Laplace, StudentT, draw
from midguide.exact.levy import LevyProcess, Messages
from midguide.likelihoods import observe
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.operators.matrix import Identity, Matrix
from midguide.priors.gaussian import Gaussian

LAWS = {"laplace": Laplace(), "student-t": StudentT(), "bernoulli-laplace": BernoulliLaplace()}


@pytest.mark.parametrize("t", [3, 60, 200, 400, 999])
def test_denoiser_of_normal_increments_is_that_of_the_gaussian(t):
    """The lattice ends at 5.5 deviations, and its windows at 5 tau: what is cut off is below 1e-4 of tau."""
    lower = torch.ones(12, 12, dtype=torch.float64).tril()
    exact = Gaussian(torch.zeros(12, dtype=torch.float64), 0.25**2 * lower @ lower.mT)
    prior = LevyProcess(Gauss(), 12)
    level = prior.schedule.level(t)
    noise = Rng([(0, "noise")], size=30).normal(torch.empty(30, 12, dtype=torch.float64))
    x = level.alpha * prior.sample(30).double() + level.sigma * noise
    (mean, pull), (want, pull_exact) = (autodiff.vjp(lambda u, d=d: d(u, t), x) for d in (prior, exact))
    assert float((mean - want).abs().max()) < 1e-4 * level.sigma / level.alpha
    vector = torch.flip(noise, [0])
    torch.testing.assert_close(pull(vector), pull_exact(vector), rtol=1e-3, atol=3e-4 * float(pull_exact(vector).max()))


@pytest.mark.parametrize("name", LAWS)
def test_messages_agree_with_draws_of_the_prior_that_are_weighted_by_the_likelihood(name):
    """2,000,000 draws of three entries; the effective number is above 50,000: five errors are 0.022 deviations."""
    law, tau = LAWS[name], 0.25
    y = torch.tensor([[0.3, 0.2, 0.9]], dtype=torch.float64)
    walks = LevyProcess(law, 3).sample(2_000_000, seed=1).double()
    weights = torch.softmax(-0.5 * ((walks - y) / tau).square().sum(1), 0)
    assert float(1 / weights.square().sum()) > 50_000
    mean = weights @ walks
    covariance = (weights[:, None] * (walks - mean)).mT @ (walks - mean)
    found = Messages(law, y, tau)
    assert float(((found.mean[0] - mean) / covariance.diagonal().sqrt()).abs().max()) < 0.022
    product = torch.cat([found.covariance(unit[None]) for unit in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(product, covariance, rtol=0.05, atol=0.03 * float(covariance.max()))


@pytest.mark.parametrize("name", LAWS)
def test_gibbs_posterior_of_a_denoising_problem_is_that_of_the_messages(name):
    """Means of 8 entries within 5 standard errors of what the chain itself says; deviations within 8 %."""
    prior = LevyProcess(LAWS[name], 8)
    likelihood = observe(Identity(), prior.sample(1, seed=2), 0.2, seed=3)
    posterior = prior.posterior(likelihood)
    mean, covariance = posterior.mean_and_covariance()
    exact = Messages(prior.law, likelihood.y.double(), 0.2)
    wanted = torch.cat([exact.covariance(unit[None]) for unit in torch.eye(8, dtype=torch.float64)])
    deviation = wanted.diagonal().sqrt()
    assert posterior.rhat < gibbs.RHAT
    assert posterior.effective > gibbs.DRAWS
    assert float(((mean - exact.mean[0]) / deviation).abs().max()) < 5 * posterior.error
    torch.testing.assert_close(covariance.diagonal().sqrt() / deviation, torch.ones_like(deviation), rtol=0, atol=0.08)


def test_gibbs_posterior_of_normal_increments_is_the_gaussian_one_under_a_blur():
    prior = LevyProcess(Gauss(), 8)
    lower = torch.ones(8, 8, dtype=torch.float64).tril()
    exact = Gaussian(torch.zeros(8, dtype=torch.float64), 0.25**2 * lower @ lower.mT)
    places = torch.arange(8.0)
    blur = Matrix.create(torch.exp(-((places[:5, None] - places) ** 2)), (8,))
    likelihood = observe(blur, prior.sample(1, seed=2), 0.1, seed=3)
    posterior, want = prior.posterior(likelihood), exact.posterior(likelihood)
    gap = (posterior.mean_and_covariance()[0] - want.mean) / want.covariance_matrix().diagonal().sqrt()
    assert float(gap.abs().max()) < 5 * posterior.error


def test_gibbs_refuses_a_posterior_that_has_not_converged(monkeypatch):
    monkeypatch.setattr(gibbs, "ROUNDS", 1)
    monkeypatch.setattr(gibbs, "SWEEPS", 4)
    prior = LevyProcess(Laplace(), 6)
    posterior = prior.posterior(observe(Identity(), prior.sample(1), 0.2))
    with pytest.raises(NumericalError, match="the Gibbs sampler has not converged: R-hat"):
        posterior.sample(3)


@pytest.mark.parametrize("name", LAWS)
def test_increments_have_their_density_and_deviation(name):
    """40,000 draws: shares of bins have errors below 0.0025, five of them 0.0125."""
    law = LAWS[name]
    u = draw(law, torch.empty(40_000, dtype=torch.float64), Rng([(0, "u")], size=40_000))
    assert float((u == 0).double().mean()) == pytest.approx(law.atom, abs=0.0125)
    grid = torch.linspace(0.1, 0.6, 2001, dtype=torch.float64)
    share = (1 - law.atom) * float(torch.trapezoid(law.log_density(grid).exp(), grid))
    assert float(((u > 0.1) & (u < 0.6)).double().mean()) == pytest.approx(share, abs=0.0125)
    if name != "student-t":  # whose fourth moment is infinite
        assert float(u.std()) == pytest.approx(law.std, rel=0.05)


def test_variances_given_an_increment_have_their_law():
    """The density of v given u is known up to a factor: its mean by quadrature, 40,000 draws, five errors below 4 %."""
    u, law = torch.full((40_000,), 0.3, dtype=torch.float64), Laplace()
    v = torch.linspace(1e-4, 3, 300_001, dtype=torch.float64)
    density = v.rsqrt() * torch.exp(-(0.3**2) / (2 * v) - v / law.std**2)
    want = float(torch.trapezoid(v * density, v) / torch.trapezoid(density, v))
    assert float(law.variances(u, Rng([(0, "v")], size=40_000)).mean()) == pytest.approx(want, rel=0.04)


@pytest.mark.parametrize("make", [lambda: StudentT(freedom=2), lambda: BernoulliLaplace(share=1.0)])
def test_impossible_laws_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_signal_of_one_entry_is_refused():
    with pytest.raises(ConfigError, match="length must be a whole number, at least 2"):
        LevyProcess(Laplace(), 1)


def test_variance_of_a_walk_grows_with_its_length():
    """20,000 walks: the variance of entry i is i / 16; its error is 1 %, five of them 5 %."""
    walks = LevyProcess(Laplace(), 9).sample(20_000).double()
    assert walks[:, 8].var() / walks[:, 0].var() == pytest.approx(9, rel=0.1)
    assert math.isclose(float(walks.mean()), 0, abs_tol=0.05)
