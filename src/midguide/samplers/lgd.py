"""Loss-guided diffusion with Monte-Carlo estimates (LGD-MC).

Paper: Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat 2023, "Loss-Guided Diffusion Models for Plug-and-Play
Controllable Generation", ICML, https://proceedings.mlr.press/v202/song23k.html. Implemented: the Monte-Carlo estimate
of the guidance, Equations (9) to (11).

Differences from the paper:
- the loss is `-log p(y | x_0)`. The step has the length that `dps` gives it (its `guidance` means the same), so that
  one draw without noise is DPS. How the paper weighs its guidance on each task is not known here;
- `r_t = spread sigma_t / sqrt(alpha_t^2 + sigma_t^2)`, which with `spread` = 1 is the paper's on a VE process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.errors import ConfigError
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
    check_positive,
    finish_denoised,
    gaussian,
    one_vjp_a_step,
    schedule_times,
    start_from_noise,
)


@SAMPLERS.register("lgd")
@dataclass(frozen=True, kw_only=True)
class LGD:
    """Ancestral sampling with a gradient step on a Monte-Carlo estimate of `-log p(y | x_t)`.

    `E = -log (1/n) sum_i p(y | D(x_t, t) + r_t z_i)`, up to the constant of the Gaussian density, and
    `x_s ~ q(x_s | x_0 = D(x_t, t), x_t) - 2 guidance sigma_y^2 / R grad_{x_t} E` with `R^2 = 2 sigma_y^2 E`.

    Not a posterior: as for `dps`, the length of the step does not depend on the noise. Few draws see little of a
    likelihood that is narrow beside `r_t`: the nearest of them decides.

    Relative W2 on random Gaussians: 0.194 ± 0.040, that of `dps` 0.232 ± 0.065 (results/related-work.md).

    Limits: with its defaults on N(0, I), 64 values measured with noise 0.3, chi-square is 0.00 (0.92 is right).
    The standard deviation is 0.04 times that of the posterior.

    Cost: `steps` forwards, `steps - 1` vjps; `draws` applications of the operator and its derivative each.

    Args:
        steps: noise levels visited.
        draws: of `x_0`, to average the likelihood over (n of the paper).
        guidance: step size, as for `dps`.
        spread: standard deviation of the draws, over that of the paper; 0 puts all of them on `D(x_t, t)`.
    """

    needs = Needs(likelihood=GaussianLikelihood, gradients=True)

    tunable: ClassVar[dict[str, tuple[object, ...]]] = {
        "draws": (1, 4, 10),
        "guidance": (0.03, 0.1, 0.3, 1.0, 3.0),
        "spread": (0.3, 1.0),
    }

    steps: int = 1000
    draws: int = 10
    guidance: float = 0.1
    spread: float = 1.0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_positive(draws=self.draws)
        if not (self.guidance >= 0.0 and self.spread >= 0.0):
            raise ConfigError(
                f"guidance and spread must not be negative, got {self.guidance} and {self.spread}",
            )

    times = schedule_times
    calls = one_vjp_a_step
    init = start_from_noise
    finish = finish_denoised

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        x_t, likelihood = state.x_t, gaussian(problem)
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        spread = self.spread * level_t.sigma / math.hypot(level_t.alpha, level_t.sigma)
        # without spread all draws are one
        noises = [spread * rng.normal(x_t) for _ in range(self.draws)] if spread > 0.0 else [torch.zeros_like(x_t)]

        # R^2, which is the squared misfit of a single draw
        def squared_misfit(x: Tensor) -> tuple[Tensor, Tensor]:
            x0_hat = problem.denoiser(x, t)
            residuals = [likelihood.residual(x0_hat + noise) for noise in noises]
            energies = torch.stack([0.5 * inner(r, r) for r in residuals])
            energy = math.log(len(noises)) - torch.logsumexp(-energies, dim=0)
            return 2 * likelihood.sigma_y**2 * energy, x0_hat

        squared, gradient, x0_hat = autodiff.value_and_grad(squared_misfit, x_t)
        scale = (self.guidance / squared.clamp_min(0).sqrt()).where(squared > 0, 0.0)

        move = kernels.bridge(CLEAN, level_s, level_t)
        x_s = move.draw(x0_hat, x_t, rng.normal(x_t)) - per_row(scale, x_t) * gradient
        return Step(NoisyState(x_s), {"misfit": squared.clamp_min(0).sqrt()})
