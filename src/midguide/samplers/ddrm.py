"""Denoising diffusion restoration models (DDRM).

Paper: Kawar, Elad, Ermon, Song 2022, "Denoising Diffusion Restoration Models", NeurIPS,
https://arxiv.org/abs/2201.11793. Implemented: Eq. (7) and (8), with the separate `eta` of the two kinds of measured
directions and of the null space.

Differences from the paper: any schedule, through `x_t / alpha_t`, in which the noise is `sigma_t / alpha_t`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from midguide.diffusion import kernels
from midguide.diffusion.schedules import Time, check_steps
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.rng import Rng
from midguide.operators.base import SVDOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Needs,
    NoisyState,
    Step,
    check_share,
    finish_denoised,
    one_forward_a_step,
    schedule_times,
)


@SAMPLERS.register("ddrm")
@dataclass(frozen=True, kw_only=True)
class DDRM:
    """A diffusion of its own for each singular direction, conditioned on the measured coefficient.

    With `sigma = sigma_s / alpha_s`, `c = sigma_y / s_j` and `y_j = (U^T y)_j / s_j`, the coefficients of
    `x_s / alpha_s` are drawn from normals:

    - null space: mean `x0_j + sqrt(1 - eta^2) sigma eps_j`, std `eta sigma`;
    - `sigma < c`: mean `x0_j + sqrt(1 - eta^2) sigma (y_j - x0_j) / c`, std `eta sigma`;
    - `sigma >= c`: mean `(1 - eta_measured) x0_j + eta_measured y_j`, variance `sigma^2 - (eta_measured c)^2`.

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.24 (0.92 is right).
    The standard deviation is 0.48 times that of the posterior.

    Cost: `steps` forwards, no vjp.

    Args:
        steps: noise levels visited.
        eta: share of fresh noise where nothing, or too little, is measured (eta of the paper), in [0, 1].
        eta_measured: weight of the measured coefficient (eta_b of the paper), in [0, 1].
    """

    needs = Needs(operator=SVDOperator, likelihood=GaussianLikelihood)

    tunable: ClassVar[dict[str, tuple[object, ...]]] = {"eta": (0.5, 0.85, 1.0), "eta_measured": (0.5, 0.85, 1.0)}

    steps: int = 200
    eta: float = 0.85
    eta_measured: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("eta", self.eta)
        check_share("eta_measured", self.eta_measured)

    times = schedule_times
    calls = one_forward_a_step
    finish = finish_denoised

    def init(self, problem: Problem, rng: Rng) -> NoisyState:
        spectrum, zeros = problem.spectral, problem.zeros()
        level = problem.schedule.level(self.times(problem)[0])
        z = spectrum.vt(rng.normal(zeros))
        known = spectrum.seen & (level.ratio >= spectrum.noise)
        around_y = spectrum.y + (level.ratio**2 - spectrum.noise**2).clamp_min(0).sqrt() * z
        return NoisyState(level.alpha * spectrum.v(torch.where(known, around_y, level.ratio * z), zeros))

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        x_t = state.x_t
        spectrum = problem.spectral
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        x0 = spectrum.vt(problem.denoiser(x_t, t))
        eps = kernels.eps_from_x0(spectrum.vt(x_t), x0, level_t)
        z = spectrum.vt(rng.normal(x_t))
        sigma, c = level_s.ratio, spectrum.noise  # c is infinite on the null space

        # for each coefficient: weight of y, of fresh noise, of the noise in x_t
        rest = sigma * math.sqrt(1 - self.eta**2)
        replaced = torch.where(sigma >= c, self.eta_measured, rest / c)  # 0 on the null space
        well = (sigma**2 - (self.eta_measured * c) ** 2).clamp_min(0).sqrt()
        fresh = torch.where(sigma >= c, well, self.eta * sigma)
        kept = torch.where(spectrum.seen, torch.zeros_like(c), rest)
        coefficients = torch.lerp(x0, spectrum.y, replaced).addcmul_(fresh, z).addcmul_(kept, eps)
        return Step(NoisyState(level_s.alpha * spectrum.v(coefficients, x_t)), {})
