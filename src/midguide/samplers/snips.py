"""SNIPS: annealed Langevin dynamics in the basis of the operator.

Paper: Kawar, Vaksman, Elad 2021, "SNIPS: Solving Noisy Inverse Problems Stochastically", NeurIPS,
https://arxiv.org/abs/2105.14951. Implemented: Algorithm 1, with the score of Theorem 1 and its step sizes.

Differences from the paper:
- the score is that of the schedule of the prior, in the variable `x_t / alpha_t`, with noise `sigma_t / alpha_t`;
- a coefficient whose noise level is that of its measurement gets no step, where the paper assumes that there is none;
- the result is the denoised state at the cleanest level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time, check_steps
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.rng import Rng
from midguide.operators.base import SVDOperator
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Calls, Finished, Needs, Step, check_positive, schedule_times


class SNIPSState(NamedTuple):
    """`x_t / alpha_t`, shape (B, *event)."""

    u: Tensor


@SAMPLERS.register("snips")
@dataclass(frozen=True, kw_only=True)
class SNIPS:
    """Langevin steps at each noise level, whose noise is that of the measurement as far as it reaches.

    With `u = V^T x_t / alpha_t`, `rho = sigma_t / alpha_t`, `c = sigma_y / s_j`, `y_j = (U^T y)_j / s_j`, D_j the
    coefficients of `D(x_t, t)`, and for each coefficient a score g and a length e of the step:

    - null space: `g = (D_j - u_j) / rho^2`, `e = rate rho^2`;
    - `rho < c`: `g = (D_j - u_j) / rho^2 + (y_j - u_j) / (c^2 - rho^2)`, `e = rate rho^2 (1 - rho^2 / c^2)`;
    - `rho > c`: `g = (y_j - u_j) / (rho^2 - c^2)`, `e = rate (rho^2 - c^2)`.

    It tends to the posterior as `rate` and the cleanest level fall and moves grow. At levels below every c the score is
    that of the exact law of u given y. Few moves of a small rate do not reach it.

    By default the relative W2 on random Gaussians is 0.091 ± 0.024 (results/related-work.md).

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.70 (0.92 is right).
    The standard deviation is 0.86 times that of the posterior.

    Cost: `moves` forwards for each level, and one; no vjp.

    Args:
        steps: noise levels visited.
        moves: Langevin steps at each (tau of the paper).
        rate: their length (c of the paper).
    """

    needs = Needs(operator=SVDOperator, likelihood=GaussianLikelihood)

    steps: int = 500
    moves: int = 5
    rate: float = 0.033

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_positive(moves=self.moves, rate=self.rate)

    times = schedule_times

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps * self.moves + 1, vjps=0)

    def init(self, problem: Problem, rng: Rng) -> SNIPSState:
        level = problem.schedule.level(self.times(problem)[0])
        return SNIPSState(level.ratio * rng.normal(problem.zeros()))

    def step(self, problem: Problem, state: SNIPSState, t: Time, s: Time, rng: Rng) -> Step:
        return Step(SNIPSState(self._moved(problem, state.u, t, rng)), {})

    def finish(self, problem: Problem, state: SNIPSState, t: Time, rng: Rng) -> Finished:
        u = self._moved(problem, state.u, t, rng)
        return Finished(problem.denoiser(problem.schedule.level(t).alpha * u, t))

    def _moved(self, problem: Problem, u: Tensor, t: Time, rng: Rng) -> Tensor:
        """u after the Langevin steps of one level, shape (B, *event)."""
        spectrum, level = problem.spectral, problem.schedule.level(t)
        rho, c = level.ratio, spectrum.noise  # c is infinite on the null space
        measured = rho > c
        length = self.rate * torch.where(measured, rho**2 - c**2, rho**2 * (1 - (rho / c) ** 2))
        # length times score, whose weights are finite where rho = c
        to_prior = torch.where(measured, 0.0, length / rho**2)
        to_data = torch.where(measured, self.rate, self.rate * (rho / c) ** 2)
        for _ in range(self.moves):
            x0, z = spectrum.vt(problem.denoiser(level.alpha * u, t)), spectrum.vt(rng.normal(u))
            now = spectrum.vt(u)
            moved = now + to_prior * (x0 - now) + to_data * (spectrum.y - now) + (2 * length).sqrt() * z
            u = spectrum.v(moved, u)
        return u
