"""Draws of a sampler: what is taken of it by default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from midguide.inference.loop import sample
from midguide.inference.rows import check_group
from midguide.inference.samples import Samples
from midguide.inference.stored import StoredSamples
from midguide.maths.rng import Rng
from midguide.maths.weights import equal_picks
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.base import Sampler, check_needs
from midguide.studies.sources.base import SOURCES, Source

STREAM_VALUES = 2**17
"""Values of a state that one random stream serves: half a megabyte in float32."""


@dataclass(frozen=True)
class Sampled:
    """Draws of a sampler.

    With a network each draw has its random stream, and all are drawn at once. With a prior in closed form, draws are
    tiny and come in thousands. So groups of them have one stream each, and the source draws as many at once as a
    processor's cache can hold.
    """

    sampler: Sampler

    def check(self, problem: Problem) -> None:
        check_needs(self.sampler, problem)
        self.sampler.times(problem)  # which refuses more steps than the schedule has levels

    def check_count(self, n: int) -> None:
        """Refuse a number of draws that the sampler's groups do not make."""
        check_group(n, self.sampler.needs.group)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        rows, chunk = self._sizes(problem, n)
        return sample(self.sampler, problem, n, seed=seeds, stream_size=rows, chunk=chunk, progress=False)

    def write(self, problem: Problem, n: int, seeds: Sequence[int], path: Path) -> StoredSamples:
        """The same draws, written to a store as they finish."""
        rows, chunk = self._sizes(problem, n)
        return sample(self.sampler, problem, n, seed=seeds, stream_size=rows, chunk=chunk, out=path, progress=False)

    def _sizes(self, problem: Problem, n: int) -> tuple[int, int | None]:
        """How many draws share a stream, and how many are drawn at once."""
        if not isinstance(problem.denoiser, Gaussian | GaussianMixture):
            return 1, None
        rows = self.stream(problem, n)
        together = math.lcm(rows, self.sampler.needs.group)
        most = 2 * rows if problem.observations == 1 else 2 * STREAM_VALUES // math.prod(problem.event_shape)
        return rows, max(2 * rows, together, most)

    def stream(self, problem: Problem, n: int) -> int:
        """How many of `n` samples share a stream: the greatest divisor of n with at most `STREAM_VALUES` values.

        Two such groups are drawn together: fewer make too many calls, more leave the cache.
        """
        most = max(STREAM_VALUES // math.prod(problem.event_shape), 1)
        return max(divisor for divisor in range(1, min(n, most) + 1) if n % divisor == 0)


@dataclass(frozen=True)
class OneOfEachGroup:
    """One draw of each of n groups of a sampler, by its weights: independent draws of what a group approximates.

    Draws of one group, such as the particles of a filter, may share ancestors. It costs a group for each draw.
    """

    sampler: Sampler

    def check(self, problem: Problem) -> None:
        Sampled(self.sampler).check(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        size = self.sampler.needs.group
        whole = Sampled(self.sampler).draw(problem, n * size, seeds)
        if size == 1:
            return whole
        observations = len(whole.draws)
        log_weight = torch.zeros(whole.draws.shape[:2]) if whole.log_weight is None else whole.log_weight
        rng = Rng([(seed, "one of each group", k) for seed in seeds for k in range(n)])
        picks = equal_picks(log_weight.reshape(observations * n, size), rng, 1)
        at = picks.to(whole.draws.device).reshape(observations, n) + size * torch.arange(n, device=whole.draws.device)
        draws = whole.draws[torch.arange(observations, device=at.device)[:, None], at]
        cost = replace(
            whole.cost, network_forwards=size * whole.cost.network_forwards, network_vjps=size * whole.cost.network_vjps
        )
        return Samples(draws, cost, whole.record)


@SOURCES.register("samples", of_sampler=True)
def samples_of(sampler: Sampler) -> Source:
    """The samples of a sampler."""
    return Sampled(sampler)


@SOURCES.register("one-of-each-group", of_sampler=True)
def one_of_each_group(sampler: Sampler) -> Source:
    """One sample of each group of a sampler, by its weights: independent ones."""
    return OneOfEachGroup(sampler)
