"""The rest of the related work on linear-Gaussian problems: the laws of their formulas, and the limits they have.

Seeds are fixed; each stochastic test states the probability at which it would fail for a right sampler.
"""

from dataclasses import replace

import numpy as np
import pytest
import related_reference as formulas
import torch
from moments import p_value_same_moments
from scipy import stats
from test_gaussian import FALSE_ALARM, dense, draw, p_value_of_law, prior_and_posterior, rows, toy

from midguide.diffusion.rules import StepRule
from midguide.diffusion.walks import Travel, descent
from midguide.errors import ConfigError
from midguide.exact.laws import Law, posterior_law, unconditional_law
from midguide.inference.loop import sample
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.likelihoods.poisson import observe_counts
from midguide.maths.optim import Adam
from midguide.operators import Identity, Mask
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.ald import ALD
from midguide.samplers.copaint import CoPaint
from midguide.samplers.daps import DAPS
from midguide.samplers.ding import DInG
from midguide.samplers.dps import DPS
from midguide.samplers.ilvr import ILVR
from midguide.samplers.lgd import LGD
from midguide.samplers.mgdm import MGDM
from midguide.samplers.pnp_dm import PnPDM
from midguide.samplers.repaint import RePaint
from midguide.samplers.score_sde import ScoreSDE
from midguide.samplers.sda import SDA
from midguide.samplers.snips import SNIPS
from midguide.samplers.unconditional import Unconditional

N = 4000

CASES = {
    "repaint": (
        RePaint(steps=20, travel=Travel(length=1, repeats=4)),
        lambda p, rng: formulas.repaint(p, 20, 1, 4, N, rng),
    ),
    "repaint, long jumps": (
        RePaint(steps=24, travel=Travel(length=5, repeats=3)),
        lambda p, rng: formulas.repaint(p, 24, 5, 3, N, rng),
    ),
    "ilvr": (ILVR(steps=40), lambda p, rng: formulas.ilvr(p, 40, 0.0, N, rng)),
    "ilvr, half of the range": (ILVR(steps=40, until=0.5), lambda p, rng: formulas.ilvr(p, 40, 0.5, N, rng)),
    "score-sde": (
        ScoreSDE(steps=30, correctors=2, snr=0.2),
        lambda p, rng: formulas.score_sde(p, 30, 2, 0.2, N, rng),
    ),
    "pnp-dm": (
        PnPDM(steps=12, walk_steps=8, moves=2, last_moves=3, noisiest=5.0, cleanest=0.2),
        lambda p, rng: formulas.pnp_dm(p, 12, 8, 2, 3, 5.0, 0.2, N, rng),
    ),
    "daps": (DAPS(steps=20, ode_steps=3, spread=0.8), lambda p, rng: formulas.daps(p, 20, 3, 0.8, N, rng)),
    "lgd": (LGD(steps=40, draws=3), lambda p, rng: formulas.lgd(p, 40, 3, 0.1, 1.0, N, rng)),
    "sda": (
        SDA(steps=20, corrections=2, step_size=0.1, gamma=0.3),
        lambda p, rng: formulas.sda(p, 20, 2, 0.1, 0.3, N, rng),
    ),
    "ald": (ALD(steps=30, moves=10, rate=0.1), lambda p, rng: formulas.ald(p, 30, 10, 0.1, 1.0, N, rng)),
    "snips": (SNIPS(steps=30, moves=3, rate=0.1), lambda p, rng: formulas.snips(p, 30, 3, 0.1, N, rng)),
    "copaint": (
        CoPaint(steps=30, gradient_steps=3, strength=0.2, eta=0.5),
        lambda p, rng: formulas.copaint(p, 30, 3, 0.02, 0.2, 0.5, N, rng),
    ),
    "mgdm": (
        MGDM(steps=15, moves=2, walk_steps=5, gradient_steps=StepRule(default=4), optimizer=Adam(rate=0.1)),
        lambda p, rng: formulas.mgdm(p, 15, 2, 5, 4, 0.1, N, rng),
    ),
    "ding": (DInG(steps=30, eta=0.7), lambda p, rng: formulas.ding(p, 30, 0.7, N, rng)),
}
NOISELESS = {"repaint", "repaint, long jumps", "ilvr", "score-sde"}


@pytest.mark.parametrize("dimension", [2, 6])
@pytest.mark.parametrize("name", CASES)
def test_sampler_has_the_law_of_its_formulas(name, dimension):
    """Means and covariances by the chi-square test, 1e-4; the accuracy row by Welch's test on ten blocks, 1e-4 in all.

    Methods that take y for noiseless meet it exactly; what they leave open is compared.
    """
    problem = toy(dimension, dimension // 2)
    sampler, simulate = CASES[name]
    p = dense(problem)
    ours, theirs = draw(sampler, problem).numpy(), simulate(p, np.random.default_rng(1))
    view = np.eye(dimension)
    if name in NOISELESS:
        np.testing.assert_allclose(ours @ p.A.T, np.broadcast_to(p.y, (N, len(p.y))), atol=1e-9)
        view = np.linalg.svd(p.A)[2][len(p.y) :].T
    assert p_value_same_moments(ours @ view, theirs @ view) > FALSE_ALARM
    mine, other = rows(torch.from_numpy(ours), problem), rows(torch.from_numpy(theirs), problem)
    assert stats.ttest_ind(mine, other, equal_var=False).pvalue.min() > FALSE_ALARM / 5


@pytest.mark.parametrize(
    ("sampler", "eta"),
    [
        (ILVR(steps=60), 1.0),
        (RePaint(steps=60, travel=Travel()), 1.0),
        (LGD(steps=60, draws=2), 1.0),
        (CoPaint(steps=60, strength=0.0, eta=1.0), 1.0),
        (DInG(steps=60), 1.0),
        (SDA(steps=60, corrections=0), 0.0),
        (CoPaint(steps=60, strength=0.0), 0.0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else str(value),
)
def test_where_nothing_is_measured_a_guided_sampler_is_the_unconditional_one(sampler, eta):
    prior = prior_and_posterior(toy(3, 1))[0]
    problem = Problem(
        prior, GaussianLikelihood(Mask(torch.zeros(3, dtype=torch.bool)), torch.zeros(1, 3).double(), 1.0)
    )
    law = unconditional_law(Unconditional(steps=60, eta=eta, spacing=1.0), problem)
    assert p_value_of_law(draw(sampler, problem), law) > FALSE_ALARM


def test_repaint_that_walks_each_stretch_once_is_ilvr():
    problem = toy(4, 2)
    once = sample(RePaint(steps=20, travel=Travel(length=4, repeats=1)), problem, 3)
    assert torch.equal(once.draws, sample(ILVR(steps=20), problem, 3).draws)


def test_lgd_without_noise_is_dps():
    problem = toy(4, 2)
    lgd = sample(LGD(steps=50, draws=5, spread=0.0, guidance=0.3), problem, 3).draws
    torch.testing.assert_close(lgd, sample(DPS(steps=50, guidance=0.3), problem, 3).draws, rtol=1e-9, atol=1e-9)


def masked():
    """Two of four correlated entries are measured."""
    prior = prior_and_posterior(toy(4, 1, seed=3))[0]
    mask = Mask(torch.tensor([True, False, True, False]))
    return Problem.simulate(prior, mask, prior.sample(1, seed=5), sigma_y=0.3)


def empirical(draws):
    return Law(draws.mean(0), torch.cov(draws.T))


def test_repaint_tends_to_the_law_given_noiseless_entries_as_repeats_grow():
    """On N(m, C) with a mask. Error over that of the prior: Monte Carlo alone gives 0.03 at 2,000 draws."""
    problem = masked()
    exact = posterior_law(replace(problem, likelihood=replace(problem.likelihood, sigma_y=1e-6)))
    scale = Law.of(problem.denoiser).w2(exact)

    def error(repeats):
        sampler = RePaint(steps=100, travel=Travel(length=1, repeats=repeats))
        return empirical(draw(sampler, problem, 2000)).w2(exact) / scale

    few, many = error(1), error(30)
    assert many < 0.1
    assert many < 0.5 * few


def test_moves_of_pnp_dm_at_one_coupling_have_the_law_of_the_split_target():
    """`p(x) N(y; A x, sigma_y^2 I + rho^2 A A^T)` for a Gaussian prior. Monte Carlo gives 3 % of the prior's
    distance at 2,000 draws; the walk of 200 steps errs by about 1 %, and moves that mix slowly add that up."""
    problem, rho = toy(4, 2), 0.5
    likelihood, prior = problem.likelihood, problem.denoiser
    level = problem.schedule.level(problem.schedule.time_at(rho))
    A = likelihood.operator(torch.eye(4, dtype=torch.float64)).T
    C, m = prior.covariance_matrix(), prior.mean
    gain = C @ A.T @ torch.linalg.inv(A @ (C + level.ratio**2 * torch.eye(4)) @ A.T + 0.09 * torch.eye(2))
    split = Law(m + gain @ (likelihood.y[0] - A @ m), C - gain @ A @ C)
    sampler = PnPDM(steps=1, noisiest=rho, cleanest=rho, walk_steps=200, last_moves=25)
    law, scale = empirical(draw(sampler, problem, 2000)), Law.of(prior).w2(split)
    assert law.w2(split) < 0.08 * scale
    assert law.w2(split) < 0.5 * law.w2(posterior_law(problem))


@pytest.mark.parametrize(
    ("rough", "fine"),
    [
        (PnPDM(steps=20, cleanest=1.0), PnPDM(steps=20, walk_steps=40, moves=2, last_moves=20, cleanest=0.1)),
        (SDA(steps=32, corrections=0, gamma=0.01), SDA(steps=200, corrections=10, step_size=0.05, gamma=0.01)),
        (ALD(steps=20, moves=1, rate=0.02), ALD(steps=60, moves=40, rate=0.05)),
        (SNIPS(steps=20, moves=1, rate=0.02), SNIPS(steps=60, moves=40, rate=0.05)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_methods_with_an_exact_limit_approach_the_posterior(rough, fine):
    """Relative W2 of 2,000 draws; two exact draws of this size are 0.02 to 0.03 apart."""
    problem = toy(4, 2)
    posterior = posterior_law(problem)
    scale = Law.of(problem.denoiser).w2(posterior)
    far, near = (empirical(draw(sampler, problem, 2000)).w2(posterior) / scale for sampler in (rough, fine))
    assert near < 0.1
    assert near < 0.5 * far


def test_mgdm_keeps_the_prior_where_nothing_is_measured():
    """Its moves leave the joint law of x_0, midpoint and x_t invariant; the walk has 60 steps."""
    prior = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, 0.5], [0.5, 0.6]]).double())
    problem = Problem(
        prior, GaussianLikelihood(Mask(torch.zeros(2, dtype=torch.bool)), torch.zeros(1, 2).double(), 1.0)
    )
    law = empirical(draw(MGDM(steps=20, walk_steps=60, gradient_steps=StepRule(default=1)), problem, 2000))
    assert law.w2(Law.of(prior)) < 0.08 * prior.covariance_matrix().trace().sqrt()


def test_langevin_of_daps_takes_photon_counts():
    """Gamma-like posterior of one count of 30 at rate 20: the mean of the draws explains it, none leaves the range."""
    prior = Gaussian(torch.zeros(1).double(), 0.25)
    problem = Problem(prior, observe_counts(Identity(), torch.full((1, 1), 0.5).double(), rate=20.0))
    draws = sample(DAPS(steps=40, rate=1e-2), problem, 500, stream_size=500).draws[0]
    assert float(problem.likelihood.chi_square(draws.mean(0)[None])) < 2.0
    assert bool((draws.abs() < 3).all())


def test_impossible_settings_are_refused():
    for make in (
        lambda: PnPDM(cleanest=2.0, noisiest=1.0),
        lambda: DAPS(ode_steps=0),
        lambda: DInG(eta=0.0),
        lambda: SDA(corrections=-1),
        lambda: CoPaint(strength=-1.0),
        lambda: LGD(spread=-0.1),
        lambda: RePaint(steps=8, travel=Travel(length=8, repeats=2)),
    ):
        with pytest.raises(ConfigError):
            make()


def test_daps_spreads_what_is_not_measured_too_widely():
    """On N(0, 1), unmeasured: a draw around the end of the ODE, which has the prior's law already, adds its variance.

    With gains c of the ODE it is `V <- alpha_s^2 (c^2 V + (sigma_t / alpha_t)^2) + sigma_s^2`, near 2 for many steps.
    20,000 draws: n times the second moment over the variance is chi-square, two-sided at 1e-4.
    """
    n, steps, prior = 20_000, 100, Gaussian(torch.zeros(1), 1.0)
    problem = Problem.unobserved(prior)
    levels = [prior.schedule.level(t) for t in prior.schedule.times(steps)]
    variance = 1.0
    for t, level in zip(prior.schedule.times(steps), levels, strict=True):
        walk = [prior.schedule.level(r) for r in descent(prior.schedule, t, 4)]
        gain = walk[-1].alpha * np.prod(
            [s.alpha * r.alpha + s.sigma * r.sigma for r, s in zip(walk, walk[1:], strict=False)]
        )
        clean = gain**2 * variance + level.ratio**2
        following = levels[levels.index(level) + 1] if level is not levels[-1] else None
        variance = clean if following is None else following.alpha**2 * clean + following.sigma**2
    x = draw(DAPS(steps=steps, ode_steps=4), problem, n).double()
    tail = stats.chi2(n).sf(float(x.square().sum()) / variance)
    assert 0.5e-4 < tail < 1 - 0.5e-4
    assert variance > 1.7
