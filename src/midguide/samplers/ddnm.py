"""Denoising diffusion null-space models (DDNM and DDNM+).

Paper: Wang, Yu, Zhang 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR,
https://arxiv.org/abs/2212.00490. Implemented: DDNM (Eq. 12), DDNM+ for noisy measurements (Eq. 17 and 51), and
time travel (Algorithm 2).

Differences from the paper:
- any decreasing list of times, and the last step returns `D(x_t, t)` at the cleanest time visited;
- time travel is off by default, and offered for DDNM, too. Its stretches do not overlap (travel interval = travel
  length), as in the authors' code. So it is in that of RePaint (Lugmayr et al. 2022), where the idea comes from.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import Time, check_steps
from midguide.diffusion.walks import Travel, walked_again
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.linalg import weighted_sum
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, SVDOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Needs,
    NoisyState,
    Step,
    check_share,
    finish_denoised,
    linear,
    schedule_times,
    start_from_noise,
)


@dataclass(frozen=True, kw_only=True)
class _NullSpace(ABC):
    """What both methods share: their settings, and the walk with its time travel; `move` is what they differ in.

    Args:
        steps: noise levels visited.
        eta: share of fresh noise, in [0, 1].
        travel: time travel, off by default.
    """

    needs = Needs(operator=LinearOperator, likelihood=GaussianLikelihood)

    steps: int = 1000
    eta: float = 0.85
    travel: Travel = Travel()

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("eta", self.eta)
        self.travel.check(self.steps)

    times = schedule_times
    init = start_from_noise
    finish = finish_denoised

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps + self.travel.steps(self.steps), vjps=0)

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        """A move from `t` to `s`, and the stretches of the time travel that end at `s`."""
        x_s = self.move(problem, state.x_t, t, s, rng)
        if self.travel.active:
            stretches = self.travel.again(self.times(problem), s)
            x_s = walked_again(stretches, x_s, partial(self.move, problem), problem.schedule, rng)
        return Step(NoisyState(x_s), {})

    @abstractmethod
    def move(self, problem: Problem, x_t: Tensor, t: Time, s: Time, rng: Rng) -> Tensor:
        """`x_s` from `x_t`, shape (B, *event)."""


@SAMPLERS.register("ddnm")
@dataclass(frozen=True, kw_only=True)
class DDNM(_NullSpace):
    """The range of A from the measurement, its null space from the prior; for noiseless measurements.

    `x0' = D(x_t, t) - A^+ (A D(x_t, t) - y)`, `x_s = alpha_s x0' + sigma_s (eta z + sqrt(1 - eta^2) eps)`.

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.00 (0.92 is right).
    The standard deviation is 0.03 times that of the posterior.

    Cost: `steps` forwards and those of the time travel, no vjp; a pseudo-inverse of the operator each.
    """

    def move(self, problem: Problem, x_t: Tensor, t: Time, s: Time, rng: Rng) -> Tensor:
        operator, y = linear(problem)
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        x0_hat = problem.denoiser(x_t, t)
        eps = kernels.eps_from_x0(x_t, x0_hat, level_t)
        x0 = x0_hat - operator.pinv(operator(x0_hat) - y)
        fresh, kept = level_s.sigma * self.eta, level_s.sigma * math.sqrt(1 - self.eta**2)
        return weighted_sum((level_s.alpha, x0), (fresh, rng.normal(x_t)), (kept, eps))


@SAMPLERS.register("ddnm-plus")
@dataclass(frozen=True, kw_only=True)
class DDNMPlus(_NullSpace):
    """DDNM for noisy measurements: it corrects each singular direction as far as the noise level allows.

    The step works in the basis V, with `c = alpha_s sigma_y / s_j`. Where `sigma_s >= c` the measured coefficient
    replaces the prior's, and the step adds noise of variance `sigma_s^2 - c^2`. Where `sigma_s < c` it mixes in the
    measured coefficient with weight `sigma_s sqrt(1 - eta^2) / c` and noise `eta sigma_s z`. On the null space the step
    is DDIM's.

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.10 (0.92 is right).
    The standard deviation is 0.33 times that of the posterior.

    Cost: `steps` forwards and those of the time travel, no vjp.
    """

    needs = Needs(operator=SVDOperator, likelihood=GaussianLikelihood)

    def move(self, problem: Problem, x_t: Tensor, t: Time, s: Time, rng: Rng) -> Tensor:
        spectrum = problem.spectral
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        x0_hat = problem.denoiser(x_t, t)
        eps = spectrum.vt(kernels.eps_from_x0(x_t, x0_hat, level_t))
        z = spectrum.vt(rng.normal(x_t))
        c, sigma = level_s.alpha * spectrum.noise, level_s.sigma  # infinite on the null space

        # for each coefficient: weight of y, of fresh noise, of the noise in x_t
        rest = sigma * math.sqrt(1 - self.eta**2)
        replaced = torch.where(sigma >= c, 1.0, rest / c)  # 0 on the null space
        fresh = torch.where(sigma >= c, (sigma**2 - c**2).clamp_min(0).sqrt(), self.eta * sigma)
        kept = torch.where(spectrum.seen, torch.zeros_like(c), rest)
        x0 = torch.lerp(spectrum.vt(x0_hat), spectrum.y, replaced)
        return spectrum.v((level_s.alpha * x0).addcmul_(fresh, z).addcmul_(kept, eps), x_t)
