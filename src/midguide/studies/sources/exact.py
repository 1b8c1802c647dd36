"""Draws of the exact posterior and of the prior, where these are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.exact.posteriors import known_prior, posterior_of
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.maths.rng import stream_seed
from midguide.problem import Problem
from midguide.studies.sources.base import SOURCES


@SOURCES.register("exact", reference=True)
@dataclass(frozen=True)
class ExactPosterior:
    """Draws of the posterior itself: the floor of every metric."""

    def check(self, problem: Problem) -> None:
        posterior_of(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        def draws(observation: int, seed: int) -> Tensor:
            posterior = posterior_of(problem.select(torch.tensor([observation])))
            return posterior.sample(n, seed=stream_seed(seed, "exact"))

        return _without_network(draws, seeds)


@SOURCES.register("prior", reference=True)
@dataclass(frozen=True)
class PriorDraws:
    """Draws of the prior, which ignore the observation."""

    def check(self, problem: Problem) -> None:
        known_prior(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        prior = known_prior(problem)
        return _without_network(lambda _, seed: prior.sample(n, seed=stream_seed(seed, "from the prior")), seeds)


def _without_network(draw: Callable[[int, int], Tensor], seeds: Sequence[int]) -> Samples:
    """What `draw` gives for each observation and its seed."""
    started = time.monotonic()
    with torch.no_grad():
        draws = torch.stack([draw(observation, seed) for observation, seed in enumerate(seeds)])
    return Samples(draws, Cost(0.0, 0.0, time.monotonic() - started, 0.0), {})
