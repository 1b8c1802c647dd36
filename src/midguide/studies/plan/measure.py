"""What a unit takes on this machine, from short runs of its sampler, and what the run around it takes."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from midguide.errors import ConfigError
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.budget import FEWEST_STEPS
from midguide.studies.engine.estimate import calls_of_a_draw
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Unit, failed, run_batch
from midguide.studies.kinds.base import build_all
from midguide.studies.runners.base import Job
from midguide.studies.sources.base import Source

ROWS = 8
"""Rows of a batch that a CPU is measured with; more rows take longer in proportion."""
EFFORT = 0.5
"""Seconds of the longest short run of a cell, about."""
GROWTH = 4
WRITES = 10


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One cell: seconds of a unit, and memory.

    Args:
        unit_seconds: draws, metrics and verdict of one unit; CPU seconds of one thread where the device is a CPU.
        rows: rows of the batches that were measured.
        memory_mib: what the process took at most, by then.
    """

    unit_seconds: float
    rows: int
    memory_mib: float


class Bench:
    """Measures cells of a study on one device, with one thread as a worker has.

    Args:
        device: where networks compute.
        batch: units of a cell that the study draws together.

    Attributes:
        truths: seconds of what a process makes once for each seed, by priors: a truth that is drawn from the prior.
    """

    def __init__(self, device: str, batch: int) -> None:
        self._device, self._batch = device, batch
        self.truths: dict[str, float] = {}

    def cell(self, units: Sequence[Unit]) -> Measured:
        """Measure a cell by its first units."""
        some, share = self._some(units)
        with one_thread():
            self._measure_truth(units[-1])
            build_all(some[0].problem, [unit.problem_seed for unit in some])
            seconds = self._extrapolated(some)
        rows = len(some) * some[0].n
        return Measured(unit_seconds=seconds / share, rows=rows, memory_mib=peak_mib())

    def _some(self, units: Sequence[Unit]) -> tuple[list[Unit], float]:
        """Units to measure, and how many whole units they are: on a CPU few rows stand for many."""
        first = units[0]
        together = units[: self._batch if first.problem.stacks else 1]
        closed = isinstance(first.problem.probe(first.problem_seed).denoiser, Gaussian | GaussianMixture)
        if closed or self._device != "cpu":
            return list(together), float(len(together))
        source: Any = first.source
        group = source.sampler.needs.group if is_sampled(source) else 1
        n = min(first.n, max(ROWS // group, 1) * group)
        few = [replace(unit, n=n) for unit in together[: max(ROWS // n, 1)]]
        return few, len(few) * n / first.n

    def _measure_truth(self, unit: Unit) -> None:
        """What a problem takes when it is first built, beyond what it takes again; all problems of a prior share it."""
        first, again = (self._seconds(lambda: build_all(unit.problem, [unit.problem_seed])) for _ in range(2))
        self.truths[unit.problem.prior] = max(first - again, self.truths.get(unit.problem.prior, 0.0))

    def _extrapolated(self, units: Sequence[Unit]) -> float:
        """Seconds of a batch: of the run itself where that is short, else by calls from two shorter runs."""
        problem = units[0].problem.probe(units[0].problem_seed)
        wanted = sum(calls_of_a_draw(units[0].source, problem))
        sources = list(shorter(units[0].source, problem))
        self._run(units, sources[0])  # which warms up
        known: list[tuple[int, float]] = []
        for source in sources:
            calls, seconds = sum(calls_of_a_draw(source, problem)), self._run(units, source)
            known.append((calls, seconds))
            if seconds > EFFORT / GROWTH and len(known) > 1:
                break
        (low, least), (high, most) = known[0], known[-1]
        if high in (wanted, low):
            return most
        slope = max(most - least, 0.0) / (high - low)
        return most + slope * (wanted - high)

    def _run(self, units: Sequence[Unit], source: Source) -> float:
        return self._seconds(lambda: run_batch([replace(unit, source=source) for unit in units], None, self._device))

    def _seconds(self, work: Any) -> float:
        clock = time.process_time if self._device == "cpu" else time.perf_counter
        started = clock()
        work()
        return clock() - started


def is_sampled(source: Source) -> bool:
    """Whether a source has a sampler."""
    return is_dataclass(source) and "sampler" in {field.name for field in fields(source)}


def shorter(source: Any, problem: Problem) -> Iterator[Source]:
    """The source with few steps of its sampler, then more and more of them, and last as it is."""
    steps = getattr(source.sampler, "steps", 0) if is_sampled(source) else 0
    settable = steps and "steps" in {field.name for field in fields(source.sampler) if field.init}
    count = FEWEST_STEPS
    while settable and count < steps:
        try:
            made = replace(source, sampler=replace(source.sampler, steps=count))
            made.check(problem)
            made.sampler.calls(problem)
            yield made
        except ConfigError:  # not with so few
            pass
        count *= GROWTH
    yield source


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def collect_seconds(unit: Unit) -> float:
    """What a unit takes in the process that hands out batches and writes rows: CPU seconds."""
    rows = failed(unit, ArithmeticError("none"))
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, {"study": {"name": "plan"}}, [])
        store.write(unit, rows)
        started = time.process_time()
        for _ in range(WRITES):
            Job(units=[unit]).packed()
            store.write(unit, rows)
        return (time.process_time() - started) / WRITES


def row_bytes(unit: Unit) -> int:
    """What the file of a unit's rows takes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, {"study": {"name": "plan"}}, [])
        store.write(unit, failed(unit, ArithmeticError("none")))
        return store.path(unit).stat().st_size


def peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
