"""The twisted diffusion sampler.

Paper: Wu, Trippe, Naesseth, Blei, Cunningham 2023, "Practical and Asymptotically Exact Conditional Sampling in
Diffusion Models", NeurIPS, https://arxiv.org/abs/2306.17775. Implemented: Algorithm 1 for linear operators and Gaussian
noise, with islands of particles.

Differences from the paper:
- the proposal need not differentiate the network. It moves the denoised state towards y with the covariance of the
  twist, and weights make up for the difference. The paper's proposal, along the derivative of the twist, is
  `derivative = true`;
- the twist's variance is `r_t^2 = tau^2 sigma_t^2 / (tau^2 alpha_t^2 + sigma_t^2)`, that of `p(x_0 | x_t)` for a prior
  of variance tau^2, in place of `sigma_t^2` alone. Where tau is not given it is measured at the noisiest time;
- the last twist is the likelihood of `D(x_t, t)` at the cleanest time, which is what is returned;
- resampling is systematic, at the effective sample size that `resample_below` says; the last weights are returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Level, Time, check_steps
from midguide.errors import ConfigError
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.maths.weights import effective_size, log_mean_exp, normalized, resampled
from midguide.operators.base import SVDOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Finished,
    Needs,
    Step,
    check_particles,
    initial_noise,
    schedule_times,
)

PROBE = 1e-2
"""Length, in standard deviations of the noise, of the step along which the spread of the prior is measured."""


class Particles(NamedTuple):
    """Particles at one time.

    Args:
        x_t: shape (B, *event).
        x0: `D(x_t, t)`, shape of x_t.
        aimed: x0 moved towards y, shape of x_t.
        variance: of the prior, per entry (tau^2), float64, shape (B,).
        log_twist: log of the twist at x_t, float64, shape (B,).
        log_weight: its mean in a group is the evidence so far, float64, shape (B,).
    """

    x_t: Tensor
    x0: Tensor
    aimed: Tensor
    variance: Tensor
    log_twist: Tensor
    log_weight: Tensor


@SAMPLERS.register("tds")
@dataclass(frozen=True, kw_only=True)
class TDS:
    """Particles that aim at y by a Gaussian twist of the denoised state, weighted for what the aim changed.

    Target at time t: `p_t(x) g_t(x)` with the twist `g_t(x) = N(y; A D(x, t), sigma_y^2 I + r_t^2 A A^T)`.
    Proposal: the backward kernel of the prior at `D + r_t^2 A^T (sigma_y^2 I + r_t^2 A A^T)^-1 (y - A D)`.

    Tends to the posterior: the bias of one group falls with the number of particles, that of the backward kernel with
    the steps. With one particle draws are independent and weighted. Weights of draws with many measured values
    collapse: see the effective sample size.

    Cost: `steps` forwards, and two more where `spread` is measured; no vjp, or `steps` with `derivative`.

    Args:
        steps: noise levels visited.
        particles: samples of one group, which are resampled together; 1 for independent weighted draws.
        spread: standard deviation of an entry of the prior (tau); measured where it is off.
        resample_below: resample a group when its effective sample size falls below this share of its particles.
        derivative: the paper's proposal, along the derivative of the twist.
    """

    steps: int = 100
    particles: int = 1
    spread: float | None = None
    resample_below: float = 0.5
    derivative: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_particles(self.particles, self.resample_below)
        if self.spread is not None and not 0.0 < self.spread:
            raise ConfigError(f"spread must be positive, got {self.spread}")

    @property
    def needs(self) -> Needs:
        return Needs(
            operator=SVDOperator,
            likelihood=GaussianLikelihood,
            gradients=self.derivative,
            group=self.particles,
        )

    times = schedule_times

    def calls(self, problem: Problem) -> Calls:
        return Calls(self.steps + 2 * (self.spread is None), self.steps if self.derivative else 0)

    def init(self, problem: Problem, rng: Rng) -> Particles:
        t = self.times(problem)[0]
        x_t = initial_noise(problem, t, rng)
        variance = self._variance(problem, x_t, t, rng)
        x0, aimed, log_twist = self._aim(problem, x_t, t, variance)
        return Particles(x_t, x0, aimed, variance, log_twist, log_twist)

    def step(self, problem: Problem, state: Particles, t: Time, s: Time, rng: Rng) -> Step:
        log_weight, members = resampled(state.log_weight, rng, self.resample_below)
        size = effective_size(normalized(rng.layout.split(log_weight)))
        picked = (rng.layout.pick(x, members) for x in state[:-1])
        state = Particles._make((*picked, log_weight))
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        bridge = kernels.bridge(CLEAN, level_s, level_t)
        z = rng.normal(state.x_t)
        x_s = bridge.draw(state.aimed, state.x_t, z)
        # log N(x_s; m(D), v) - log N(x_s; m(D'), v), with x_s = m(D') + std z
        moved = (bridge.weight_s / bridge.std * (state.aimed - state.x0)).double().flatten(1)
        kernel = -(moved * z.double().flatten(1)).sum(1) - 0.5 * moved.square().sum(1)
        x0, aimed, log_twist = self._aim(problem, x_s, s, state.variance)
        log_weight = state.log_weight + kernel + log_twist - state.log_twist
        moved_on = state._replace(x_t=x_s, x0=x0, aimed=aimed, log_twist=log_twist, log_weight=log_weight)
        return Step(moved_on, {"effective_sample_size": size})

    def finish(self, problem: Problem, state: Particles, t: Time, rng: Rng) -> Finished:
        log_weight = state.log_weight + problem.likelihood.log_density(state.x0) - state.log_twist
        return Finished(state.x0, log_weight, log_mean_exp(rng.layout.split(log_weight)))

    def _variance(self, problem: Problem, x_t: Tensor, t: Time, rng: Rng) -> Tensor:
        """The prior's variance per entry, shape (B,): that of `p(x_0 | x_t)` at the noisiest time, the same in a group.

        `C = sigma^2/alpha dD/dx`, whose mean diagonal is `z^T C z / d` on average over random signs z.
        """
        if self.spread is not None:
            return torch.full((len(x_t),), self.spread**2, dtype=torch.float64, device=x_t.device)
        level, signs = problem.schedule.level(t), rng.normal(x_t).sign()
        step = PROBE * level.sigma
        slope = (problem.denoiser(x_t + step * signs, t) - problem.denoiser(x_t, t)).double() / step
        found = level.sigma**2 / level.alpha * (slope * signs.double()).flatten(1).mean(1)
        mean = rng.layout.split(found).mean(1)
        return rng.layout.spread(mean.clamp_min(1e-12 * level.ratio**2))

    def _aim(self, problem: Problem, x: Tensor, t: Time, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`D(x, t)`, the same moved towards y, and the log of the twist.

        Moved to `D + r_t^2 A^T (sigma_y^2 I + r_t^2 A A^T)^-1 (y - A D)`, or as published by `sigma_t^2 / alpha_t`
        times the score of the twist.
        """
        level = problem.schedule.level(t)
        variance = _twist_variance(variance, level)
        if not self.derivative:
            x0 = problem.denoiser(x, t)
            return x0, x0 + _pull(problem, x0, variance), _log_twist(problem, x0, variance)

        def twist(x: Tensor) -> tuple[Tensor, Tensor]:
            x0 = problem.denoiser(x, t)
            return _log_twist(problem, x0, variance), x0

        log_twist, score, x0 = autodiff.value_and_grad(twist, x)
        return x0, x0 + level.sigma**2 / level.alpha * score, log_twist


def _twist_variance(variance: Tensor, level: Level) -> Tensor:
    """`r_t^2`: variance of an entry of x_0 given x_t, for a Gaussian prior of this variance, shape (B,)."""
    return variance * level.sigma**2 / (variance * level.alpha**2 + level.sigma**2)


def _log_twist(problem: Problem, x0: Tensor, variance: Tensor) -> Tensor:
    """`log N(y; A x0, sigma_y^2 I + r^2 A A^T)` up to a constant, in the operator's basis, shape (B,)."""
    basis = problem.spectral
    spread = basis.noise.double().square() + variance[:, None]
    error = (basis.y - basis.vt(x0)).double()
    terms = error.square() / spread + spread.log()
    return -0.5 * torch.where(basis.seen, terms, 0.0).sum(1)


def _pull(problem: Problem, x0: Tensor, variance: Tensor) -> Tensor:
    """`r^2 A^T (sigma_y^2 I + r^2 A A^T)^-1 (y - A x0)`, shape of x0."""
    basis = problem.spectral
    gain = variance[:, None] / (basis.noise.double().square() + variance[:, None])
    return basis.v(torch.where(basis.seen, gain.to(x0) * (basis.y - basis.vt(x0)), 0.0), x0)
