"""A source of draws that is not a sampler: the mean level at all hours."""

from collections.abc import Sequence
from dataclasses import dataclass

from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.problem import Problem
from midguide.studies.sources.base import SOURCES


@SOURCES.register("slack-water", reference=True)
@dataclass(frozen=True)
class SlackWater:
    """Nothing moves."""

    def check(self, problem: Problem) -> None:
        """It takes all."""

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        """Zeros."""
        draws = problem.zeros()[:, None].expand(-1, n, *problem.event_shape)
        tensors = {"y": problem.likelihood.y} | ({} if problem.truth is None else {"truth": problem.truth})
        return Samples(draws, Cost(0.0, 0.0, 0.0, 0.0), {}, tensors)
