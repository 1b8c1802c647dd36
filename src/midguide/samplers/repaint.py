"""RePaint: its measured entries are those of the noised observation, and it walks each stretch of steps many times.

Paper: Lugmayr, Danelljan, Romero, Yu, Timofte, Van Gool 2022, "RePaint: Inpainting Using Denoising Diffusion
Probabilistic Models", CVPR, https://arxiv.org/abs/2201.09865. Implemented: Algorithm 1, and jumps of any length.

Differences from the paper:
- any linear operator: what is replaced is the part `A^+ A x`, which for a mask is the measured entries;
- the ancestral variance is that of the exact bridge, not a learned one;
- any decreasing list of times; the result is `D(x_t, t)` at the cleanest time visited, its measured part replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.diffusion.walks import Travel, walked_again
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Needs,
    NoisyState,
    Step,
    finish_replaced,
    replaced,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("repaint")
@dataclass(frozen=True, kw_only=True)
class RePaint:
    """Ancestral sampling in which the observation, noised to the same level, replaces the measured part at each step.

    `x_s' ~ q(x_s | x_0 = D(x_t, t), x_t)`, `x_s = x_s' + A^+ (alpha_s y + sigma_s A z - A x_s')`. At the end of a
    stretch the forward process takes `x_s` back to where the stretch began, and the sampler walks it again.

    It takes y for noiseless: the result has `A x = y`, whatever the noise. The hidden part tends to its law given the
    measured one, as repeats and steps grow (Gaussian prior; a test shows the errors).

    Relative W2 on random Gaussians with noise of 0.3: 0.168 ± 0.061, total variance 0.85 of the posterior's
    (results/related-work.md).

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.00 (0.92 is right).
    The standard deviation is 0.00 times that of the posterior.

    Cost: `steps` forwards and those of the time travel, no vjp; a pseudo-inverse of the operator each.

    Args:
        steps: noise levels visited.
        travel: how stretches are walked again; by default each step ten times (U = 10 of Algorithm 1).
    """

    needs = Needs(operator=LinearOperator, likelihood=GaussianLikelihood)

    steps: int = 250
    travel: Travel = field(default_factory=lambda: Travel(length=1, repeats=10))

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.travel.length != 1:
            self.travel.check(self.steps)

    times = schedule_times
    init = start_from_noise
    finish = finish_replaced

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps + self.travel.steps(self.steps), vjps=0)

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        move = partial(_move, problem)
        x_s = move(state.x_t, t, s, rng)
        if self.travel.active:
            times = [t, s] if self.travel.length == 1 else self.times(problem)
            x_s = walked_again(self.travel.again(times, s), x_s, move, problem.schedule, rng)
        return Step(NoisyState(x_s), {})


def _move(problem: Problem, x_t: Tensor, t: Time, s: Time, rng: Rng) -> Tensor:
    """`x_s` from `x_t`, shape (B, *event)."""
    level_s = problem.schedule.level(s)
    ancestral = kernels.bridge(CLEAN, level_s, problem.schedule.level(t))
    return replaced(problem, ancestral.draw(problem.denoiser(x_t, t), x_t, rng.normal(x_t)), level_s, rng)
