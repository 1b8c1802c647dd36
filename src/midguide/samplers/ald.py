"""Annealed Langevin dynamics with the likelihood of the noisy state (ALD).

Paper: Jalal, Arvinte, Daras, Price, Dimakis, Tamir 2021, "Robust Compressed Sensing MRI with Deep Generative Priors",
NeurIPS, https://arxiv.org/abs/2108.01368. Implemented: the update of Section 3.2, with the step sizes of annealed
Langevin dynamics (Song and Ermon 2019, Algorithm 1).

Differences from the paper:
- `gamma_t` is `gamma` times the noise-to-signal ratio. How the paper tunes it by level is not known here. The authors'
  code rescales the likelihood's gradient to the norm of the score instead;
- the score is that of the schedule of the prior, in the variable `x_t / alpha_t`, with noise `sigma_t / alpha_t`;
- real operators; a complex measurement is one of twice as many real values;
- the result is the denoised state at the cleanest level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from midguide.diffusion.schedules import Time, check_steps
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.linalg import weighted_sum
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Finished,
    Needs,
    Step,
    check_positive,
    gaussian,
    linear,
    schedule_times,
)


class ALDState(NamedTuple):
    """`x_t / alpha_t`, shape (B, *event)."""

    u: Tensor


@SAMPLERS.register("ald")
@dataclass(frozen=True, kw_only=True)
class ALD:
    """Langevin steps at each noise level, with the score of the prior and that of the likelihood of the noisy state.

    `u <- u + e ((D - u) / rho^2 + A^T (y - A u) / (sigma_y^2 + gamma^2 rho^2)) + sqrt(2 e) z`, with
    `u = x_t / alpha_t`, `rho = sigma_t / alpha_t`, D short for `D(x_t, t)` and `e = rate rho^2`.

    It tends to the posterior as `rate` and the cleanest level fall and moves grow. Moves of a length that mixes within
    one level are not small: where `rate ||A||^2 / gamma^2` nears 2 they diverge. With few moves a level, poorly
    measured parts have the spread of the levels before.

    By default the total variance on random Gaussians is 1.59 times the posterior's, the relative W2 0.208 ± 0.047
    (results/related-work.md).

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 1.77 (0.92 is right).
    The standard deviation is 1.31 times that of the posterior.

    Cost: `moves` forwards for each level, and one; no vjp.

    Args:
        steps: noise levels visited.
        moves: Langevin steps at each.
        rate: their length over the squared noise-to-signal ratio.
        gamma: standard deviation added to the noise, over the noise-to-signal ratio.
    """

    needs = Needs(operator=LinearOperator, likelihood=GaussianLikelihood)

    steps: int = 500
    moves: int = 3
    rate: float = 0.02
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_positive(moves=self.moves, rate=self.rate, gamma=self.gamma)

    times = schedule_times

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps * self.moves + 1, vjps=0)

    def init(self, problem: Problem, rng: Rng) -> ALDState:
        level = problem.schedule.level(self.times(problem)[0])
        return ALDState(level.ratio * rng.normal(problem.zeros()))

    def step(self, problem: Problem, state: ALDState, t: Time, s: Time, rng: Rng) -> Step:
        return Step(ALDState(self._moved(problem, state.u, t, rng)), {})

    def finish(self, problem: Problem, state: ALDState, t: Time, rng: Rng) -> Finished:
        u = self._moved(problem, state.u, t, rng)
        return Finished(problem.denoiser(problem.schedule.level(t).alpha * u, t))

    def _moved(self, problem: Problem, u: Tensor, t: Time, rng: Rng) -> Tensor:
        """u after the Langevin steps of one level, shape (B, *event)."""
        (operator, y), level = linear(problem), problem.schedule.level(t)
        length = self.rate * level.ratio**2
        weight = length / (gaussian(problem).sigma_y ** 2 + (self.gamma * level.ratio) ** 2)
        for _ in range(self.moves):
            x0_hat = problem.denoiser(level.alpha * u, t)
            pull = operator.adjoint(y - operator(u))
            u = weighted_sum(
                (1 - self.rate, u), (self.rate, x0_hat), (weight, pull), (math.sqrt(2 * length), rng.normal(u))
            )
        return u
