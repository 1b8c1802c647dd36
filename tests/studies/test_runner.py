"""Runners give the same rows whatever runs them, and count what fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from multiprocessing import get_context
from types import SimpleNamespace

import pytest

from midguide.errors import ConfigError, NumericalError
from midguide.inference.samples import Samples
from midguide.problem import Problem
from midguide.studies.engine.execute import run_units, units_to_run
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Rows, run_batch
from midguide.studies.report.rows import make_report
from midguide.studies.runners.base import Finished, Job, run_packed
from midguide.studies.runners.local import InProcess, local_runner
from midguide.studies.spec.study import load_study


@dataclass(frozen=True)
class Failing:
    """A source that fails in one of the ways that a unit can."""

    error: type[Exception] | None = NumericalError

    def check(self, problem: Problem) -> None:
        """It accepts everything."""

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError
        raise self.error("it cannot be")


def values(rows):
    return [(row["address"], row["metric"], row["value"]) for row in rows]


def collected(runner, units):
    for unit in units:
        runner.submit(Job(units=[unit]))
    found = [row for _, rows in runner.collect() for row in rows]
    runner.close()
    return found


def test_processes_give_the_rows_of_one_process(tiny):
    units = load_study(tiny).units
    one, several = collected(local_runner(), units), collected(local_runner(workers=2), units)
    assert len(one) == 12
    assert sorted(values(one)) == sorted(values(several))
    assert all(row["failure"] is None for row in one)


def test_failing_unit_is_counted_not_dropped_and_run_again_on_request_only(tiny, tmp_path):
    study = load_study(tiny)
    study = replace(study, units=(replace(study.units[2], source=Failing()), *study.units[3:]))
    store = Store.create(tmp_path / "out", study.plain, [])
    assert run_units(study, store, list(study.units)) == 1
    progress = store.progress(study.units)
    assert (len(progress.failed), len(progress.done)) == (1, 3)
    assert units_to_run(progress, store) == []
    assert units_to_run(progress, store, retry=True) == progress.failed
    rows = [row for row in make_report(study, store).rows if row.sampler == study.units[0].sampler_label]
    assert {(row.n, row.failures) for row in rows} == {(1, 1)}
    stored = store.read(study.units[0])
    assert stored is not None
    assert stored[0]["failure"] == "NumericalError: it cannot be"


def test_worker_that_dies_is_a_failure_of_its_unit_and_the_others_go_on(tiny):
    units = list(load_study(tiny).units[:3])
    units[0] = replace(units[0], source=Failing(None))
    rows = collected(local_runner(workers=2), units)
    dead = [row for row in rows if row.get("failure")]
    assert {row["address"] for row in dead} == {units[0].address}
    assert "worker process died" in dead[0]["failure"]
    assert len(rows) == 6


def test_defect_is_raised_and_not_taken_for_a_failure(tiny):
    unit = replace(load_study(tiny).units[0], source=Failing(TypeError))
    for runner in (local_runner(), local_runner(workers=2)):
        with pytest.raises(TypeError, match="it cannot be"):
            collected(runner, [unit])
        runner.close()


def test_stored_draws_are_measured_again_without_sampling(tiny, tmp_path, monkeypatch):
    unit = load_study(tiny).units[2]
    (before,) = run_batch([unit], tmp_path)
    monkeypatch.setattr(type(unit.source), "draw", None)  # calling it would be a TypeError
    assert values(run_batch([unit], tmp_path)[0]) == values(before)
    other = replace(unit, metrics=("mean_error",))
    assert run_batch([other], tmp_path)[0][0]["value"] is not None


def test_nothing_runs_after_close(tiny):
    runner = InProcess()
    for unit in load_study(tiny).units:
        runner.submit(Job(units=[unit]))
    runner.close()
    assert list(runner.collect()) == []


class Executor:
    """Another engine: any executor of `concurrent.futures`, as those of clusters are."""

    def __init__(self, executor: futures.Executor) -> None:
        self._executor = executor
        self._jobs: dict[futures.Future[list[Rows]], Job] = {}

    def submit(self, job: Job) -> None:
        self._jobs[self._executor.submit(run_packed, job.packed())] = job

    def collect(self) -> Iterator[Finished]:
        for future in futures.as_completed(self._jobs):
            yield from map(Finished, self._jobs[future].units, future.result())

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def rows_without_seconds(study, store):
    return [{**row, "seconds": 0, "peak_memory_mib": 0} for unit in study.units for row in store.read(unit)]


def test_another_engine_takes_the_place_of_the_processes_and_gives_the_same_results(tiny, tmp_path):
    study = load_study(tiny)
    here, there = (Store.create(tmp_path / name, study.plain, []) for name in ("here", "there"))
    assert run_units(study, here, list(study.units)) == 0
    engine = futures.ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    seen = []
    failed = run_units(
        study, there, list(study.units), runner=Executor(engine), on_unit=lambda unit, *_: seen.append(unit)
    )
    assert failed == 0
    assert {unit.address for unit in seen} == {unit.address for unit in study.units}
    assert rows_without_seconds(study, there) == rows_without_seconds(study, here)
    with pytest.raises(RuntimeError, match="after shutdown"):  # it has been closed
        engine.submit(print)


def test_failures_of_another_engine_are_counted_and_an_error_closes_it(tiny, tmp_path):
    study = load_study(tiny)
    store = Store.create(tmp_path / "out", study.plain, [])
    units = [replace(study.units[0], source=Failing()), *study.units[1:]]
    assert run_units(study, store, units, runner=Executor(futures.ThreadPoolExecutor(1))) == 1
    engine = futures.ThreadPoolExecutor(1)
    with pytest.raises(TypeError, match="it cannot be"):
        run_units(study, store, [replace(units[0], source=Failing(TypeError))], runner=Executor(engine))
    with pytest.raises(RuntimeError, match="after shutdown"):
        engine.submit(print)


def test_number_of_workers_must_be_positive():
    with pytest.raises(ConfigError, match="workers"):
        local_runner(workers=0)


def test_the_time_left_is_that_of_whole_batches(tiny, tmp_path, monkeypatch):
    study = load_study(tiny)
    monkeypatch.setattr("midguide.studies.engine.execute.batches", lambda units, size: [units[:3], units[3:]])
    ticks = SimpleNamespace(monotonic=iter(range(0, 1000, 9)).__next__)
    monkeypatch.setattr("midguide.studies.engine.execute.time", ticks)
    store, left = Store.create(tmp_path / "out", study.plain, []), []
    run_units(study, store, list(study.units), on_unit=lambda *said: left.append(said[2]))
    assert left == [9, 18, 27, 0, 0, 0]  # of two batches of three units, after 9, 18 and 27 seconds
