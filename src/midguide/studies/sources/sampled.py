"""Draws of a sampler: what is taken of it by default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from midguide.inference.loop import sample
from midguide.inference.rows import check_group
from midguide.inference.samples import Samples
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

    With a network each draw has its random stream, and all are drawn at once. With a prior in closed form, where draws
    are tiny and come in thousands, groups of them have one stream each, and as many are drawn at once as a processor's
    cache can hold.
    """

    sampler: Sampler

    def check(self, problem: Problem) -> None:
        check_needs(self.sampler, problem)
        self.sampler.times(problem)  # which refuses more steps than the schedule has levels

    def check_count(self, n: int) -> None:
        """Refuse a number of draws that the sampler's groups do not make."""
        check_group(n, self.sampler.needs.group)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        if not isinstance(problem.denoiser, Gaussian | GaussianMixture):
            return sample(self.sampler, problem, n, seed=seeds)
        rows = self.stream(problem, n)
        together = math.lcm(rows, self.sampler.needs.group)
        return sample(self.sampler, problem, n, seed=seeds, stream_size=rows, chunk=max(2 * rows, together))

    def stream(self, problem: Problem, n: int) -> int:
        """How many of `n` samples share a stream: the greatest divisor of n with at most `STREAM_VALUES` values.

        Two such groups are drawn together: fewer make too many calls, more leave the cache.
        """
        most = max(STREAM_VALUES // math.prod(problem.event_shape), 1)
        return max(divisor for divisor in range(1, min(n, most) + 1) if n % divisor == 0)


@SOURCES.register("samples", of_sampler=True)
def samples_of(sampler: Sampler) -> Source:
    """The samples of a sampler."""
    return Sampled(sampler)
