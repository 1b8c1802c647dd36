"""Filtering posterior sampling (FPS-SMC): particles that filter a path of noised observations.

Paper: Dou and Song 2024, "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A Filtering Perspective",
ICLR, https://openreview.net/forum?id=tplXNcHZs1. Implemented: FPS and FPS-SMC, for operators with an SVD.

Differences from the paper:
- its algorithm is from memory. The path of observations, `y_s = alpha_s y + sigma_s A z`, is drawn downwards by its
  exact bridge; the law is that of the forward process whichever way it is drawn;
- each group of particles has a path of its own;
- coefficients meet y in the last step, where x_0 has the variance `(sigma / alpha)^2` around `D`;
- resampling is systematic, at the effective sample size that `resample_below` says; the last weights are returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Level, Time, check_steps
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.gaussians import Factor
from midguide.maths.rng import Rng
from midguide.maths.weights import effective_size, log_mean_exp, normalized, resampled
from midguide.operators.base import SVDOperator
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Finished,
    Needs,
    Step,
    check_particles,
    draw_times,
    log_unseen,
    one_forward_a_step,
    schedule_times,
)


class Filtered(NamedTuple):
    """Particles on a path.

    Args:
        x_t: shape (B, *event).
        path: measured coefficients of `y_t / alpha_t`, the same in a group, shape (groups, n).
        log_weight: float64, shape (B,).
    """

    x_t: Tensor
    path: Tensor
    log_weight: Tensor


@SAMPLERS.register("fps")
@dataclass(frozen=True, kw_only=True)
class FPS:
    """Particles move by the prior's backward kernel times `N(y_s; A x_s, alpha_s^2 sigma_y^2 I)`, s after s.

    A particle weighs as `p(y_s | x_t)`, in closed form, at every level.

    Does not tend to the posterior: the noise of y is one and the same at all levels, and each level counts it as new.
    As steps grow, draws tend to those of a noiseless y. With `weigh_paths` they tend to the posterior as groups grow,
    but weights collapse with steps times measured values; `smcdiff` is the same without that trouble.

    Sliced Wasserstein on the mixture: 0.92 ± 0.27, 0.17 for exact draws (results/posterior.md).

    Cost: `steps` forwards, no vjp.

    Args:
        steps: noise levels visited.
        particles: samples of one group, which share a path and are resampled together; 1 for FPS without SMC.
        resample_below: resample a group when its effective sample size falls below this share of its particles.
        weigh_paths: weigh groups by the probability of their path, too, and estimate the evidence; as published all
            groups count alike.
    """

    steps: int = 100
    particles: int = 1
    resample_below: float = 0.5
    weigh_paths: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_particles(self.particles, self.resample_below)

    @property
    def needs(self) -> Needs:
        return Needs(operator=SVDOperator, likelihood=GaussianLikelihood, group=self.particles)

    times = schedule_times
    calls = one_forward_a_step

    def init(self, problem: Problem, rng: Rng) -> Filtered:
        level, zeros, basis = problem.schedule.level(self.times(problem)[0]), problem.zeros(), problem.spectral
        path, log_path = _path(problem, None, None, level, rng)
        given = _given(problem, path, level, rng)
        mass = given.log_mass(basis.vt(zeros), level.sigma**2)
        x_t = draw_times(problem, zeros, level.sigma**2, given, rng)
        return Filtered(x_t, path, log_unseen(problem) + mass - log_path)

    def step(self, problem: Problem, state: Filtered, t: Time, s: Time, rng: Rng) -> Step:
        level_s = problem.schedule.level(s)
        bridge = kernels.bridge(CLEAN, level_s, problem.schedule.level(t))
        mean = bridge.mean(problem.denoiser(state.x_t, t), state.x_t)
        moved, size = self._moved(problem, state, mean, bridge.std**2, t, level_s, rng)
        return Step(moved, {"effective_sample_size": size})

    def finish(self, problem: Problem, state: Filtered, t: Time, rng: Rng) -> Finished:
        x0 = problem.denoiser(state.x_t, t)
        variance = torch.where(problem.spectral.seen, problem.schedule.level(t).ratio ** 2, 0.0).double()
        (draws, _, log_weight), _ = self._moved(problem, state, x0, variance, t, CLEAN, rng)
        log_evidence = log_mean_exp(rng.layout.split(log_weight))
        if self.weigh_paths:
            return Finished(draws, log_weight, log_evidence)
        return Finished(draws, log_weight - rng.layout.spread(log_evidence))

    def _moved(
        self, problem: Problem, state: Filtered, mean: Tensor, variance: float | Tensor, t: Time, s: Level, rng: Rng
    ) -> tuple[Filtered, Tensor]:
        """The particles at s, resampled by the probability of the observation there, and effective sample sizes."""
        path, log_path = _path(problem, state.path, problem.schedule.level(t), s, rng)
        given = _given(problem, path, s, rng)
        change = given.log_mass(problem.spectral.vt(mean), variance) - log_path
        log_weight, members = resampled(state.log_weight + change, rng, self.resample_below)
        size = effective_size(normalized(rng.layout.split(log_weight)))
        x_s = draw_times(problem, rng.layout.pick(mean, members), variance, given, rng)
        return Filtered(x_s, path, log_weight), size


def _path(problem: Problem, u_t: Tensor | None, t: Level | None, s: Level, rng: Rng) -> tuple[Tensor, Tensor]:
    """Measured coefficients noised to level s, shape (groups, n), and their log density for each row, shape (B,)."""
    basis = problem.spectral
    y, seen = (rng.layout.split(part.expand_as(basis.y))[:, 0] for part in (basis.y, basis.seen))
    pin = torch.where(seen, 0.0, torch.inf).double()
    path, log_density = kernels.noised(y, pin, s, rng.groups.normal(y), u_t, t)
    return path, rng.layout.spread(log_density)


def _given(problem: Problem, path: Tensor, level: Level, rng: Rng) -> Factor:
    """`N(y_s; x_s, alpha_s^2 c^2)` of the coefficients, c the noise of y in each."""
    noise = level.alpha * problem.spectral.noise.double()
    return Factor(level.alpha * rng.layout.spread(path), noise.square())
