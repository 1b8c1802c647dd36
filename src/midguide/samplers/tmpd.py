"""Tweedie moment projected diffusion.

Paper: Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz 2024, "Tweedie Moment Projected Diffusions for Inverse
Problems", TMLR, https://arxiv.org/abs/2310.06721. Implemented: the row-sum approximation of the covariance (Section
3.2), as the guidance of DDPM steps.

Differences from the paper:
- the row sums are those of the covariance C of `p(x_0 | x_t)`, one vjp; the paper takes those of `A C A^T`;
- row sums that are not positive, which the Jacobian of a trained network may have, count as zero;
- the last step returns the guided denoised state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.covariance import LowRank
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Finished,
    Needs,
    NoisyState,
    Step,
    gaussian,
    linear,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("tmpd")
@dataclass(frozen=True, kw_only=True)
class TMPD:
    """Guidance as in moment matching, with the covariance replaced by the diagonal of its row sums.

    `x_0 = D + c A^T (A diag(c) A^T + sigma_y^2 I)^-1 (y - A D)`, with `c = C 1`, one vjp.

    Exact row sums of a diagonal C are C. So it tends to the posterior of a Gaussian prior with independent entries as
    steps grow, and to no other posterior.

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.78 (0.92 is right).
    The standard deviation is 0.88 times that of the posterior.

    Cost: `steps` forwards and `steps` vjps.

    Args:
        steps: noise levels visited.
    """

    needs = Needs(operator=LinearOperator, likelihood=GaussianLikelihood, gradients=True)

    steps: int = 100

    def __post_init__(self) -> None:
        check_steps(self.steps)

    times = schedule_times
    init = start_from_noise

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=0 if problem.denoiser.exact_moments else self.steps)

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        bridge = kernels.bridge(CLEAN, problem.schedule.level(s), problem.schedule.level(t))
        x0 = self._guided(problem, state.x_t, t)
        return Step(NoisyState(bridge.draw(x0, state.x_t, rng.normal(state.x_t))), {})

    def finish(self, problem: Problem, state: NoisyState, t: Time, rng: Rng) -> Finished:
        return Finished(self._guided(problem, state.x_t, t))

    def _guided(self, problem: Problem, x_t: Tensor, t: Time) -> Tensor:
        operator, y = linear(problem)
        x0, covariance = problem.denoiser.moments(x_t, t)
        sums = covariance(torch.ones_like(x0)).clamp_min(0).flatten(1)
        diagonal = LowRank(sums[:, None], None, sums.new_zeros(len(sums), 0, sums.shape[1]), tuple(x0.shape[1:]))
        return x0 + diagonal.solve(operator, gaussian(problem).sigma_y ** 2, y - operator(x0)).gain
