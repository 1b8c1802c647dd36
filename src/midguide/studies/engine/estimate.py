"""What units cost in network calls, before they run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from midguide.problem import Problem
from midguide.samplers.base import Calls
from midguide.studies.engine.units import Unit
from midguide.studies.sources.base import Source
from midguide.studies.sources.sampled import OneOfEachGroup, Sampled


def calls_of_a_draw(source: Source, problem: Problem) -> Calls:
    """Network calls that one draw of a source costs: those of its sampler, none for what has no network."""
    match source:
        case Sampled():
            return source.sampler.calls(problem)
        case OneOfEachGroup():
            size, calls = source.sampler.needs.group, source.sampler.calls(problem)
            return Calls(size * calls.forwards, size * calls.vjps)
    return Calls(0, 0)


def relative_costs(together: Sequence[Sequence[Unit]]) -> list[float]:
    """Costs of batches relative to each other, where they have one prior: values of a signal times network calls.

    They follow from the study alone, so that every machine finds the same ones.
    """
    known: dict[tuple[str, str], float] = {}
    for unit, *_ in together:
        if (cell := (unit.problem_label, unit.sampler_label)) not in known:
            problem = unit.problem.probe(unit.problem_seed)
            known[cell] = math.prod(problem.event_shape) * (1 + sum(calls_of_a_draw(unit.source, problem)))
    return [sum(unit.n * known[unit.problem_label, unit.sampler_label] for unit in batch) for batch in together]
