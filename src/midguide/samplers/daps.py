"""Decoupled annealing posterior sampling (DAPS).

Paper: Zhang, Chu, Berner, Meng, Anandkumar, Song 2025, "Improving Diffusion Inverse Problem Solving with Decoupled
Noise Annealing", CVPR, https://arxiv.org/abs/2407.01521. Implemented: Algorithm 1, with Langevin dynamics.

Differences from the paper:
- for linear operators with Gaussian noise the draw given the data is exact, which Langevin dynamics only tend to;
- any schedule, `r_t = spread sigma_t / alpha_t`; the paper has a VE process from 100 to 0.1, and `r_t = sigma_t`;
- DDIM steps, evenly spaced in the schedule's own time, solve the ODE; the paper's follow the spacing of EDM;
- the Langevin step is the paper's absolute one, but never longer than `r_t^2 / 2`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time, check_steps
from midguide.diffusion.walks import descent, walk
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
    NoisyState,
    Step,
    check_positive,
    draw_conditioned,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("daps")
@dataclass(frozen=True, kw_only=True)
class DAPS:
    """Predict `x_0` by the ODE, draw near it given the data, noise again to the next level.

    `m` = end of the ODE from `x_t`; `x_0 ~ N(x_0; m, r_t^2 I) p(y | x_0)`; `x_s = alpha_s x_0 + sigma_s z`.

    Not a posterior: where `N(m, r_t^2 I)` should have the mean of `p(x_0 | x_t)`, m has the law of a draw, whose
    variance counts twice. Without any measurement of N(0, 1), the draws' variance tends to 2 as steps grow (a test). On
    random Gaussians the total variance is 1.70 times the posterior's (results/related-work.md).

    Cost: up to `ode_steps` forwards for each step, no vjp; a proximal step of the operator each, or `iterations`
    gradients of the likelihood.

    Args:
        steps: noise levels visited.
        ode_steps: steps of each ODE.
        spread: `r_t` over the noise-to-signal ratio.
        iterations: Langevin steps where the draw given the data has no closed form.
        rate: their length at the noisiest time, in squared units of the signal; it falls to 1 % with time.
    """

    needs = Needs()

    steps: int = 200
    ode_steps: int = 5
    spread: float = 1.0
    iterations: int = 100
    rate: float = 1e-4

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_positive(ode_steps=self.ode_steps, spread=self.spread, iterations=self.iterations, rate=self.rate)

    times = schedule_times
    init = start_from_noise

    def calls(self, problem: Problem) -> Calls:
        forwards = sum(len(descent(problem.schedule, t, self.ode_steps)) for t in self.times(problem))
        return Calls(forwards=forwards, vjps=0)

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        x0, level_s = self._clean(problem, state.x_t, t, rng), problem.schedule.level(s)
        x_s = torch.add(level_s.alpha * x0, rng.normal(x0), alpha=level_s.sigma)
        return Step(NoisyState(x_s), {"chi_square": problem.likelihood.chi_square(x0)})

    def finish(self, problem: Problem, state: NoisyState, t: Time, rng: Rng) -> Finished:
        return Finished(self._clean(problem, state.x_t, t, rng))

    def _clean(self, problem: Problem, x_t: Tensor, t: Time, rng: Rng) -> Tensor:
        """A draw of `x_0` near the end of the ODE from `x_t`, given the data, shape (B, *event)."""
        times = descent(problem.schedule, t, self.ode_steps)
        mean = walk(problem.denoiser, problem.schedule, x_t, times, 0.0, rng)
        std, likelihood = self.spread * problem.schedule.level(t).ratio, problem.likelihood
        if isinstance(likelihood, GaussianLikelihood) and isinstance(likelihood.operator, LinearOperator):
            return draw_conditioned(likelihood.operator, likelihood.y, likelihood.sigma_y, mean, std, rng)
        fraction = t / problem.schedule.noisiest
        length = min(self.rate * (0.01 + 0.99 * fraction), 0.5 * std**2)
        x0 = mean
        for _ in range(self.iterations):
            uphill = likelihood.score(x0) + (mean - x0) / std**2
            x0 = weighted_sum((1.0, x0), (length, uphill), (math.sqrt(2 * length), rng.normal(x0)))
        return x0
