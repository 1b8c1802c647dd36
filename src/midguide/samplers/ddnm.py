"""Denoising diffusion null-space models (DDNM and DDNM+).

Paper: Wang, Yu, Zhang 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR,
https://arxiv.org/abs/2212.00490. Implemented: DDNM (Eq. 12) and DDNM+ for noisy measurements (Eq. 17 and 51).

Differences from the paper:
- any decreasing list of times, and the last step returns `D(x_t, t)` at the cleanest time visited;
- no time travel (Algorithm 2 of the paper), which repeats steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from midguide import kernels
from midguide.likelihoods import GaussianLikelihood
from midguide.operators.base import LinearOperator, SVDOperator
from midguide.problem import Problem
from midguide.rng import Rng
from midguide.samplers.base import Calls, Needs, Step, check_share, initial_noise, linear, spectral_gaussian
from midguide.schedules import Time, check_steps


class DDNMState(NamedTuple):
    """`x_t`: shape (B, *event)."""

    x_t: Tensor


@dataclass(frozen=True, kw_only=True)
class DDNM:
    """The range of A from the measurement, its null space from the prior; for noiseless measurements.

    `x0' = D(x_t, t) - A^+ (A D(x_t, t) - y)`, `x_s = alpha_s x0' + sigma_s (eta z + sqrt(1 - eta^2) eps)`.

    Cost: `steps` forwards, no vjp; a pseudo-inverse of the operator each.

    Args:
        steps: noise levels visited.
        eta: share of fresh noise, in [0, 1].
    """

    needs: ClassVar[Needs] = Needs(operator=LinearOperator)

    steps: int = 1000
    eta: float = 0.85

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("eta", self.eta)

    def times(self, problem: Problem) -> list[Time]:
        return problem.schedule.times(self.steps)

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=0)

    def init(self, problem: Problem, rng: Rng) -> DDNMState:
        return DDNMState(initial_noise(problem, self.times(problem)[0], rng))

    def step(self, problem: Problem, state: DDNMState, t: Time, s: Time, rng: Rng) -> Step:
        x_t = state.x_t
        operator, y = linear(problem)
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        x0_hat = problem.denoiser(x_t, t)
        eps = kernels.eps_from_x0(x_t, x0_hat, level_t)
        x0 = x0_hat - operator.pinv(operator(x0_hat) - y)
        noise = self.eta * rng.normal(x_t) + math.sqrt(1 - self.eta**2) * eps
        return Step(DDNMState(level_s.alpha * x0 + level_s.sigma * noise), {})

    def finish(self, problem: Problem, state: DDNMState, t: Time) -> Tensor:
        return problem.denoiser(state.x_t, t)


@dataclass(frozen=True, kw_only=True)
class DDNMPlus:
    """DDNM for noisy measurements: each singular direction is corrected as far as the noise level allows.

    In the basis V, with `c = alpha_s sigma_y / s_j`: where `sigma_s >= c` the measured coefficient replaces the
    prior's and noise of variance `sigma_s^2 - c^2` is added; where `sigma_s < c` it is mixed in with weight
    `sigma_s sqrt(1 - eta^2) / c`, with noise `eta sigma_s z`; on the null space the step is DDIM's.

    Cost: `steps` forwards, no vjp.

    Args:
        steps: noise levels visited.
        eta: share of fresh noise, in [0, 1].
    """

    needs: ClassVar[Needs] = Needs(operator=SVDOperator, likelihood=GaussianLikelihood)

    steps: int = 1000
    eta: float = 0.85

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("eta", self.eta)

    def times(self, problem: Problem) -> list[Time]:
        return problem.schedule.times(self.steps)

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=0)

    def init(self, problem: Problem, rng: Rng) -> DDNMState:
        return DDNMState(initial_noise(problem, self.times(problem)[0], rng))

    def step(self, problem: Problem, state: DDNMState, t: Time, s: Time, rng: Rng) -> Step:
        x_t = state.x_t
        spectrum = spectral_gaussian(problem)
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        x0_hat = problem.denoiser(x_t, t)
        eps = spectrum.vt(kernels.eps_from_x0(x_t, x0_hat, level_t))
        z = spectrum.vt(rng.normal(x_t))
        c, sigma = level_s.alpha * spectrum.noise, level_s.sigma  # infinite on the null space

        weight = torch.where(sigma >= c, 1.0, sigma * math.sqrt(1 - self.eta**2) / c)
        x0 = spectrum.vt(x0_hat)
        x0 = torch.where(spectrum.seen, x0 + weight * (spectrum.y - x0), x0)
        on_range = torch.where(sigma >= c, (sigma**2 - c**2).clamp_min(0).sqrt(), self.eta * sigma) * z
        on_null_space = sigma * (self.eta * z + math.sqrt(1 - self.eta**2) * eps)
        x_s = spectrum.v(level_s.alpha * x0 + torch.where(spectrum.seen, on_range, on_null_space), x_t)
        return Step(DDNMState(x_s), {})

    def finish(self, problem: Problem, state: DDNMState, t: Time) -> Tensor:
        return problem.denoiser(state.x_t, t)
