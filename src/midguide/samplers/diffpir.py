"""Plug-and-play image restoration with a diffusion denoiser (DiffPIR).

Paper: Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool 2023, "Denoising Diffusion Models for Plug-and-Play Image
Restoration", CVPR workshops, https://arxiv.org/abs/2305.08995. Implemented: Algorithm 1 for linear operators.

Differences from the paper:
- the result is denoised once more at the cleanest time visited; the authors' code returns the noisy state;
- nonlinear operators are refused: the paper's gradient step in place of the proximal step is known to diverge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from midguide import kernels
from midguide.errors import ConfigError
from midguide.likelihoods import GaussianLikelihood
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.rng import Rng
from midguide.samplers.base import Calls, Needs, Step, check_share, initial_noise, linear_gaussian
from midguide.schedules import Time, check_steps


class DiffPIRState(NamedTuple):
    """`x_t`: shape (B, *event)."""

    x_t: Tensor


@dataclass(frozen=True, kw_only=True)
class DiffPIR:
    """Denoise, solve for the data near the denoised image, go back to the next noise level.

    `x0' = argmin_x ||y - A x||^2 + rho ||x - D(x_t, t)||^2` with `rho = strength (sigma_y alpha_t / sigma_t)^2`, then
    `x_s = alpha_s x0' + sigma_s (sqrt(1 - share) eps' + sqrt(share) z)`, with `eps'` the noise that x0' leaves in x_t.

    Cost: `steps` forwards, no vjp; a proximal step of the operator each.

    Args:
        steps: noise levels visited.
        strength: weight of the prior in the data step (lambda of the paper).
        share: share of fresh noise (zeta of the paper), in [0, 1]; the authors take 1 for masks, 0.1 for blurs.
    """

    needs: ClassVar[Needs] = Needs(operator=LinearOperator, likelihood=GaussianLikelihood)

    steps: int = 1000
    strength: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("share", self.share)
        if not self.strength > 0.0:
            raise ConfigError(f"strength must be positive, got {self.strength}")

    def times(self, problem: Problem) -> list[Time]:
        return problem.schedule.times(self.steps)

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=0)

    def init(self, problem: Problem, rng: Rng) -> DiffPIRState:
        return DiffPIRState(initial_noise(problem, self.times(problem)[0], rng))

    def step(self, problem: Problem, state: DiffPIRState, t: Time, s: Time, rng: Rng) -> Step:
        x_t = state.x_t
        operator, y, sigma_y = linear_gaussian(problem)
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        rho = self.strength * (sigma_y / level_t.ratio) ** 2
        x0 = operator.prox(problem.denoiser(x_t, t), y, rho)
        eps = kernels.eps_from_x0(x_t, x0, level_t)
        noise = math.sqrt(1 - self.share) * eps + math.sqrt(self.share) * rng.normal(x_t)
        return Step(DiffPIRState(level_s.alpha * x0 + level_s.sigma * noise), {})

    def finish(self, problem: Problem, state: DiffPIRState, t: Time) -> Tensor:
        return problem.denoiser(state.x_t, t)
