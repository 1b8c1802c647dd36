"""Particle samplers: laws of their formulas, weights against quadrature, evidence, slopes and limits.

Seeds are fixed; each stochastic test states the probability at which it would fail for a right sampler.
"""

import math
from itertools import pairwise

import numpy as np
import particle_reference as formulas
import pytest
import torch
from moments import p_value_same_moments
from scipy import stats
from test_gaussian import dense, toy

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.exact.problems import random_gaussian_problem
from midguide.inference.loop import sample
from midguide.operators import Identity, LinearOperator, Matrix
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.samplers.split_gibbs_smc import SplitGibbsSMC

FALSE_ALARM = 1e-4
ERRORS = 4.89  # standard errors: two-sided 1e-6 for a normal law
GROUPS, PARTICLES, STEPS = 2000, 4, 10

GIBBS = SplitGibbsSMC(steps=5, particles=PARTICLES, moves=2, walk_steps=4, noisiest=3.0, cleanest=1.0)


def gibbs_formulas(p, rng):
    bar = p.alpha_squared[1:]
    rhos = 3.0 * (0.3 / 3.0) ** (np.arange(5) / 4)
    couplings = [1 + int(np.argmin(np.abs(np.log(np.sqrt(1 / bar - 1)) - np.log(rho)))) for rho in rhos]
    return formulas.split_gibbs_smc(p, couplings, 2, 4, PARTICLES, GROUPS, rng)


CASES = {
    "mcgdiff": (
        make_sampler("mcgdiff", {"steps": STEPS, "particles": PARTICLES}),
        lambda p, rng: formulas.mcgdiff(p, STEPS, PARTICLES, GROUPS, rng),
    ),
    "smcdiff": (
        make_sampler("smcdiff", {"steps": STEPS, "particles": PARTICLES}),
        lambda p, rng: formulas.on_a_path(p, STEPS, PARTICLES, GROUPS, rng, noise_once=True),
    ),
    "fps, paths weighed": (
        make_sampler("fps", {"steps": STEPS, "particles": PARTICLES, "weigh_paths": True}),
        lambda p, rng: formulas.on_a_path(p, STEPS, PARTICLES, GROUPS, rng, noise_once=False),
    ),
    "split-gibbs-smc": (GIBBS, gibbs_formulas),
}


def one_of_each(draws, log_weight, rng):
    """One draw of each group by its weights within it, and the log of the group's mean weight, axes (group, ...)."""
    top = log_weight.max(1, keepdims=True)
    w = np.exp(log_weight - top)
    pick = (rng.random((len(w), 1)) > np.cumsum(w, 1) / w.sum(1, keepdims=True)).sum(1)
    evidence = np.log(w.mean(1)) + top[:, 0]
    return np.concatenate([draws[np.arange(len(w)), pick], evidence[:, None]], 1)


@pytest.mark.parametrize("dimension", [2, 6])
@pytest.mark.parametrize("name", CASES)
def test_groups_have_the_law_of_their_formulas(name: str, dimension: int) -> None:
    """Means and covariances of a draw of each group and of its log evidence, by the chi-square test, 1e-4."""
    problem, (sampler, simulate) = toy(dimension, dimension // 2), CASES[name]
    drawn = sample(sampler, problem, GROUPS * PARTICLES, seed=1, stream_size=GROUPS)
    assert drawn.log_weight is not None
    split = (GROUPS, PARTICLES)
    ours = one_of_each(
        drawn.draws[0].unflatten(0, split).numpy(),
        drawn.log_weight[0].unflatten(0, split).numpy(),
        np.random.default_rng(2),
    )
    theirs = one_of_each(*simulate(dense(problem), np.random.default_rng(1)), np.random.default_rng(3))
    assert p_value_same_moments(ours, theirs) > FALSE_ALARM
    if drawn.log_evidence is not None:
        np.testing.assert_allclose(ours[:, -1], drawn.log_evidence[0], rtol=0, atol=1e-9)


def assert_unbiased(drawn, log_evidence: float, mean: torch.Tensor) -> None:
    """Evidence of groups and their weighted distance from the exact mean, within standard errors over groups."""
    groups = drawn.log_evidence.shape[1]
    ratio = (drawn.log_evidence[0] - log_evidence).exp()
    assert abs(float(ratio.mean()) - 1) < ERRORS * float(ratio.std()) / math.sqrt(groups)
    parts = (drawn.weights()[0][:, None] * (drawn.draws[0] - mean)).unflatten(0, (groups, -1)).sum(1)
    assert bool((parts.sum(0).abs() < ERRORS * math.sqrt(groups) * parts.std(0)).all())
    assert float(ratio.std()) / math.sqrt(groups) < 0.15  # so that the first line could fail


@pytest.mark.parametrize("particles", [1, 8])
@pytest.mark.parametrize("name", ["mcgdiff", "smcdiff"])
@pytest.mark.parametrize(("dimension", "measured", "sigma_y"), [(2, 1, 0.05), (3, 2, 0.5)])
def test_weights_and_evidence_are_exact_for_the_discretized_gaussian(
    name: str, particles: int, dimension: int, measured: int, sigma_y: float
) -> None:
    """For any number of particles; normal laws over 4,000 and 1,000 groups, 1e-6 for each of three or four means."""
    problem = random_gaussian_problem(dimension, measured, 0, sigma_y, dtype=torch.float64)
    mean, _, log_evidence = formulas.target(dense(problem), 8)
    n = {1: 4000, 8: 8000}[particles]
    sampler = make_sampler(name, {"steps": 8, "particles": particles})
    assert_unbiased(sample(sampler, problem, n, seed=1, stream_size=1000), log_evidence, torch.from_numpy(mean))


MIXED = torch.tensor([[-1.6, 0.4], [0.3, -1.2], [1.5, 1.0]], dtype=torch.float64)


def mixture(dimension: int) -> Problem:
    """Three components; as many measured values as entries, the noise of each coefficient another, none below 0.4."""
    prior = GaussianMixture(torch.tensor([0.5, 0.2, 0.3]), MIXED[:, :dimension], 0.15)
    a = torch.tensor([[1.0, 0.6], [-0.2, 0.5]], dtype=torch.float64)[:dimension, :dimension]
    return Problem.simulate(prior, Matrix.create(a, (dimension,)), MIXED[1:2, :dimension] + 0.2, sigma_y=0.5)


class Grid:
    """A grid of one or two dimensions, and the kernels of the prior's steps on it.

    Args:
        second: kernels have the covariance of x_0 (matheron), not its mean alone.
        between: coefficients of y lie between two levels (mcgdiff, smcdiff), not below the last.
    """

    def __init__(self, problem: Problem, *, second: bool, between: bool) -> None:
        (self.d,), self.problem, self.second, self.between = problem.event_shape, problem, second, between
        axis = torch.linspace(-4.5, 4.5, {1: 401, 2: 37}[self.d], dtype=torch.float64)
        self.x = torch.cartesian_prod(*[axis] * self.d).reshape(-1, self.d)
        self.cell = float(axis[1] - axis[0]) ** self.d

    def moments(self, t) -> tuple[torch.Tensor, torch.Tensor]:
        """Of x_0 given each point: mean, and covariance as matrices."""
        mean, covariance = self.problem.denoiser.moments(self.x, t)
        columns = [covariance(unit.expand_as(self.x)) for unit in torch.eye(self.d, dtype=torch.float64)]
        return mean, torch.stack(columns, 2)

    def moved(self, density: torch.Tensor, t, s) -> torch.Tensor:
        """The density at s, and of what is seen on the way, of what has this density at t."""
        mean, covariance = self.moments(t)
        bridge = kernels.bridge(CLEAN, self.problem.schedule.level(s), self.problem.schedule.level(t))
        spread = bridge.std**2 * torch.eye(self.d, dtype=torch.float64).expand_as(covariance)
        spread = spread + bridge.weight_s**2 * covariance if self.second else spread
        error = self.x[:, None] - bridge.mean(mean, self.x)  # axes (to, from, entry)
        quadratic = torch.einsum("abi,bij,abj->ab", error, spread.inverse(), error)
        kernel = (-0.5 * (quadratic + (2 * math.pi * spread).logdet())).exp()
        return (kernel * self.seen(t, s) if self.between else kernel) @ density * self.cell

    def seen(self, t, s) -> torch.Tensor | float:
        """Density of the coefficients of y with their noise between t and s, given the states, axes (to, from)."""
        basis, density = self.problem.spectral, 1.0
        upper, lower = self.problem.schedule.level(t), self.problem.schedule.level(s)
        u = basis.vt(self.x)
        for j, c in enumerate(basis.noise.reshape(-1)):
            if lower.ratio <= c < upper.ratio:
                k = (c**2 - lower.ratio**2) / (upper.ratio**2 - lower.ratio**2)
                center = (1 - k) * u[:, None, j] / lower.alpha + k * u[None, :, j] / upper.alpha
                law = torch.distributions.Normal(center, ((1 - k) * (c**2 - lower.ratio**2)).sqrt())
                to_y = c / self.problem.likelihood.sigma_y  # 1 / s_j
                density = density * law.log_prob(basis.y.reshape(-1)[j]).exp() * to_y
        return density


def by_quadrature(problem: Problem, sampler) -> tuple[float, torch.Tensor]:
    """Log evidence and posterior mean under the prior that a sampler's steps have."""
    name, times = type(sampler).__name__, sampler.times(problem)
    grid = Grid(problem, second=name == "Matheron", between=name in ("MCGDiff", "SMCDiff"))
    first = torch.distributions.Normal(0.0, problem.schedule.level(times[0]).sigma)
    density = first.log_prob(grid.x).sum(1).exp()
    for t, s in pairwise(times):
        density = grid.moved(density, t, s)
    end, covariance = grid.moments(times[-1])
    if name == "TDS":
        density = density * problem.expand(len(end)).likelihood.log_density(end).exp()
    if name == "Matheron":
        a, likelihood = problem.likelihood.operator(torch.eye(grid.d, dtype=torch.float64)).T, problem.likelihood
        spread = a @ covariance @ a.T + likelihood.sigma_y**2 * torch.eye(grid.d, dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(end @ a.T, spread)
        density = density * law.log_prob(likelihood.y[0]).exp()
        error = torch.linalg.solve(spread, (likelihood.y - end @ a.T)[:, :, None])
        end = end + (covariance @ a.T @ error)[:, :, 0]
    total = density.sum() * grid.cell
    return math.log(float(total)), (density[:, None] * end).sum(0) * grid.cell / total


@pytest.mark.parametrize("name", ["tds", "matheron", "mcgdiff", "smcdiff"])
@pytest.mark.parametrize("dimension", [1, 2])
def test_weights_and_evidence_are_those_of_quadrature(name: str, dimension: int) -> None:
    """For the prior that the steps have; 1e-6 for each of two or three means over at least 1,000 groups."""
    problem = mixture(dimension)
    settings = {"steps": STEPS} | ({"spread": 1.3} if name == "tds" else {})
    log_evidence, mean = by_quadrature(problem, make_sampler(name, settings))
    for particles in (1, 4):
        sampler = make_sampler(name, {**settings, "particles": particles})
        assert_unbiased(sample(sampler, problem, 4000, seed=3, stream_size=1000), log_evidence, mean)


def exact_log_evidence(problem: Problem) -> float:
    """`log p(y)` of a Gaussian or a mixture of Gaussians with a shared covariance, from scipy."""
    prior = problem.denoiser
    size, like = problem.event_shape[0], problem.likelihood
    a = like.operator(torch.eye(size, dtype=torch.float64).to(like.y)).T.double().numpy()
    noise, y = like.sigma_y**2 * np.eye(len(a)), like.y[0].double().numpy()
    if isinstance(prior, Gaussian):
        parts = [(1.0, prior.mean.double().numpy(), prior.covariance_matrix().numpy())]
    else:
        assert isinstance(prior, GaussianMixture)
        shared = prior._values.double().expand(1, size)[0].diag().numpy()
        parts = [(w, m.numpy(), shared) for w, m in zip(prior.weights.tolist(), prior._means, strict=True)]
    each = [w * stats.multivariate_normal(a @ m, a @ c @ a.T + noise).pdf(y) for w, m, c in parts]
    return math.log(sum(each))


FINE = {
    "tds": {"steps": 300, "particles": 100},
    "matheron": {"steps": 25, "particles": 100},
    "mcgdiff": {"steps": 300, "particles": 100},
    "smcdiff": {"steps": 300, "particles": 100},
    "split-gibbs-smc": {"particles": 100, "walk_steps": 40, "noisiest": 4.0},
}


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_evidence_tends_to_the_exact_one(name: str, kind: str) -> None:
    """Fifteen filters of 100. Allowed: 0.15 nats, which the steps err by at most, and 4.89 standard errors."""
    problem = random_gaussian_problem(4, 2, 1, 0.5, dtype=torch.float64) if kind == "gaussian" else mixture(2)
    drawn = sample(make_sampler(name, FINE[name]), problem, 1500, seed=4, stream_size=100)
    assert drawn.log_evidence is not None
    ratio = (drawn.log_evidence[0] - exact_log_evidence(problem)).exp()
    error = math.log(float(ratio.mean()))
    assert abs(error) < 0.15 + ERRORS * float(ratio.std()) / math.sqrt(len(ratio))


def slope(name: str, counts: tuple[int, ...], groups: int) -> tuple[float, float]:
    """Of the log of the evidence's relative standard deviation over the log of the particles; its error (bootstrap)."""
    problem = random_gaussian_problem(3, 2, 0, 0.5, dtype=torch.float64)
    found = []
    for count in counts:
        settings = {"steps": 10, "particles": count} | ({"spread": 1.0} if name == "tds" else {})
        drawn = sample(make_sampler(name, settings), problem, groups * count, seed=5, stream_size=count)
        assert drawn.log_evidence is not None
        found.append(drawn.log_evidence[0].exp().numpy())
    rng, places = np.random.default_rng(6), np.log(counts) - np.log(counts).mean()

    def fitted(parts) -> float:
        return float(places @ [math.log(part.std() / part.mean()) for part in parts] / (places @ places))

    again = [fitted([rng.choice(part, len(part)) for part in found]) for _ in range(300)]
    return fitted(found), float(np.std(again))


@pytest.mark.parametrize("name", ["tds", "split-gibbs-smc"])
def test_error_of_the_evidence_falls_as_the_root_of_the_particles(name: str) -> None:
    """The slope is -1/2 as particles grow; 0.1 is allowed for 8 of them, and 4.89 standard errors (1e-6)."""
    found, error = slope(name, (8, 32, 128), 150)
    assert abs(found + 0.5) < 0.1 + ERRORS * error
    assert error < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tds", "matheron", "mcgdiff", "split-gibbs-smc"])
def test_error_of_the_evidence_falls_as_the_root_of_up_to_a_thousand_particles(name: str) -> None:
    """As above, with 0.05 allowed."""
    found, error = slope(name, (16, 64, 256, 1024), 400)
    assert abs(found + 0.5) < 0.05 + ERRORS * error
    assert error < 0.06


def test_paths_of_smcdiff_agree_on_the_evidence_as_steps_grow() -> None:
    """With particles that are many, its spread over paths falls as the root of the steps; 300 paths, 1e-6."""
    problem, spreads = toy(1, 1), []
    for steps in (25, 100, 400):
        drawn = sample(make_sampler("smcdiff", {"steps": steps}), problem, 300, seed=5, stream_size=300)
        assert drawn.log_evidence is not None
        spreads.append(float(drawn.log_evidence[0].std()))
    places = np.log([25, 100, 400]) - math.log(100)
    found = float(places @ np.log(spreads) / (places @ places))
    # a standard deviation of 300 has an error of 4 % for a normal law, and half as much again for a skew one
    assert abs(found + 0.5) < 0.1 + ERRORS * 0.06 / math.sqrt(float(places @ places))


def filtered_law(p, steps: int) -> tuple[float, float, float]:
    """FPS on one entry in the limit of particles: mean, and variance between and within paths, by Kalman filters."""
    times, rng = [*formulas.levels(p.T, steps), 0], np.random.default_rng(7)
    a, y = p.A[0, 0], np.full(20_000, p.y[0] / p.A[0, 0])
    path = {0: y}
    for below, s in pairwise(times[::-1]):
        path[s] = path[below] + math.sqrt(formulas.ratio(p, s) ** 2 - formulas.ratio(p, below) ** 2) * (
            rng.standard_normal(len(y))
        )
    mean, variance, t = np.zeros(len(y)), 1.0, None
    for s in times:
        if t is not None:
            slope = float(p.jacobian(t)[0, 0])
            shift = float(p.denoise(np.zeros((1, 1)), t)[0, 0])
            if s:
                from_x0, std = p.ddpm(1.0, 0.0, t, s)
                slope, shift = from_x0 * slope + p.ddpm(0.0, 1.0, t, s)[0], from_x0 * shift
            mean, variance = shift + slope * mean, slope**2 * variance + (std**2 if s else formulas.ratio(p, t) ** 2)
        noise = p.alpha_squared[s] * (p.sigma_y / a) ** 2
        gain = variance / (variance + noise)
        mean = mean + gain * (math.sqrt(p.alpha_squared[s]) * path[s] - mean)
        variance, t = variance * (1 - gain), s
    return float(mean.mean()), float(mean.var()), variance


def test_fps_tends_to_the_draws_of_a_noiseless_observation_as_steps_grow() -> None:
    """In closed form: with 10, 100 and 1,000 steps its variance is a falling share of the posterior's, and its mean
    goes to y. The sampler has that law: means and variances of 1,500 groups, 1e-6 each, and 3 % for 32 particles."""
    problem = toy(1, 1)
    p, posterior = dense(problem), problem.denoiser.posterior(problem.likelihood)
    exact = float(posterior.covariance_matrix())
    laws = {steps: filtered_law(p, steps) for steps in (10, 100, 1000)}
    shares = [(between + within) / exact for _, between, within in laws.values()]
    assert shares[0] > 2 * shares[1] > 4 * shares[2]
    assert abs(laws[1000][0] - p.y[0] / p.A[0, 0]) < 0.2 * abs(laws[10][0] - p.y[0] / p.A[0, 0])
    drawn = sample(make_sampler("fps:smc", {"steps": 10, "particles": 32}), problem, 1500 * 32, seed=8, stream_size=32)
    assert drawn.log_weight is not None
    draws, log_weight = (part[0].unflatten(0, (1500, 32)).numpy() for part in (drawn.draws, drawn.log_weight))
    one = one_of_each(draws, log_weight, np.random.default_rng(9))[:, 0]
    mean, between, within = laws[10]
    std = math.sqrt(between + within)
    assert abs(float(one.mean()) - mean) < ERRORS * std / math.sqrt(1500) + 0.03 * std
    assert abs(float(one.var()) / std**2 - 1) < ERRORS * math.sqrt(2 / 1500) + 0.03


def test_split_gibbs_smc_tends_to_the_posterior_as_the_walk_grows() -> None:
    """Evidence of a Gaussian: an error that falls at first order with the steps of the walk; 1e-6."""
    problem = random_gaussian_problem(3, 2, 2, 0.5, dtype=torch.float64)
    exact, errors = exact_log_evidence(problem), []
    for walk_steps in (2, 8, 32):
        sampler = make_sampler("split-gibbs-smc", {"particles": 4, "walk_steps": walk_steps, "noisiest": 4.0})
        drawn = sample(sampler, problem, 4000, seed=9, stream_size=1000)
        assert drawn.log_evidence is not None
        ratio = (drawn.log_evidence[0] - exact).exp()
        errors.append((abs(float(ratio.mean()) - 1), float(ratio.std()) / math.sqrt(len(ratio))))
    (first, _), (second, _), (third, noise) = errors
    assert second < 0.7 * first
    assert third < 0.5 * second + ERRORS * noise


PARTICLE_SAMPLERS = ("tds", "mcgdiff", "smcdiff", "fps", "split-gibbs-smc")


@pytest.mark.parametrize("name", PARTICLE_SAMPLERS)
def test_an_operator_without_the_determinant_that_weights_need_is_refused(name: str) -> None:
    class Half(LinearOperator):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x / 2

        def adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return y / 2

    problem = Problem.simulate(Gaussian(torch.zeros(2), 1.0), Half(), torch.zeros(1, 2), sigma_y=0.1)
    with pytest.raises(UnsupportedProblem, match=f"`{name}` needs an operator with an SVD, Half is linear"):
        sample(make_sampler(name), problem)


@pytest.mark.parametrize("name", PARTICLE_SAMPLERS)
def test_draws_that_are_no_whole_groups_are_refused(name: str) -> None:
    problem = Problem.simulate(Gaussian(torch.zeros(2), 1.0), Identity(), torch.zeros(1, 2), sigma_y=0.1)
    with pytest.raises(ConfigError, match="n=6 samples cannot be drawn in groups of 4\nhint: take 4 or 8 samples"):
        sample(make_sampler(name, {"particles": 4}), problem, 6)
    with pytest.raises(ConfigError, match="particles must be at least 1, got 0"):
        make_sampler(name, {"particles": 0})


@pytest.mark.parametrize("name", ["tds", "mcgdiff", "smcdiff", "split-gibbs-smc"])
def test_weights_that_collapse_are_remarked(name: str) -> None:
    prior = Gaussian(torch.zeros(400), 1.0)
    problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.05)
    drawn = sample(make_sampler(name, {"steps": 5}), problem, 8)
    assert bool(torch.isfinite(drawn.draws).all())
    assert "the weights of observation 0 collapsed: 8 draws count as" in drawn.record["remarks"][0]


def test_a_smallest_coupling_above_the_largest_is_refused() -> None:
    problem = Problem.simulate(Gaussian(torch.zeros(2), 1.0), Identity(), torch.zeros(1, 2), sigma_y=3.0)
    with pytest.raises(ConfigError, match="the smallest rho, 1.5, is above the largest, 1"):
        sample(make_sampler("split-gibbs-smc", {"noisiest": 1.0}), problem)
