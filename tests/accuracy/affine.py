"""The exact law of a sampler whose draws are an affine function of its random numbers: no Monte Carlo.

One row of the batch gets no noise, and each other row one unit of one of the random numbers: the sampler itself, run
once, gives the matrix of the map. It shares no formula with the sampler.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from midguide.exact.laws import Law
from midguide.maths.rng import Layout
from midguide.problem import Problem
from midguide.samplers.base import Sampler


class Units:
    """Random numbers of `rows` rows, in place of `Rng`: row k has a one for the k-th number of a row, else zeros."""

    def __init__(self, rows: int) -> None:
        self.layout, self.used = Layout(rows, 1), 0

    def normal(self, like: Tensor) -> Tensor:
        flat = torch.zeros(self.layout.rows, like[0].numel(), dtype=like.dtype)
        for entry in range(flat.shape[1]):
            self.used += 1
            if self.used < len(flat):
                flat[self.used, entry] = 1.0
        return flat.reshape(like.shape)


def run(sampler: Sampler, problem: Problem, rows: int, start: Law) -> tuple[list[Any], int]:
    """States and what `finish` gives of `rows` rows, and how many random numbers a row took; x_T is from `start`."""
    rng: Any = Units(rows)
    times, problem = sampler.times(problem), problem.select(torch.zeros(rows, dtype=torch.long))
    with torch.no_grad():
        state = sampler.init(problem, rng)
        rng.used = 0
        x_t = start.mean + rng.normal(state.x_t) @ torch.linalg.cholesky(start.covariance).T
        states = [state._replace(x_t=x_t)]
        for t, s in pairwise(times):
            states.append(sampler.step(problem, states[-1], t, s, rng).state)
        return [*states, sampler.finish(problem, states[-1], times[-1], rng)], rng.used


def noised_posterior(sampler: Sampler, problem: Problem, posterior: Law) -> Law:
    """The law of x_T given y at the first time of the sampler."""
    level = problem.schedule.level(sampler.times(problem)[0])
    noise = level.sigma**2 * torch.eye(len(posterior.mean), dtype=torch.float64)
    return Law(level.alpha * posterior.mean, level.alpha**2 * posterior.covariance + noise)


def law_of(sampler: Sampler, problem: Problem, posterior: Law) -> Law:
    """The law of draws of a sampler that starts from the noised posterior, on a Gaussian problem."""
    start = noised_posterior(sampler, problem, posterior)
    used = run(sampler, problem, 1, start)[1]
    draws = run(sampler, problem, 1 + used, start)[0][-1].draws
    columns = draws[1:] - draws[0]
    return Law(draws[0], columns.T @ columns)
