"""A small particle filter for tests: the twisted bootstrap filter, exact for the discretized prior at any size.

Its target at time t is `p_t(x_t) p(y | D(x_t, t))^power`, with power rising to one as noise vanishes; at the end the
likelihood of the denoised state takes its place. The mean weight of a group is then an unbiased estimate of
`E[p(y | x)]` over draws x of `Unconditional` at the same steps, whatever the power and the number of particles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.schedules import CLEAN, Time
from midguide.maths.rng import Layout, Rng
from midguide.maths.weights import effective_size, log_mean_exp, normalized, systematic
from midguide.problem import Problem
from midguide.samplers.base import Calls, Finished, Needs, Step, initial_noise, schedule_times


class FilterState(NamedTuple):
    """Particles, shape (B, *event), their absolute log-weights and the twist within, shape (B,)."""

    x_t: Tensor
    log_weight: Tensor
    log_twist: Tensor


@dataclass(frozen=True, kw_only=True)
class TwistedFilter:
    """Islands of `particles` each, resampled where their effective sample size falls below half.

    Args:
        steps: noise levels visited.
        particles: of each island; 1 gives independent weighted draws.
        twist: the twist's power where there is no noise; 0 gives importance sampling from the prior.
    """

    steps: int = 12
    particles: int = 4
    twist: float = 0.5

    times = schedule_times

    @property
    def needs(self) -> Needs:
        return Needs(group=self.particles)

    def calls(self, problem: Problem) -> Calls:
        return Calls(forwards=self.steps, vjps=0)

    def init(self, problem: Problem, rng: Rng) -> FilterState:
        x_t = initial_noise(problem, self.times(problem)[0], rng)
        return FilterState(x_t, zeros := x_t.new_zeros(len(x_t)), zeros)

    def step(self, problem: Problem, state: FilterState, t: Time, s: Time, rng: Rng) -> Step:
        level_t, level_s = problem.schedule.level(t), problem.schedule.level(s)
        x0_hat = problem.denoiser(state.x_t, t)
        power = self.twist * level_t.alpha**2 / (level_t.alpha**2 + level_t.sigma**2)
        log_twist = power * problem.likelihood.log_prob(x0_hat)
        log_weight = state.log_weight + log_twist - state.log_twist

        log_weight, members = resampled(log_weight, rng)
        x_t, x0_hat, log_twist = (rng.layout.pick(x, members) for x in (state.x_t, x0_hat, log_twist))
        move = kernels.bridge(CLEAN, level_s, level_t)
        x_s = move.draw(x0_hat, x_t, rng.normal(x_t))
        sizes = effective_size(normalized(rng.layout.split(log_weight)))
        return Step(FilterState(x_s, log_weight, log_twist), {"effective_size": sizes})

    def finish(self, problem: Problem, state: FilterState, t: Time, rng: Rng) -> Finished:
        x_0 = problem.denoiser(state.x_t, t)
        log_weight = state.log_weight + problem.likelihood.log_density(x_0) - state.log_twist
        return Finished(x_0, log_weight, log_mean_exp(rng.layout.split(log_weight)))


def resampled(log_weight: Tensor, rng: Rng, shared: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-weights and members of each group after systematic resampling of the groups that need it.

    The mean weight of a group is its evidence so far, which resampling keeps.
    """
    layout: Layout = rng.layout
    grouped = layout.split(log_weight)
    weights = normalized(grouped)
    shared = rng.groups.uniform(log_weight.new_empty(layout.groups)) if shared is None else shared
    needed = effective_size(weights)[:, None] < layout.size / 2
    members = torch.where(needed, systematic(weights, shared), torch.arange(layout.size))
    grouped = torch.where(needed, log_mean_exp(grouped)[:, None].to(grouped.dtype), grouped)
    return grouped.flatten(), members
