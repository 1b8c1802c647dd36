"""Diffusion posterior sampling.

Paper: Chung, Kim, Mccann, Klasky, Ye 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR,
https://arxiv.org/abs/2209.14687. Implemented: Algorithm 1 (Gaussian) and its Poisson variant (Eq. 20).

Differences from the paper:
- the norm in the step size is that of each sample's own residual, not of the whole batch's;
- `guidance` multiplies `grad ||r||^2 / ||r||`, as in the paper's text; the authors' code uses `grad ||r||`, half of it;
- a residual of exactly zero gives no guidance instead of 0/0 (this happens with one-dimensional observations);
- the ancestral variance is that of the exact bridge, not a learned one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.errors import ConfigError
from midguide.maths import autodiff
from midguide.maths.linalg import inner, per_row
from midguide.maths.rng import Rng
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Needs,
    NoisyState,
    Step,
    finish_denoised,
    one_vjp_a_step,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("dps")
@dataclass(frozen=True, kw_only=True)
class DPS:
    """Ancestral sampling with a gradient step on the data misfit of the denoised state.

    `x_s ~ q(x_s | x_0 = D(x_t, t), x_t) - guidance / ||r|| grad_{x_t} ||r||^2`, `r = y - A(D(x_t, t))`.

    No posterior, also where the prior is exact: the step's length does not depend on the noise, with a single measured
    value not even on the residual, so that the spread follows from `guidance` (docs/results/photon-counts.md).

    Cost: `steps` forwards, `steps - 1` vjps.

    Args:
        steps: noise levels visited.
        guidance: step size (zeta of the paper).
    """

    needs = Needs(gradients=True)

    tunable: ClassVar[dict[str, tuple[object, ...]]] = {"guidance": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}

    steps: int = 1000
    guidance: float = 0.1

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not self.guidance >= 0.0:
            raise ConfigError(f"guidance must not be negative, got {self.guidance}")

    times = schedule_times
    calls = one_vjp_a_step
    init = start_from_noise
    finish = finish_denoised

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        x_t = state.x_t

        def squared_misfit(x: Tensor) -> tuple[Tensor, Tensor]:
            x0_hat = problem.denoiser(x, t)
            r = problem.likelihood.difference(x0_hat)
            return inner(r, r), x0_hat

        misfit, gradient, x0_hat = autodiff.value_and_grad(squared_misfit, x_t)
        norm = misfit.sqrt()
        scale = (self.guidance / norm).where(norm > 0, 0.0)

        move = kernels.bridge(CLEAN, problem.schedule.level(s), problem.schedule.level(t))
        x_s = move.draw(x0_hat, x_t, rng.normal(x_t)) - per_row(scale, x_t) * gradient
        return Step(NoisyState(x_s), {"misfit": norm})
