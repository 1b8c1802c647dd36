"""Second-order transitions: draws of x_0 from a Gaussian with both moments of the prior, conditioned on y.

No paper: this package's own. The rule that conditions a draw is that of Matheron (Journel and Huijbregts 1978, "Mining
Geostatistics"). The moments are those of Tweedie's second formula (Meng, Song, Li, Ermon 2021,
https://arxiv.org/abs/2111.04726). Moment matching with the mean alone is `mmps`. The weights make it a sequential Monte
Carlo method with this transition as proposal, as in Wu et al. 2023 (`tds`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.kernels import Bridge
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.covariance import Across, Linear, Moments, measured
from midguide.maths.rng import Rng
from midguide.maths.weights import log_mean_exp, resampled
from midguide.operators.base import LinearOperator, Operator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    SOLVED,
    Calls,
    Finished,
    Needs,
    Sign,
    Step,
    check_share,
    gaussian,
    initial_noise,
    linear,
    linearized,
    products,
    schedule_times,
)

MOST_MEASURED = 64
"""Most measured values of weighted draws: weights need the determinant of a matrix of that size."""


class Weighted(NamedTuple):
    """State, with weights.

    Args:
        x_t: shape (B, *event).
        log_weight: its mean in a group is the evidence so far, float64, shape (B,).
        log_counted: log density of y that the last transition has counted, float64, shape (B,).
    """

    x_t: Tensor
    log_weight: Tensor
    log_counted: Tensor


class _Seen(NamedTuple):
    """A linear operator without the values that it hides, which a mask of an image has by the thousand.

    Args:
        operator: with all values.
        places: of the values that are kept, in a flat measurement, shape (B, m).
        there: which of them are measured: rows with fewer than others keep some that are not, as zeros.
        like: measurements of all values, shape (B, *measurement).
    """

    operator: Linear
    places: Tensor
    there: Tensor
    like: Tensor

    def of(self, y: Tensor) -> Tensor:
        """What is kept of measurements, shape (B, *measurement) -> (B, m)."""
        return torch.where(self.there, y.flatten(1).gather(1, self.places), 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        return self.of(self.operator(x))

    def adjoint(self, kept: Tensor) -> Tensor:
        flat = torch.zeros_like(self.like.flatten(1))
        flat.scatter_(1, self.places, torch.where(self.there, kept, 0.0))
        return self.operator.adjoint(flat.reshape(self.like.shape))


@SAMPLERS.register("matheron")
@dataclass(frozen=True, kw_only=True)
class Matheron:
    """Draws `x_0 ~ N(D, C)` given y, and moves along the exact bridge to it.

    `x_0 = x' + C A^T (A C A^T + sigma_y^2 I)^-1 (y - A x' - e)`, with `x' ~ N(D, C)`, `e ~ N(0, sigma_y^2 I)` and
    `C = sigma_t^2 / alpha_t dD/dx` the covariance of `p(x_0 | x_t)`; then `x_s ~ q(x_s | x_0, x_t)`.

    Exact for Gaussian priors at every number of steps. Elsewhere it tends to the posterior with weights only, as steps
    and samples grow. For small steps the Gaussian of both moments is exact up to third order.

    Cost: `steps` forwards. A network also takes at each step `directions` vjps for the draw and at most as many for the
    conditioning. Weights cost `directions` more, and one for each measured value.

    Args:
        steps: noise levels visited.
        directions: of the Krylov spaces of the covariance's square root and of the solve, where it is a network's; for
            weights the vectors of noise from which the covariance is condensed, which must be one to agree with itself.
        particles: weigh draws by what the Gaussian leaves out, and resample so many together; 1 for independent
            weighted draws, off for draws without weights. For linear operators and up to 64 measured values.
        denoised: end at the mean of the last Gaussian, not at a draw of it. Draws of a network show the noise that few
            directions leave in them, as visible grain; for draws without weights.
        resample_below: resample a group when its effective sample size falls below this share of its particles.
    """

    signs: ClassVar[dict[str, Sign]] = {"left": SOLVED}

    tunable: ClassVar[dict[str, tuple[object, ...]]] = {"directions": (1, 3, 8, 16)}

    steps: int = 25
    directions: int = 3
    particles: int | None = None
    denoised: bool = False
    resample_below: float = 0.5

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("resample_below", self.resample_below)
        if self.directions < 1 or (self.particles is not None and self.particles < 1):
            raise ConfigError(f"directions and particles must be at least 1, got {self.directions}, {self.particles}")
        if self.denoised and self.weighted:
            raise ConfigError("weights are those of draws", hint="set `denoised` or `particles`, not both")

    @property
    def weighted(self) -> bool:
        """Whether draws have weights."""
        return self.particles is not None

    @property
    def needs(self) -> Needs:
        operator = LinearOperator if self.weighted else Operator
        return Needs(operator=operator, likelihood=GaussianLikelihood, gradients=True, group=self.particles or 1)

    times = schedule_times

    def calls(self, problem: Problem) -> Calls:
        if problem.denoiser.exact_moments:
            return Calls(self.steps, 0)
        values = _values(problem)
        space = min(self.directions, math.prod(problem.event_shape))
        if self.weighted:
            return Calls(self.steps, self.steps * min(values + space, math.prod(problem.event_shape)))
        drawn, solved = self.steps - self.denoised, self.steps * products(problem, self.directions)
        return Calls(self.steps, drawn * space + solved)

    def init(self, problem: Problem, rng: Rng) -> Weighted:
        values = _values(problem)
        if self.weighted and values > MOST_MEASURED:
            raise UnsupportedProblem(
                f"`matheron` weighs draws of up to {MOST_MEASURED} measured values, here are {values}",
                hint="set particles = off",
            )
        x_t = initial_noise(problem, self.times(problem)[0], rng)
        zeros = torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device)
        return Weighted(x_t, zeros, zeros)

    def step(self, problem: Problem, state: Weighted, t: Time, s: Time, rng: Rng) -> Step:
        moments, across = self._moments(problem, state.x_t, t, rng)
        x0, info = _conditioned(problem, moments, across, rng)
        bridge = kernels.bridge(CLEAN, problem.schedule.level(s), problem.schedule.level(t))
        x_s = bridge.draw(x0, state.x_t, rng.normal(state.x_t))
        if across is None:
            return Step(state._replace(x_t=x_s), info)
        log_weight = state.log_weight + _log_normal(problem, moments.mean, across.within) - state.log_counted
        log_counted = _log_predicted(problem, moments, bridge, x_s, state.x_t)
        log_weight, members = resampled(log_weight, rng, self.resample_below)
        x_s, log_counted = (rng.layout.pick(x, members) for x in (x_s, log_counted))
        return Step(Weighted(x_s, log_weight, log_counted), info)

    def finish(self, problem: Problem, state: Weighted, t: Time, rng: Rng) -> Finished:
        moments, across = self._moments(problem, state.x_t, t, rng)
        if self.denoised:
            return Finished(_mean(problem, moments))
        x0, _ = _conditioned(problem, moments, across, rng)
        if across is None:
            return Finished(x0)
        log_weight = state.log_weight + _log_normal(problem, moments.mean, across.within) - state.log_counted
        return Finished(x0, log_weight, log_mean_exp(rng.layout.split(log_weight)))

    def _moments(self, problem: Problem, x_t: Tensor, t: Time, rng: Rng) -> tuple[Moments, Across | None]:
        """Moments, and for weights, which are those of one covariance, what y shares with x_0."""
        moments = problem.denoiser.moments(x_t, t, directions=self.directions)
        if not self.weighted:
            return moments, None
        operator, y = _seen(problem)
        covariance = moments.covariance.condensed(operator, y, rng)
        return Moments(moments.mean, covariance), covariance.across(operator, y)


def _values(problem: Problem) -> int:
    """Values of an observation that weights look at: all of few, and of many those that are measured."""
    y = problem.likelihood.y
    values = math.prod(y.shape[1:])
    return values if values <= MOST_MEASURED else int(problem.likelihood.measured_values().max())


def _seen(problem: Problem) -> tuple[Linear, Tensor]:
    """The operator and the observations as weights look at them."""
    operator, y = linear(problem)
    if (values := _values(problem)) == math.prod(y.shape[1:]):
        return operator, y
    measured = operator.measured(y).expand(y.shape).flatten(1)
    there, places = measured.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    seen = _Seen(operator, places[:, :values], there[:, :values].bool(), y)
    return seen, seen.of(y)


def _conditioned(
    problem: Problem, moments: Moments, across: Across | None, rng: Rng
) -> tuple[Tensor, dict[str, Tensor]]:
    """A draw from `N(D, C)` given y, by Matheron's rule, and what its Krylov spaces left, shape of the mean."""
    likelihood, covariance = gaussian(problem), moments.covariance
    root = covariance.draw(rng, moments.mean)
    seen, operator = linearized(problem, moments.mean)
    noise = likelihood.sigma_y * rng.normal(likelihood.y)
    noise = torch.where(likelihood.operator.measured(likelihood.y), noise, 0.0)
    error, variance = likelihood.y - seen - operator(root.value) - noise, likelihood.sigma_y**2
    if across is None:
        solution = covariance.solve(operator, variance, error)
    else:
        kept = _seen(problem)[0]
        solution = across.solve(variance, kept.of(error) if isinstance(kept, _Seen) else error)
    indefinite = (root.indefinite | solution.indefinite).double()
    drawn = moments.mean + root.value + solution.gain
    return drawn, {"changed": root.change, "left": solution.residual, "indefinite": indefinite}


def _mean(problem: Problem, moments: Moments) -> Tensor:
    """The mean of `N(D, C)` given y, shape of the mean."""
    seen, operator = linearized(problem, moments.mean)
    likelihood = gaussian(problem)
    return moments.mean + moments.covariance.solve(operator, likelihood.sigma_y**2, likelihood.y - seen).gain


def _log_predicted(problem: Problem, moments: Moments, bridge: Bridge, x_s: Tensor, x_t: Tensor) -> Tensor:
    """`log p(y | x_s, x_t)` where `x_0 ~ N(D, C)` and x_s is the bridge's, shape (B,).

    Let c be the bridge's weight of x_0, and `w = std^2 / c^2`. Given x_s the mean of x_0 moves by
    `C (C + w I)^-1 (x_s - m(D)) / c`, and `w C (C + w I)^-1` is left of its covariance.
    """
    operator, y = _seen(problem)
    w = (bridge.std / bridge.weight_s) ** 2
    moved = (x_s - bridge.mean(moments.mean, x_t)) / bridge.weight_s
    units = torch.eye(math.prod(y.shape[1:])).to(y).unflatten(1, y.shape[1:])
    vectors = torch.stack([moved, *(operator.adjoint(unit.expand_as(y)) for unit in units)], 1)
    shrunk = moments.covariance.shrunk(vectors, w)
    return _log_normal(problem, moments.mean + shrunk[:, 0], w * measured(operator, shrunk[:, 1:]))


def _log_normal(problem: Problem, mean: Tensor, spread: Tensor) -> Tensor:
    """`log N(y; A mean, spread + sigma_y^2 I)` of the measured values; eigenvalues below zero count as zero."""
    operator, y = _seen(problem)
    likelihood = gaussian(problem)
    floor = likelihood.sigma_y**2
    values, vectors = torch.linalg.eigh(spread)
    values = values.clamp_min(0) + floor
    error = (y - operator(mean)).flatten(1).double()
    quadratic = (torch.einsum("bmi,bm->bi", vectors, error).square() / values).sum(1)
    hidden = error.shape[1] - likelihood.measured_values().double()
    constants = likelihood.measured_values() * math.log(2 * math.pi) - hidden * math.log(floor)
    return -0.5 * (quadratic + values.log().sum(1) + constants)
