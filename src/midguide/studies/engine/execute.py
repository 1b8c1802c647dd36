"""Running a study: what is missing goes to a runner, what comes back goes to the store."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from midguide.catalogue.base import short
from midguide.errors import ConfigError, about
from midguide.inference.arrays import libraries
from midguide.metrics.base import METRICS, SET_METRICS
from midguide.studies.engine.store import Progress, Store
from midguide.studies.engine.units import Unit, batches, forget_code
from midguide.studies.runners.base import RUNNERS, Job, Runner
from midguide.studies.spec.study import Study
from midguide.studies.spec.tables import STREAM


def units_to_run(
    progress: Progress,
    store: Store,
    *,
    retry: bool = False,
    rerun_old: bool = False,
    rescore: bool = False,
    limit: int | None = None,
    only: Sequence[str] = (),
) -> list[Unit]:
    """The units of which there is no result, or others on request.

    Args:
        progress: what is there.
        store: where it is.
        retry: also those that failed.
        rerun_old: also those that other code made.
        rescore: instead those whose draws are stored, done or not: they are measured without sampling.
        limit: at most so many.
        only: patterns "PROBLEM/SAMPLER" of labels, with * and ? for any text: the units that match one of them.
    """
    units = [*progress.damaged, *progress.missing]
    units += progress.failed if retry else []
    units += progress.old if rerun_old else []
    if rescore:
        every = {unit.address: unit for unit in [*units, *progress.done, *progress.old]}
        units = [unit for unit in every.values() if (store.samples / unit.draws_address).exists()]
    return [unit for unit in units if not only or any(_is_of(unit, pattern) for pattern in only)][:limit]


def check_patterns(study: Study, only: Sequence[str]) -> None:
    """Refuse patterns "PROBLEM/SAMPLER" that match nothing.

    Raises:
        ConfigError: If a pattern matches no cell of the study.
    """
    for pattern in only:
        if not any(_is_of(unit, pattern) for unit in study.units):
            raise ConfigError(
                f"--only {pattern} matches no cell",
                hint="PROBLEM/SAMPLER by their labels, such as 'jpeg/MGPS*' or '*/DPS'",
            )


def _is_of(unit: Unit, pattern: str) -> bool:
    """Whether a unit belongs to a cell that the pattern "PROBLEM/SAMPLER" names."""
    return fnmatch.fnmatchcase(f"{unit.problem_label}/{unit.sampler_label}", pattern)


def check_metrics(study: Study) -> None:
    """Refuse to start where a metric's files are missing or damaged, or one of sets does not take the signals.

    Raises:
        CheckpointError: If a file of weights is missing or damaged; names the metric and the file.
        ShapeError: If a metric of sets does not take signals of such a shape.
    """
    for name in study.metrics:
        with about(f"metric `{short(name)}`"):
            METRICS.make(name).ready()
    for name in study.head.set_metrics:
        for unit in _first_of_each_problem(study):
            with about(f"metric `{short(name)}`"):
                SET_METRICS.make(name).check(unit.problem.probe(unit.problem_seed).signal_shape)


def check_device(study: Study, device: str) -> None:
    """Refuse to start where a prior of the study cannot leave the CPU.

    Raises:
        UnsupportedProblem: If the prior cannot move there; names it.
    """
    for unit in _first_of_each_problem(study) if device != "cpu" else ():
        unit.problem.probe(unit.problem_seed).to(device)


def _first_of_each_problem(study: Study) -> list[Unit]:
    return list({unit.problem_label: unit for unit in reversed(study.units)}.values())


def run_units(
    study: Study,
    store: Store,
    units: list[Unit],
    *,
    runner: Runner | None = None,
    device: str = "cpu",
    old_code: bool = False,
    on_unit: Callable[[Unit, list[str], float], None] = lambda unit, failures, seconds: None,
) -> int:
    """Run units and store their rows as they come.

    Args:
        study: its `keep_samples` says whether draws are stored, its `batch` how many units are drawn together.
        store: where the rows go.
        units: what to run.
        runner: the engine; by default this process.
        device: where networks compute.
        old_code: take stored draws that other code made.
        on_unit: called for each finished unit with the reasons of its failures and the seconds left by the pace of the
            batches so far.

    Returns:
        How many of them failed.
    """
    forget_code()
    kept: Path | None = store.samples if study.head.keep_samples or store.samples.exists() else None
    runner = runner or RUNNERS.make("local")
    stream = study.head.keep_samples == STREAM
    failed, started = 0, time.monotonic()
    try:
        if stream:
            libraries()
        together: dict[str, list[str]] = {}
        for batch in batches(units, study.head.batch):
            together |= dict.fromkeys(names := [unit.address for unit in batch], names)
            job = Job(units=batch, kept=kept, device=device, old_code=old_code, code=study.code, stream=stream)
            runner.submit(job)
        drawn = set[str]()  # a batch ends as a whole, though its units come one by one
        for unit, rows in runner.collect():
            store.write(unit, rows)
            reasons = sorted({row["failure"] for row in rows if row["failure"]})
            failed += bool(reasons)
            drawn.update(together[unit.address])
            on_unit(unit, reasons, (time.monotonic() - started) / len(drawn) * (len(units) - len(drawn)))
    finally:
        runner.close()
    return failed
