"""What a study will cost: network calls, which are exact; seconds, memory and disk, which are estimates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from midguide.errors import ConfigError
from midguide.studies.engine.estimate import calls_of_a_draw
from midguide.studies.engine.units import Unit, batches
from midguide.studies.plan.measure import Bench, Measured, collect_seconds, peak_mib, row_bytes
from midguide.studies.plan.schedule import Batch, Overhead, Schedule, simulate
from midguide.studies.spec.study import Study

START_SECONDS = 4.0
"""Until a process has loaded torch and this package."""
WORKERS = (1, 8, 64)
NEGLIGIBLE = 0.01
"""Seconds of a truth below which it was not drawn."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One sampler on one problem.

    Args:
        problem: its label.
        sampler: likewise.
        units: how many there are.
        draws: of all units.
        forwards: network forwards of a draw.
        vjps: vector-Jacobian products of a draw.
        unit_seconds: of one worker, for one unit.
    """

    problem: str
    sampler: str
    units: int
    draws: int
    forwards: int
    vjps: int
    unit_seconds: float

    @property
    def calls(self) -> int:
        """Network calls of all draws, forwards and vjps together."""
        return self.draws * (self.forwards + self.vjps)

    @property
    def seconds(self) -> float:
        """Of one worker, for all units."""
        return self.units * self.unit_seconds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will cost.

    Args:
        study: its name.
        cells: what each sampler costs on each problem.
        schedules: the time on so many workers.
        truth_seconds: of one worker, for the truths of all problems that are drawn from a prior.
        overhead: of the run around its batches.
        memory_mib: of one worker; None where seconds are stated and nothing was run.
        disk_bytes: rows, and draws where the study keeps them.
        stated: seconds of a network call, where they were given; else this machine was measured.
    """

    study: str
    cells: tuple[Cell, ...]
    schedules: tuple[Schedule, ...]
    truth_seconds: float
    overhead: Overhead
    memory_mib: float | None
    disk_bytes: int
    stated: float | None

    @property
    def seconds(self) -> float:
        """Of one worker, for everything."""
        return sum(cell.seconds for cell in self.cells) + self.truth_seconds

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        cells = [{**asdict(cell), "calls": cell.calls, "seconds": cell.seconds} for cell in self.cells]
        total = {"units": sum(cell.units for cell in self.cells), "calls": sum(cell.calls for cell in self.cells)}
        return {**asdict(self), **total, "seconds": self.seconds, "cells": cells}


def make_plan(
    study: Study,
    *,
    workers: Sequence[int] = WORKERS,
    seconds_per_call: float | None = None,
    device: str = "cpu",
    prepared: float = 0.0,
    on_cell: Callable[[str], None] = lambda cell: None,
) -> Plan:
    """Plan a study.

    Args:
        study: what is to be run; nothing of it counts as done.
        workers: for how many processes the time is simulated.
        seconds_per_call: of a forward or a vjp for one draw, on the machine that is meant; by default each sampler is
            run on this one for a short while.
        device: where networks compute in these runs.
        prepared: seconds that it took to read the study.
        on_cell: is told each cell before it is measured.

    Raises:
        ConfigError: If a number is not positive.
    """
    if seconds_per_call is not None and not 0 < seconds_per_call < math.inf:
        raise ConfigError(f"seconds per call must be positive, got {seconds_per_call}", hint="for example 0.02")
    started = time.process_time()
    cells_of: dict[tuple[str, str], list[Unit]] = {}
    for unit in {unit.address: unit for unit in study.units}.values():
        cells_of.setdefault((unit.problem_label, unit.sampler_label), []).append(unit)
    overhead = _overhead(study, prepared + time.process_time() - started)
    before, bench = peak_mib(), Bench(device, study.head.batch)
    measured: dict[tuple[str, str], Measured] = {}
    for cell, units in cells_of.items() if seconds_per_call is None else ():
        on_cell(f"{cell[1]} on {cell[0]}")
        measured[cell] = bench.cell(units)
    cells = tuple(_cell(units, measured.get(cell), seconds_per_call or 0.0) for cell, units in cells_of.items())
    together = _batches(study, cells_of, cells, bench.truths)
    truths = {truth: batch.truth_seconds for batch in together for truth in batch.truths}
    return Plan(
        study=study.head.name,
        cells=cells,
        schedules=tuple(simulate(together, count, overhead) for count in workers),
        truth_seconds=sum(truths.values()),
        overhead=overhead,
        memory_mib=_memory(study, cells_of, measured, before) if measured else None,
        disk_bytes=_disk(study, cells_of),
        stated=seconds_per_call,
    )


def _overhead(study: Study, prepared: float) -> Overhead:
    unit = study.units[0]
    return Overhead(prepare=prepared, start=START_SECONDS, collect=collect_seconds(unit))


def _cell(units: Sequence[Unit], measured: Measured | None, per_call: float) -> Cell:
    first = units[0]
    calls = calls_of_a_draw(first.source, first.problem.probe(first.problem_seed))
    return Cell(
        problem=first.problem_label,
        sampler=first.sampler_label,
        units=len(units),
        draws=sum(unit.n for unit in units),
        forwards=calls.forwards,
        vjps=calls.vjps,
        unit_seconds=measured.unit_seconds if measured else first.n * sum(calls) * per_call,
    )


Cells = dict[tuple[str, str], list[Unit]]


def _batches(study: Study, cells_of: Cells, cells: Sequence[Cell], truth_seconds: dict[str, float]) -> list[Batch]:
    """The batches of the study in the order in which they run, with their seconds."""
    seconds = {name: cell.unit_seconds for name, cell in zip(cells_of, cells, strict=True)}
    unique = {unit.address: unit for unit in study.units}.values()
    found = []
    for batch in batches(unique, study.head.batch):
        name = (batch[0].problem_label, batch[0].sampler_label)
        truth = truth_seconds.get(batch[0].problem.prior, 0.0)
        seeds = tuple((batch[0].problem.prior, unit.problem_seed) for unit in batch) if truth > NEGLIGIBLE else ()
        found.append(Batch(len(batch) * seconds[name], len(batch), seeds, truth))
    return found


def _memory(study: Study, cells_of: Cells, measured: dict[tuple[str, str], Measured], before: float) -> float:
    """Of one worker: what is there before the first draw, and what draws add, in proportion to the rows of a batch."""
    most = 0.0
    for name, units in cells_of.items():
        together = study.head.batch if units[0].problem.stacks else 1
        rows = min(together, len(units)) * units[0].n
        most = max(most, (measured[name].memory_mib - before) * max(rows / measured[name].rows, 1.0))
    return before + most


def _disk(study: Study, cells_of: Cells) -> int:
    """Bytes of rows, and of draws where they are kept."""
    total = 0
    for units in cells_of.values():
        total += len(units) * row_bytes(units[0])
        if study.head.keep_samples:
            problem = units[0].problem.probe(units[0].problem_seed)
            total += (
                sum(unit.n for unit in units) * math.prod(problem.signal_shape) * problem.likelihood.y.element_size()
            )
    return total
