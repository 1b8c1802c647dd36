"""Diffusion posterior sampling.

Paper: Chung, Kim, Mccann, Klasky, Ye 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR,
https://arxiv.org/abs/2209.14687. Implemented: Algorithm 1 (Gaussian) and its Poisson variant (Eq. 20).

Differences from the paper:
- the norm in the step size is that of each sample's own residual, not of the whole batch's;
- `guidance` multiplies `grad ||r||^2 / ||r||`, as in the paper's text; the authors' code uses `grad ||r||`, half of it;
- `annealed=True` takes the misfit `||r||^2 / (2 (sigma_y^2 + sigma_t^2))`. It adds `guidance` times its gradient to the
  prior's score, in place of a step of its own: the length follows from the noise. With `guidance = 1` that is the score
  of y where x_0 given x_t varies by sigma_t^2 and A has singular values of one. See Rozet and Louppe 2023 (`sda`);
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
from midguide.likelihoods.base import Likelihood
from midguide.likelihoods.gaussian import GaussianLikelihood
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
    gaussian,
    one_vjp_a_step,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("dps")
@dataclass(frozen=True, kw_only=True)
class DPS:
    """Ancestral sampling with a gradient step on the data misfit of the denoised state.

    `x_s ~ q(x_s | x_0 = D(x_t, t), x_t) - guidance / ||r|| grad_{x_t} ||r||^2`, `r = y - A(D(x_t, t))`.

    Not a posterior, also where the prior is exact. The step's length does not depend on the noise, with a single
    measured value not even on the residual. So the spread follows from `guidance` (results/photon-counts.md).

    Limits: on N(0, I) with 64 values measured and noise 0.3, chi-square is 0.00 where 0.92 is right: `guidance` is a
    length in units of the data, to be chosen for each task. `annealed` needs no such choice where singular values of A
    are about one; it diverges where they are much larger.

    Cost: `steps` forwards, `steps - 1` vjps.

    Args:
        steps: noise levels visited.
        guidance: step size (zeta of the paper); with `annealed` a factor, right at 1.
        annealed: guide by the score of the annealed misfit, which needs Gaussian noise.
    """

    tunable: ClassVar[dict[str, tuple[object, ...]]] = {"guidance": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)}

    steps: int = 1000
    guidance: float = 0.1
    annealed: bool = False

    @property
    def needs(self) -> Needs:
        return Needs(likelihood=GaussianLikelihood if self.annealed else Likelihood, gradients=True)

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
        level = problem.schedule.level(t)
        move = kernels.bridge(CLEAN, problem.schedule.level(s), level)
        if self.annealed:
            variance = gaussian(problem).sigma_y ** 2 + level.sigma**2
            x0_hat = x0_hat - (self.guidance * level.sigma**2 / (level.alpha * 2 * variance)) * gradient
            return Step(NoisyState(move.draw(x0_hat, x_t, rng.normal(x_t))), {"misfit": norm})
        scale = (self.guidance / norm).where(norm > 0, 0.0)
        x_s = move.draw(x0_hat, x_t, rng.normal(x_t)) - per_row(scale, x_t) * gradient
        return Step(NoisyState(x_s), {"misfit": norm})
