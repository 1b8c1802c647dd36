"""SMCDiff: particles whose measured part is the observation, noised along one path.

Paper: Trippe, Yim, Tischer, Baker, Broderick, Barzilay, Jaakkola 2023, "Diffusion Probabilistic Modeling of Protein
Backbones in 3D for the Motif-Scaffolding Problem", ICLR, https://arxiv.org/abs/2206.04119. Implemented: Algorithm 2
(SMCDiff), for linear operators with noise.

Differences from the paper:
- any operator with an SVD: the measured part is that of its coefficients; the paper has masks;
- noise of y: a coefficient with noise `c = sigma_y / s_j` is taken for a state of the forward process at
  `sigma / alpha = c`. Its path begins there; where the noise is lower, particles are free. The paper has no noise;
- each group of particles has a path of its own, and the probability of the path counts in its weights. So islands are
  unbiased for any number of particles; the paper has one path and one filter;
- resampling is systematic, at the effective sample size that `resample_below` says; the paper's is residual. The last
  weights are returned.
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


class Replaced(NamedTuple):
    """Particles on a path.

    Args:
        x_t: shape (B, *event).
        path: measured coefficients of `x_t / alpha_t`, the same in a group, shape (groups, n).
        log_weight: its mean in a group is the evidence so far, float64, shape (B,).
    """

    x_t: Tensor
    path: Tensor
    log_weight: Tensor


@SAMPLERS.register("smcdiff")
@dataclass(frozen=True, kw_only=True)
class SMCDiff:
    """Particles move by the prior's backward kernel, given that their measured part is y noised to each level.

    The path of y is drawn from the forward process. The weight of a particle is the probability that the prior's kernel
    gives to the next value of the path. The last value is y itself, at the level of its own noise.

    Tends to the posterior as groups and steps grow, for any number of particles. One group does as particles and steps
    grow: its path is one draw. Steps below the noise of y count: with few of them draws spread too little. Weights of
    draws with many measured values collapse (results/weights.md).

    Sliced Wasserstein on the mixture: 0.46 ± 0.21 in islands of 16, 0.33 ± 0.14 in one filter of 2,000, 0.17 for exact
    draws (results/posterior.md).

    Cost: `steps` forwards, no vjp.

    Args:
        steps: noise levels visited.
        particles: samples of one group, which share a path and are resampled together; 1 for independent weighted
            draws.
        resample_below: resample a group when its effective sample size falls below this share of its particles.
    """

    steps: int = 100
    particles: int = 1
    resample_below: float = 0.5

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_particles(self.particles, self.resample_below)

    @property
    def needs(self) -> Needs:
        return Needs(operator=SVDOperator, likelihood=GaussianLikelihood, group=self.particles)

    times = schedule_times
    calls = one_forward_a_step

    def init(self, problem: Problem, rng: Rng) -> Replaced:
        level, zeros, basis = problem.schedule.level(self.times(problem)[0]), problem.zeros(), problem.spectral
        path, log_path = _path(problem, None, None, level, rng)
        here, factor, constant = kernels.pinned(basis.y, basis.noise, basis.seen, level)
        known = _known(path, level, basis.seen, here, factor, rng)
        mass = known.log_mass(basis.vt(zeros), level.sigma**2)
        x_t = draw_times(problem, zeros, level.sigma**2, known, rng)
        return Replaced(x_t, path, log_unseen(problem) + constant + mass - log_path)

    def step(self, problem: Problem, state: Replaced, t: Time, s: Time, rng: Rng) -> Step:
        level_s = problem.schedule.level(s)
        bridge = kernels.bridge(CLEAN, level_s, problem.schedule.level(t))
        mean = bridge.mean(problem.denoiser(state.x_t, t), state.x_t)
        moved, size = self._moved(problem, state, mean, bridge.std**2, t, level_s, rng)
        return Step(moved, {"effective_sample_size": size})

    def finish(self, problem: Problem, state: Replaced, t: Time, rng: Rng) -> Finished:
        x0, variance = problem.denoiser(state.x_t, t), problem.schedule.level(t).ratio ** 2
        (draws, _, log_weight), _ = self._moved(problem, state, x0, variance, t, CLEAN, rng)
        return Finished(draws, log_weight, log_mean_exp(rng.layout.split(log_weight)))

    def _moved(
        self, problem: Problem, state: Replaced, mean: Tensor, variance: float, t: Time, s: Level, rng: Rng
    ) -> tuple[Replaced, Tensor]:
        """The particles at s, resampled by the probability of the path there, and effective sample sizes."""
        level_t, basis = problem.schedule.level(t), problem.spectral
        replaced = basis.seen & (basis.noise < level_t.ratio)
        path, log_path = _path(problem, state.path, level_t, s, rng)
        u_t = basis.vt(state.x_t) / level_t.alpha
        here, factor, constant = kernels.pinned(basis.y, basis.noise, replaced, s, u_t, level_t)
        known = _known(path, s, replaced, here, factor, rng)
        spread = torch.where(replaced, variance, 0.0).double() if s == CLEAN else variance
        change = known.log_mass(basis.vt(mean), spread) + constant - log_path
        log_weight, members = resampled(state.log_weight + change, rng, self.resample_below)
        size = effective_size(normalized(rng.layout.split(log_weight)))
        x_s = draw_times(problem, rng.layout.pick(mean, members), spread, known, rng)
        return Replaced(x_s, path, log_weight), size


def _path(problem: Problem, u_t: Tensor | None, t: Level | None, s: Level, rng: Rng) -> tuple[Tensor, Tensor]:
    """Measured coefficients noised to level s, shape (groups, n), and their log density for each row, shape (B,)."""
    basis = problem.spectral
    y, noise = (rng.layout.split(part.expand_as(basis.y))[:, 0] for part in (basis.y, basis.noise.double()))
    path, log_density = kernels.noised(y, noise.square(), s, rng.groups.normal(y), u_t, t)
    return path, rng.layout.spread(log_density)


def _known(path: Tensor, level: Level, counts: Tensor, here: Tensor, factor: Factor, rng: Rng) -> Factor:
    """What is known of coefficients that count: the factor of those that meet y just above the level, else the path."""
    center = torch.where(here, factor.center, level.alpha * rng.layout.spread(path))
    return Factor(center, torch.where(here, factor.variance, torch.where(counts, 0.0, torch.inf)))
