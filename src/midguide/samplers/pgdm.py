"""Pseudo-inverse guided diffusion (PGDM).

Paper: Song, Vahdat, Mardani, Kautz 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR,
https://openreview.net/forum?id=9_gsMA8MRKQ. Implemented: Algorithm 1 for linear operators with Gaussian noise.

Differences from the paper:
- `p(x_0 | x_t)` is taken as `N(D(x_t, t), r_t^2 I)` with `r_t^2 = sigma_t^2 / (alpha_t^2 + sigma_t^2)`, which is the
  paper's `sigma_t^2 / (1 + sigma_t^2)` on a VE schedule and `1 - alpha_t^2` on a VP one;
- the guidance is weighted by `alpha_t alpha_s`, as in the RED-diff authors' implementation; `weighting="paper"` takes
  the paper's `alpha_t`;
- the ancestral noise is that of the exact bridge (`eta` = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from midguide import autodiff, kernels
from midguide.errors import ConfigError
from midguide.likelihoods import GaussianLikelihood
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.rng import Rng
from midguide.samplers.base import Calls, Needs, Step, initial_noise, linear_gaussian
from midguide.schedules import CLEAN, Level, Time, check_steps


class PGDMState(NamedTuple):
    """`x_t`: shape (B, *event)."""

    x_t: Tensor


WEIGHTS = {
    "stable": lambda t, s: t.alpha * s.alpha,
    "paper": lambda t, s: t.alpha,
}


@dataclass(frozen=True, kw_only=True)
class PGDM:
    """Ancestral sampling guided by a Gaussian approximation of `p(y | x_t)`.

    `x_s ~ q(x_s | x_0 = D(x_t, t), x_t) + w J^T A^T (A A^T + (sigma_y / r_t)^2 I)^{-1} (y - A D(x_t, t))`, with J the
    derivative of D.

    Cost: `steps` forwards, `steps - 1` vjps; a proximal step of the operator each.

    Args:
        steps: noise levels visited.
        weighting: `stable`, w = alpha_t alpha_s, or `paper`, w = alpha_t.
    """

    needs: ClassVar[Needs] = Needs(operator=LinearOperator, likelihood=GaussianLikelihood, gradients=True)

    steps: int = 1000
    weighting: str = "stable"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.weighting not in WEIGHTS:
            raise ConfigError(f"unknown weighting {self.weighting!r}", hint=f"one of {', '.join(WEIGHTS)}")

    def times(self, problem: Problem) -> list[Time]:
        return problem.schedule.times(self.steps)

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=self.steps - 1)

    def init(self, problem: Problem, rng: Rng) -> PGDMState:
        return PGDMState(initial_noise(problem, self.times(problem)[0], rng))

    def step(self, problem: Problem, state: PGDMState, t: Time, s: Time, rng: Rng) -> Step:
        x_t = state.x_t
        operator, y, sigma_y = linear_gaussian(problem)
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)

        x0_hat, pullback = autodiff.vjp(lambda x: problem.denoiser(x, t), x_t)
        r = y - operator(x0_hat)
        # A^T (A A^T + c I)^{-1} r = (A^T A + c I)^{-1} A^T r
        correction = operator.prox(torch.zeros_like(x_t), r, sigma_y**2 / posterior_variance(level_t))

        move = kernels.bridge(CLEAN, level_s, level_t)
        guidance = WEIGHTS[self.weighting](level_t, level_s) * pullback(correction)
        x_s = move.mean(x0_hat, x_t) + move.std * rng.normal(x_t) + guidance
        return Step(PGDMState(x_s), {"misfit": r.flatten(1).norm(dim=1)})

    def finish(self, problem: Problem, state: PGDMState, t: Time) -> Tensor:
        return problem.denoiser(state.x_t, t)


def posterior_variance(level: Level) -> float:
    """`r_t^2`: variance of x_0 given x_t for a standard normal prior."""
    return level.sigma**2 / (level.alpha**2 + level.sigma**2)
