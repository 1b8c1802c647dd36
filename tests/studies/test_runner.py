"""Runners give the same rows whatever runs them, and count what fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from midguide.errors import ConfigError, NumericalError
from midguide.problem import Problem
from midguide.samples import Samples
from midguide.studies.execute import run_units, units_to_run
from midguide.studies.report import make_report
from midguide.studies.runner import InProcess, local_runner
from midguide.studies.spec import load_study
from midguide.studies.store import Store
from midguide.studies.units import run_batch


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
        runner.submit([unit])
    found = [row for _, rows in runner.collect() for row in rows]
    runner.close()
    return found


def test_processes_give_the_rows_of_one_process(tiny):
    units = load_study(tiny).units
    one, several = collected(local_runner(1), units), collected(local_runner(2), units)
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
    rows = collected(local_runner(2), units)
    dead = [row for row in rows if row.get("failure")]
    assert {row["address"] for row in dead} == {units[0].address}
    assert "worker process died" in dead[0]["failure"]
    assert len(rows) == 6


def test_defect_is_raised_and_not_taken_for_a_failure(tiny):
    unit = replace(load_study(tiny).units[0], source=Failing(TypeError))
    for runner in (local_runner(1), local_runner(2)):
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
        runner.submit([unit])
    runner.close()
    assert list(runner.collect()) == []


def test_number_of_workers_must_be_positive():
    with pytest.raises(ConfigError, match="workers"):
        local_runner(0)
