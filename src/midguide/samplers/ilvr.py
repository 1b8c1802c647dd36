"""Iterative latent variable refinement (ILVR).

Paper: Choi, Kim, Jeong, Gwon, Yoon 2021, "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models",
ICCV, https://arxiv.org/abs/2108.02938. Implemented: Algorithm 1, and the range of conditioned steps.

Differences from the paper:
- the low-pass filter is `A^+ A` of any linear operator, applied to `A^+ y`. The paper's goes down and up by bicubic
  interpolation, and applies to a reference image;
- any decreasing list of times; the result is `D(x_t, t)` at the cleanest time visited, its measured part replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Finished,
    Needs,
    NoisyState,
    Step,
    check_share,
    finish_denoised,
    finish_replaced,
    one_forward_a_step,
    replaced,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("ilvr")
@dataclass(frozen=True, kw_only=True)
class ILVR:
    """Ancestral sampling whose measured part is that of the noised observation.

    `x_s' ~ q(x_s | x_0 = D(x_t, t), x_t)`, `x_s = x_s' + A^+ (alpha_s y + sigma_s A z - A x_s')`.

    Not a posterior: it takes y for noiseless. Each step also replaces the measured part by noise that the rest has not
    seen, so the rest does not learn enough of it. More steps do not mend that; walking them again does (`repaint`).

    Relative W2 on random Gaussians: 0.204 ± 0.048 (results/related-work.md).

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.00 (0.92 is right).
    The standard deviation is 0.00 times that of the posterior.

    Cost: `steps` forwards, no vjp; a pseudo-inverse of the operator each.

    Args:
        steps: noise levels visited.
        until: below this fraction of the noisiest time steps are not conditioned any more (the range of the paper),
            which leaves the details to the prior; 0 conditions all of them, and the result.
    """

    needs = Needs(operator=LinearOperator, likelihood=GaussianLikelihood)

    steps: int = 250
    until: float = 0.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("until", self.until)

    times = schedule_times
    calls = one_forward_a_step
    init = start_from_noise

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        x_t, level_s = state.x_t, problem.schedule.level(s)
        ancestral = kernels.bridge(CLEAN, level_s, problem.schedule.level(t))
        x_s = ancestral.draw(problem.denoiser(x_t, t), x_t, rng.normal(x_t))
        if s >= self.until * problem.schedule.noisiest:
            x_s = replaced(problem, x_s, level_s, rng)
        return Step(NoisyState(x_s), {})

    def finish(self, problem: Problem, state: Any, t: Time, rng: Rng) -> Finished:
        finish = finish_denoised if self.until > 0.0 else finish_replaced
        return finish(self, problem, state, t, rng)
