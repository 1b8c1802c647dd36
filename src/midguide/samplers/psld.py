"""Posterior sampling with latent diffusion (PSLD).

Paper: Rout, Raoof, Daras, Caramanis, Dimakis, Shakkottai 2023, "Solving Linear Inverse Problems Provably via Posterior
Sampling with Latent Diffusion Models", NeurIPS, https://arxiv.org/abs/2307.00619. Implemented: Algorithm 2.

Differences from the paper:
- the norms are not squared, as in the authors' code. They are those of each sample's own residual, not of the whole
  batch's. One that is exactly zero gives no guidance;
- the measured part is `A^T y`, with the noise that it has, in place of the unknown `A^T A x*`;
- the ancestral variance is that of the exact bridge.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.errors import ConfigError
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Needs,
    NoisyState,
    Step,
    autoencoder,
    finish_denoised,
    one_vjp_a_step,
    schedule_times,
    signal_linear,
    start_from_noise,
)


@SAMPLERS.register("psld")
@dataclass(frozen=True, kw_only=True)
class PSLD:
    """Ancestral sampling of latents, guided by the data misfit and by the gap to a latent that agrees with the data.

    With `z0 = D(z_t, t)`, `x0 = Dec(z0)` and the signal with its measured part replaced, `g = A^T y + x0 - A^T A x0`:
    `z_s ~ q(z_s | z_0 = z0, z_t) - grad_{z_t} (guidance ||y - A x0|| + gluing ||z0 - Enc(g)||)`.

    Cost: `steps` forwards, `steps - 1` vjps; one decoding, one encoding and their vjps with each vjp.

    Args:
        steps: noise levels visited.
        guidance: weight of the data misfit (omega of the authors' code).
        gluing: weight of the gap (gamma of the paper).
    """

    needs = Needs(operator=LinearOperator, likelihood=GaussianLikelihood, gradients=True, autoencoder=True)

    steps: int = 1000
    guidance: float = 0.1
    gluing: float = 0.1

    def __post_init__(self) -> None:
        check_steps(self.steps)
        for name in ("guidance", "gluing"):
            if not getattr(self, name) >= 0.0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")

    times = schedule_times
    calls = one_vjp_a_step
    init = start_from_noise
    finish = finish_denoised

    def step(self, problem: Problem, state: NoisyState, t: Time, s: Time, rng: Rng) -> Step:
        z_t = state.x_t
        coder, (operator, y) = autoencoder(problem), signal_linear(problem)
        measured = operator.adjoint(y)

        def energy(z: Tensor) -> tuple[Tensor, Tensor]:
            z0 = problem.denoiser(z, t)
            x0 = coder.decode(z0)
            glued = measured + x0 - operator.gram(x0)
            misfit, gap = _norm(y - operator(x0)), _norm(z0 - coder.encode(glued))
            return self.guidance * misfit + self.gluing * gap, z0

        value, gradient, z0 = autodiff.value_and_grad(energy, z_t)
        move = kernels.bridge(CLEAN, problem.schedule.level(s), problem.schedule.level(t))
        z_s = move.draw(z0, z_t, rng.normal(z_t)) - gradient
        return Step(NoisyState(z_s), {"energy": value})


def _norm(x: Tensor) -> Tensor:
    """Norm of each row, shape (B,), whose derivative at zero is zero."""
    return x.flatten(1).norm(dim=1)
