"""How long batches take on w workers: the scheduler of a study, simulated, and what holds it up."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WORK, LONGEST, SERIAL, START = (
    "the work itself",
    "the longest batch",
    "the one process that hands out",
    "start of workers",
)


class Batch(NamedTuple):
    """What the scheduler hands to a worker at a time.

    Args:
        seconds: of its draws and metrics.
        units: whose rows it brings.
        truths: what a worker makes once and keeps, such as images that are drawn from the prior.
        truth_seconds: what each of them takes.
    """

    seconds: float
    units: int = 1
    truths: tuple[Hashable, ...] = ()
    truth_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """What a run takes besides its batches, in seconds.

    Args:
        prepare: before the first batch: the study's file, the addresses of its units, what is done already.
        start: until a worker has loaded the package.
        collect: for each unit, in the process that hands out batches and writes rows.
    """

    prepare: float = 0.0
    start: float = 0.0
    collect: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A run on so many workers.

    Args:
        workers: processes.
        seconds: from start to end.
        busy: share of the workers' time in which they compute.
        bottleneck: what would have to be less for the run to be shorter.
    """

    workers: int
    seconds: float
    busy: float
    bottleneck: str


@dataclass
class _Worker:
    """A process, and the truths that it has made."""

    known: set[Hashable] = field(default_factory=set)

    def seconds(self, batch: Batch) -> float:
        """What a batch takes here."""
        unseen = set(batch.truths) - self.known if batch.truth_seconds else set()
        self.known |= unseen
        return batch.seconds + batch.truth_seconds * len(unseen)


def simulate(batches: Sequence[Batch], workers: int, overhead: Overhead) -> Schedule:
    """Batches in their order, each to the worker that is free first, as the runner `local` hands them out.

    Rows are collected one batch after the other, by the process that also hands out. With one worker it does the work
    itself and starts nothing.

    Example:
        >>> simulate([Batch(3.0), Batch(3.0), Batch(6.0)], 2, Overhead()).seconds
        9.0
    """
    alone = workers == 1
    start = overhead.prepare + (0.0 if alone else overhead.start)
    crew = [_Worker() for _ in range(workers)]
    ends = [(start, index, 0) for index in range(min(workers, len(batches)))]  # when, who, units that come back
    collector, work, longest = overhead.prepare, 0.0, 0.0
    waiting = iter(batches)
    while ends:
        end, index, units = heapq.heappop(ends)
        collector = max(collector, end) + units * overhead.collect
        batch = next(waiting, None)
        if batch is not None:
            seconds = crew[index].seconds(batch)
            work, longest = work + seconds, max(longest, seconds)
            heapq.heappush(ends, (collector + seconds, index, batch.units))
    serial = overhead.collect * sum(batch.units for batch in batches)
    bounds = {
        WORK: work / workers,
        LONGEST: longest,
        SERIAL: serial + overhead.prepare,
        START: start - overhead.prepare,
    }
    if alone:
        bounds = {WORK: work, SERIAL: serial + overhead.prepare}
    return Schedule(
        workers=workers,
        seconds=collector,
        busy=work / (workers * collector) if collector else 0.0,
        bottleneck=max(bounds, key=lambda name: bounds[name]),
    )
