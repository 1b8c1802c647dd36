"""Samples from the prior: the reference row of every accuracy table.

Papers: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", Algorithm 2 (`eta` = 1); Song, Meng, Ermon
2021, "Denoising Diffusion Implicit Models", Eq. (12) (`eta` = 0).

Differences from the papers: Any decreasing list of times will do. The variance is that of the exact bridge. The last
step returns `D(x_t, t)` at the cleanest time visited.
"""

from __future__ import annotations

from dataclasses import dataclass

from midguide.diffusion import kernels
from midguide.diffusion.schedules import DiscreteVP, Time, check_steps, spaced_times
from midguide.errors import ConfigError
from midguide.maths.rng import Rng
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Needs,
    NoisyState,
    Step,
    check_positive,
    finish_denoised,
    start_from_noise,
)


@SAMPLERS.register("unconditional")
@dataclass(frozen=True, kw_only=True)
class Unconditional:
    """Ancestral (`eta` = 1, DDPM) or deterministic (`eta` = 0, DDIM) sampling, which ignores the observation.

    Cost: `steps` forwards, no vjp; fewer where times fall on the same level.

    Args:
        steps: noise levels visited.
        eta: share of the bridge's standard deviation that is drawn afresh, in [0, 1].
        spacing: times are at the shares `(i / (steps - 1)) ** spacing` of the schedule, closer where there is little
            noise the larger it is; 1 for the schedule's own, and 2 for the quadratic ones of Song et al., Appendix D.2.
            By default 2 with the discrete times of DDPM, where it halves the error, and 1 with other schedules.
    """

    needs = Needs()

    steps: int = 300
    eta: float = 1.0
    spacing: float | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.spacing is not None:
            check_positive(spacing=self.spacing)
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"eta must be in [0, 1], got {self.eta}", hint="1 is DDPM, 0 is DDIM")

    init = start_from_noise
    finish = finish_denoised

    def times(self, problem: Problem) -> list[Time]:
        spacing = self.spacing or (2.0 if isinstance(problem.schedule, DiscreteVP) else 1.0)
        return spaced_times(problem.schedule, self.steps, spacing)

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=len(self.times(problem)), vjps=0)

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        x0_hat = problem.denoiser(state.x_t, t)
        move = kernels.ddim(problem.schedule.level(s), problem.schedule.level(t), self.eta)
        return Step(NoisyState(move.draw(x0_hat, state.x_t, rng.normal(state.x_t))), {})
