"""ReSample: latents by hard data consistency and stochastic resampling.

Paper: Song, Kwon, Zhang, Hu, Qu, Shen 2024, "Solving Inverse Problems with Latent Diffusion Models via Hard Data
Consistency", ICLR, https://arxiv.org/abs/2307.08123. Implemented: Algorithm 1 with the resampling of Proposition 1. Two
things come from the authors' code: the guided steps of the noisiest third, and where data consistency is enforced. It
is enforced over signals in the middle third, over latents in the cleanest.

Differences from the paper:
- at most 200 iterations of each optimization instead of 500 (latents) and 2000 (pixels);
- each sample stops on its own once its mean squared misfit is below `sigma_y^2`, where the authors' code has 1e-6 of
  the whole batch's. The guidance takes the norm of each sample's own residual;
- no optimization after the last step: the result is `D(z_t, t)` at the cleanest time visited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.errors import ConfigError
from midguide.likelihoods.base import Likelihood
from midguide.maths import autodiff
from midguide.maths.linalg import per_row
from midguide.maths.optim import Adam
from midguide.maths.rng import Rng
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Needs,
    Step,
    autoencoder,
    finish_denoised,
    initial_noise,
    schedule_times,
)

WEIGHT_DECAY = 0.01
"""Of AdamW, by default in torch and hence in the authors' code: each iteration shrinks by this times its rate."""


class ReSampleState(NamedTuple):
    """`x_t`: the noisy latent, shape (B, *event); `position` counts steps down to 1."""

    x_t: Tensor
    position: int


@SAMPLERS.register("resample")
@dataclass(frozen=True, kw_only=True)
class ReSample:
    """Ancestral sampling of latents, every now and then with a prediction that was made to agree with the data.

    With `z0 = D(z_t, t)`, in the noisiest third:
    `z_s ~ q(z_s | z_0 = z0, z_t) - guidance alpha_t^2 grad_{z_t} ||y - A(Dec(z0))||`.
    Later without guidance, but every `every`-th draw z' is replaced. The data misfit is minimized from z0, over signals
    from `Dec(z0)`, and encoded, or over latents, and the result `z0'` is noised again near z':
    `z_s ~ N((v alpha_s z0' + sigma_s^2 z') / (v + sigma_s^2), v sigma_s^2 / (v + sigma_s^2) I)`, with v the variance of
    `q(z_s | z_0, z_t)` times `spread`.

    Cost: `steps` forwards, and one vjp, a decoding and its vjp in each step of the noisiest third. Each optimization
    over latents takes up to `iterations` decodings and vjps.

    Args:
        steps: noise levels visited.
        guidance: step size in the noisiest third.
        every: steps from one enforcement of the data to the next.
        spread: how little the resampling keeps to z' (gamma of the paper); positive.
        iterations: most iterations of one optimization.
        signal_rate: learning rate of AdamW over signals.
        latent_rate: over latents.
    """

    needs = Needs(gradients=True, autoencoder=True)

    steps: int = 500
    guidance: float = 0.5
    every: int = 10
    spread: float = 40.0
    iterations: int = 200
    signal_rate: float = 1e-2
    latent_rate: float = 5e-3

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not self.guidance >= 0.0:
            raise ConfigError(f"guidance must not be negative, got {self.guidance}")
        for name in ("every", "spread", "iterations", "signal_rate", "latent_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")

    times = schedule_times
    finish = finish_denoised

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=sum(self._is_guided(p) for p in range(self.steps, 1, -1)))

    def init(self, problem: Problem, rng: Rng) -> ReSampleState:
        return ReSampleState(initial_noise(problem, self.times(problem)[0], rng), self.steps)

    def step(self, problem: Problem, state: ReSampleState, t: Time, s: Time, rng: Rng) -> Step:
        z_t = state.x_t
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        guided = self._is_guided(state.position)

        def misfit(z: Tensor) -> tuple[Tensor, Tensor]:
            z0 = problem.denoiser(z, t)
            return problem.likelihood.difference(z0).flatten(1).norm(dim=1), z0

        # ancestral step
        if guided:
            _, gradient, z0 = autodiff.value_and_grad(misfit, z_t)
        else:
            z0, gradient = problem.denoiser(z_t, t), torch.zeros_like(z_t)
        move = kernels.bridge(CLEAN, level_s, level_t)
        z_s = move.draw(z0, z_t, rng.normal(z_t)) - self.guidance * level_t.alpha**2 * gradient

        # hard data consistency, and back to the noise level of s
        if not guided and (state.position - 1) % self.every == 0:
            z0 = self._consistent(problem, z0, state.position)
            v, noise = self.spread * move.std**2, level_s.sigma**2
            mean = (v * level_s.alpha * z0 + noise * z_s) / (v + noise)
            z_s = mean + math.sqrt(v * noise / (v + noise)) * rng.normal(z_t)
        return Step(ReSampleState(z_s, state.position - 1), {})

    def _is_guided(self, position: int) -> bool:
        """Whether the step from `position` to the next belongs to the noisiest third."""
        return position - 1 > self.steps - self.steps // 3

    def _consistent(self, problem: Problem, z0: Tensor, position: int) -> Tensor:
        """A latent near `z0` that agrees with the data, found over signals or over latents."""
        if position - 1 < self.steps // 3:
            return _descend(problem.likelihood, z0, self.latent_rate, self.iterations)
        coder = autoencoder(problem)
        signal = _descend(problem.signal_likelihood, coder.decode(z0), self.signal_rate, self.iterations)
        return coder.encode(signal)


def _descend(likelihood: Likelihood, x: Tensor, rate: float, iterations: int) -> Tensor:
    """AdamW on the misfit of each row from x, until its mean squared residual is that of the noise."""
    optimizer = Adam(rate=rate)
    moments = optimizer.init(x)

    def energy(x: Tensor) -> tuple[Tensor, Tensor]:
        value = likelihood.chi_square(x)
        return value, value

    for _ in range(iterations):
        chi_square, gradient, _ = autodiff.value_and_grad(energy, x)
        running = chi_square >= 1.0
        if not bool(running.any()):
            break
        moved = (1 - rate * WEIGHT_DECAY) * x
        optimizer.update_(moments, moved, gradient)
        x = torch.where(per_row(running, x), moved, x)
    return x
