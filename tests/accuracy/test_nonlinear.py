"""One step of every method that takes nonlinear operators, against its formula written out by hand.

The prior is Gaussian and the operator is `h(x) = (x_1^2, x_1 x_2)` with the Jacobian below, or `h(x) = x^3`, whose
inverse is the cube root. Prior, transitions and bridges are those of reference.py, in NumPy; the noise is drawn again
from the sampler's random stream. Everything is float64, so both sides agree but for rounding.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from midguide.diffusion.rules import StepRule
from midguide.errors import NumericalError, UnsupportedProblem
from midguide.inference.loop import sample
from midguide.likelihoods import GaussianLikelihood
from midguide.maths.optim import SGD
from midguide.maths.rng import Rng
from midguide.operators import Operator
from midguide.operators.base import PseudoInvertibleOperator
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.copaint import CoPaint
from midguide.samplers.daps import DAPS
from midguide.samplers.ddnm import DDNM, DDNMPlus
from midguide.samplers.ddrm import DDRM
from midguide.samplers.diffpir import DiffPIR
from midguide.samplers.dps import DPS
from midguide.samplers.lgd import LGD
from midguide.samplers.mgdm import MGDM
from midguide.samplers.mgps import MGPS
from midguide.samplers.pgdm import PGDM
from midguide.samplers.red_diff import RedDiff
from midguide.samplers.sda import SDA
from midguide.samplers.unconditional import Unconditional
from midguide.testing import check_sampler

SIGMA_Y = 0.4
MEAN, COVARIANCE = np.array([0.5, -0.3]), np.array([[1.0, 0.4], [0.4, 0.8]])
Y = np.array([1.2, -0.7])
X_T = np.array([0.9, -1.1])


@dataclass(frozen=True, eq=False)
class Products(Operator):
    """`h(x) = (x_1^2, x_1 x_2)`."""

    def __call__(self, x: Tensor) -> Tensor:
        return x[:, :1] * x


@dataclass(frozen=True, eq=False)
class Cubes(PseudoInvertibleOperator):
    """`h(x) = x^3`."""

    def __call__(self, x: Tensor) -> Tensor:
        return x**3

    def pinv(self, y: Tensor) -> Tensor:
        return y.sign() * y.abs() ** (1 / 3)


def h(x):
    return x[0] * x


def jacobian(x):
    return np.array([[2 * x[0], 0.0], [x[1], x[0]]])


def problem(operator: Operator) -> Problem:
    prior = Gaussian(torch.tensor(MEAN), torch.tensor(COVARIANCE))
    return Problem(prior, GaussianLikelihood(operator, torch.tensor(Y)[None], SIGMA_Y))


P = reference.LinearGaussian(MEAN, COVARIANCE, None, Y, SIGMA_Y)


def step(sampler, operator, state, t, s):
    """The sampler's step, and the normal draws of its random stream."""
    out = sampler.step(problem(operator), state, t, s, Rng([(0,)]))
    again, like = Rng([(0,)]), torch.zeros(1, 2, dtype=torch.float64)
    return out.state, [again.normal(like)[0].numpy() for _ in range(4)]


def noisy(sampler, operator, t, s):
    start = sampler.init(problem(operator), Rng([(0,)]))
    state, draws = step(sampler, operator, start._replace(x_t=torch.tensor(X_T)[None]), t, s)
    return state.x_t[0].numpy(), draws


T, S = 600, 500


def test_dps_descends_the_norm_of_the_residual():
    x_s, (z, *_) = noisy(DPS(steps=10, guidance=0.3), Products(), T, S)
    x0 = P.denoise(X_T, T)
    r = Y - h(x0)
    gradient = -2 * P.jacobian(T).T @ jacobian(x0).T @ r
    mean, std = P.ddpm(x0, X_T, T, S)
    np.testing.assert_allclose(x_s, mean + std * z - 0.3 * gradient / np.linalg.norm(r), rtol=1e-10)


def test_mgps_descends_the_potential_at_the_midpoint_and_the_divergence_from_the_prior():
    rate = 0.02
    sampler = MGPS(
        steps=10, midpoint=0.5, warm_start=None, gradient_steps=StepRule(default=2), optimizer=SGD(rate=rate)
    )
    x_s, (z1, z2, z3, z4) = noisy(sampler, Products(), T, S)
    l = S // 2
    center, width = P.ddpm(P.denoise(X_T, T), X_T, T, l)
    mu, rho = center, np.full(2, np.log(width))  # at the first step the fit starts from the prior's transition
    for z in (z1, z2):
        x_l = mu + np.exp(rho) * z
        x0 = P.denoise(x_l, l)
        g = -P.jacobian(l).T @ jacobian(x0).T @ (Y - h(x0)) / SIGMA_Y**2
        g_mu, g_rho = g + (mu - center) / width**2, g * np.exp(rho) * z + np.exp(2 * rho) / width**2 - 1
        mu, rho = mu - rate * g_mu, rho - rate * g_rho
    mean, std = P.bridge(mu + np.exp(rho) * z3, X_T, l, S, T)
    np.testing.assert_allclose(x_s, mean + std * z4, rtol=1e-10)


def guidance(x0, t, variance):
    """Gradient of log N(y; h(D(x, t)), variance) at the x whose denoised state is x0."""
    return P.jacobian(t).T @ jacobian(x0).T @ (Y - h(x0)) / variance


def test_lgd_averages_the_likelihood_over_draws_around_the_denoised_state():
    x_s, (z1, z2, z, _) = noisy(LGD(steps=10, draws=2, guidance=0.3, spread=0.5), Products(), T, S)
    x0, r_t = P.denoise(X_T, T), 0.5 * np.sqrt(1 - P.alpha_squared[T])
    points = [x0 + r_t * z1, x0 + r_t * z2]
    likelihoods = np.array([np.exp(-np.sum((Y - h(x)) ** 2) / (2 * SIGMA_Y**2)) for x in points])
    energy, weights = -np.log(likelihoods.mean()), likelihoods / likelihoods.sum()
    gradient = -sum(w * guidance(x, T, SIGMA_Y**2) for w, x in zip(weights, points, strict=True))
    mean, std = P.ddpm(x0, X_T, T, S)
    expected = mean + std * z - 2 * 0.3 * SIGMA_Y**2 / np.sqrt(2 * SIGMA_Y**2 * energy) * gradient
    np.testing.assert_allclose(x_s, expected, rtol=1e-9)


def test_sda_moves_and_corrects_with_the_score_of_prior_and_widened_likelihood():
    x_s, (z, *_) = noisy(SDA(steps=10, corrections=1, step_size=0.2, gamma=0.3), Products(), T, S)
    (a, sg), (b, sh) = ((np.sqrt(P.alpha_squared[t]), np.sqrt(1 - P.alpha_squared[t])) for t in (T, S))

    def eps(x, t, alpha, sigma):
        x0 = P.denoise(x, t)
        return (x - alpha * x0) / sigma - sigma * guidance(x0, t, SIGMA_Y**2 + 0.3 * (sigma / alpha) ** 2)

    x = b / a * X_T + (sh - b / a * sg) * eps(X_T, T, a, sg)
    e = eps(x, S, b, sh)
    d = 0.2 / max(np.mean(e**2), 1)
    np.testing.assert_allclose(x_s, x - sh * (d * e + np.sqrt(2 * d) * z), rtol=1e-9)


def test_copaint_descends_misfit_and_distance_then_takes_a_ddim_step():
    x_s, _ = noisy(CoPaint(steps=10, gradient_steps=2, rate=0.05, strength=0.3), Products(), T, S)
    x = X_T
    for _ in range(2):
        x = x - 0.05 * (-2 * guidance(P.denoise(x, T), T, 1.0) + 2 * 0.3 * (x - X_T))
    (a, sg), (b, sh) = ((np.sqrt(P.alpha_squared[t]), np.sqrt(1 - P.alpha_squared[t])) for t in (T, S))
    x0 = P.denoise(x, T)
    np.testing.assert_allclose(x_s, b * x0 + sh * (x - a * x0) / sg, rtol=1e-9)


def test_daps_runs_langevin_steps_around_the_prediction_and_noises_anew():
    x_s, (z1, z2, z3, _) = noisy(DAPS(steps=10, ode_steps=1, iterations=2, rate=0.01), Products(), T, S)
    center = x = P.denoise(X_T, T)
    variance = 1 / P.alpha_squared[T] - 1
    e = 0.01 * (0.01 + 0.99 * T / 1000)
    for z in (z1, z2):
        x = x + e * (jacobian(x).T @ (Y - h(x)) / SIGMA_Y**2 + (center - x) / variance) + np.sqrt(2 * e) * z
    a = P.alpha_squared[S]
    np.testing.assert_allclose(x_s, np.sqrt(a) * x + np.sqrt(1 - a) * z3, rtol=1e-9)


def test_mgdm_fits_the_midpoint_between_x_0_and_x_t_walks_and_noises_again():
    rate = 0.02
    sampler = MGDM(steps=10, walk_steps=1, gradient_steps=StepRule(default=1), optimizer=SGD(rate=rate))
    start = sampler.init(problem(Products()), Rng([(0,)]))
    clean = start.x0[0].numpy()
    x_s, (z1, z2, z3, z4) = noisy(sampler, Products(), T, S)
    l = int(1 + (np.sqrt(5) - 1) / 2 * (T - 1))
    mean, std = P.ddpm(clean, X_T, T, l)
    g = -guidance(P.denoise(mean + std * z1, l), l, SIGMA_Y**2)
    mu, rho = mean - rate * g, np.log(std) - rate * (g * std * z1 + 1 - 1)
    x_l = mu + np.exp(rho) * z2
    ratio = P.alpha_squared[T] / P.alpha_squared[l]
    x_t = np.sqrt(ratio) * x_l + np.sqrt(1 - ratio) * z3
    center, width = P.ddpm(P.denoise(x_l, l), x_t, T, S)
    np.testing.assert_allclose(x_s, center + width * z4, rtol=1e-9)


@pytest.mark.parametrize("weighting", ["stable", "paper"])
def test_pgdm_pulls_back_the_difference_of_pseudo_inverses_with_weight_alpha(weighting):
    x_s, (z, *_) = noisy(PGDM(steps=10, weighting=weighting), Cubes(), T, S)
    x0 = P.denoise(X_T, T)
    guidance = np.sqrt(P.alpha_squared[T]) * P.jacobian(T).T @ (np.cbrt(Y) - np.cbrt(x0**3))
    mean, std = P.ddpm(x0, X_T, T, S)
    np.testing.assert_allclose(x_s, mean + std * z + guidance, rtol=1e-10)


def test_red_diff_starts_from_a_normal_draw_and_follows_its_gradient():
    sampler = RedDiff(steps=10)
    start = sampler.init(problem(Products()), Rng([(1,)]))
    mu = start.mu[0].numpy()
    assert torch.equal(start.mu, Rng([(1,)]).normal(torch.zeros(1, 2, dtype=torch.float64)))
    state, (z, *_) = step(sampler, Products(), start, T, S)
    a = P.alpha_squared[T]
    x_t = np.sqrt(a) * mu + np.sqrt(1 - a) * z
    eps = (x_t - np.sqrt(a) * P.denoise(x_t, T)) / np.sqrt(1 - a)
    g = -jacobian(mu).T @ (Y - h(mu)) / 2 + 0.25 * np.sqrt((1 - a) / a) * (eps - z) / 2
    np.testing.assert_allclose(state.first[0].numpy(), 0.1 * g, rtol=1e-10)  # Adam's first moment after one step
    np.testing.assert_allclose(state.mu[0].numpy(), mu - 0.1 * g / (np.abs(g) + 1e-8), rtol=1e-6)


def test_diffpir_takes_the_gradient_step_of_its_objective_when_asked_to():
    x_s, (z, *_) = noisy(DiffPIR(steps=10, share=0.3, strength=2.0, gradient_step=True), Products(), T, S)
    a_t, a_s = P.alpha_squared[T], P.alpha_squared[S]
    rho = 2.0 * SIGMA_Y**2 * a_t / (1 - a_t)
    x0 = P.denoise(X_T, T)
    x0 = x0 - (-2 * jacobian(x0).T @ (Y - h(x0))) / (2 * rho)
    eps = (X_T - np.sqrt(a_t) * x0) / np.sqrt(1 - a_t)
    expected = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s) * (np.sqrt(0.7) * eps + np.sqrt(0.3) * z)
    np.testing.assert_allclose(x_s, expected, rtol=1e-10)


@pytest.mark.parametrize("sampler", [DiffPIR(steps=4), DDNM(steps=4), DDNMPlus(steps=4), DDRM(steps=4), PGDM(steps=4)])
def test_what_the_formula_does_not_cover_is_refused(sampler):
    with pytest.raises(UnsupportedProblem, match="Products is nonlinear\nhint: .*: .*dps, .*mgps"):
        sample(sampler, problem(Products()))


@pytest.mark.parametrize(
    "sampler",
    [
        MGPS(steps=12),
        DPS(steps=12),
        RedDiff(steps=12),
        PGDM(steps=12),
        DiffPIR(steps=12, gradient_step=True, strength=1e6),  # so strong that it does not diverge
        Unconditional(steps=12),
        LGD(steps=12),
        SDA(steps=12),
        CoPaint(steps=12),
        DAPS(steps=12),
        MGDM(steps=12),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_satisfy_the_contract_on_a_nonlinear_operator(sampler):
    prior = Gaussian(torch.tensor([0.5, -0.3]), 0.25)
    check_sampler(sampler, Problem.simulate(prior, Cubes(), prior.sample(2), sigma_y=0.5))


def test_the_gradient_step_of_diffpir_diverges_where_the_proximal_step_does_not():
    """Two squares at noise 0.05: at the noisiest level the step is 1/(2 rho) = 5e9 times the gradient."""
    loud = problem(Products())
    quiet = Problem(loud.denoiser, GaussianLikelihood(Products(), loud.likelihood.y.float(), 0.05))
    with pytest.raises(NumericalError, match="`diffpir` produced NaN or infinity"):
        sample(DiffPIR(steps=50, gradient_step=True), quiet, 4)
