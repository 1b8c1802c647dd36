"""A plan knows network calls exactly; its times are those of short runs, by calls, and of a simulated scheduler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from midguide.cli.commands.study import opened
from midguide.errors import ConfigError
from midguide.samplers.base import make_sampler
from midguide.studies.engine.estimate import calls_of_a_draw
from midguide.studies.plan.measure import Bench, shorter
from midguide.studies.plan.plan import make_plan
from midguide.studies.plan.schedule import LONGEST, SERIAL, START, WORK, Batch, Overhead, simulate
from midguide.studies.sources.sampled import OneOfEachGroup
from midguide.studies.spec.study import load_study


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_a_schedule_lies_between_the_bounds_of_graham(workers, rng):
    seconds = rng.exponential(size=200)
    made = simulate([Batch(s) for s in seconds], workers, Overhead())
    assert made.seconds >= max(seconds.sum() / workers, seconds.max()) - 1e-9
    assert made.seconds <= seconds.sum() / workers + seconds.max()
    assert made.busy == pytest.approx(seconds.sum() / workers / made.seconds)


def test_what_holds_a_run_up_is_named():
    many = [Batch(1.0)] * 100
    assert simulate(many, 4, Overhead()).bottleneck == WORK
    assert simulate([*many, Batch(80.0)], 4, Overhead()).bottleneck == LONGEST
    assert simulate(many, 4, Overhead(start=60.0)).bottleneck == START
    slow = simulate(many, 64, Overhead(collect=0.5))
    assert slow.bottleneck == SERIAL
    assert slow.seconds == pytest.approx(51.0, abs=0.5)  # 100 units at half a second, after the first of a second


def test_rows_of_one_process_are_written_between_its_batches():
    made = simulate([Batch(1.0, units=3)] * 4, 1, Overhead(prepare=2.0, start=9.0, collect=0.1))
    assert made.seconds == pytest.approx(2.0 + 4 * (1.0 + 0.3))


def test_a_truth_is_drawn_once_by_each_worker_that_needs_it():
    batches = [Batch(1.0, truths=(k % 2,), truth_seconds=10.0) for k in range(8)]
    assert simulate(batches, 1, Overhead()).seconds == 8 + 2 * 10
    assert simulate(batches, 2, Overhead()).seconds == 4 + 10


def test_planned_calls_are_those_of_the_run(cli, tiny):
    tiny.write_text(tiny.read_text() + '\n[[samplers]]\nspec = "mgps"\nsettings = { steps = 7 }\n')
    planned = make_plan(load_study(tiny), seconds_per_call=0.5, workers=[1])
    cli("study", "run", tiny, "--out", "out")
    study, store = opened(Path("out"), None)
    rows = [store.read(unit)[0] for unit in study.units]
    calls = sum(
        unit.n * (row["network_forwards"] + row["network_vjps"]) for unit, row in zip(study.units, rows, strict=True)
    )
    assert sum(cell.calls for cell in planned.cells) == calls
    assert planned.seconds == pytest.approx(0.5 * calls)
    assert planned.schedules[0].seconds == pytest.approx(0.5 * calls, rel=0.05)
    assert (planned.memory_mib, planned.stated) == (None, 0.5)


def test_kept_draws_count_on_the_disk(tiny):
    bare = make_plan(load_study(tiny), seconds_per_call=1.0)
    kept = make_plan(load_study(tiny, [("keep_samples", True)]), seconds_per_call=1.0)
    assert kept.disk_bytes - bare.disk_bytes == 6 * 16 * 2 * 4  # units, draws, dimensions, bytes


def test_short_runs_have_ever_more_steps_and_end_with_the_sampler_itself(tiny):
    units = load_study(tiny, [("samplers.steps", 300)]).units
    problem = units[1].problem.probe(0)
    assert [source.sampler.steps for source in shorter(units[1].source, problem)] == [2, 8, 32, 128, 300]
    assert list(shorter(units[0].source, problem)) == [units[0].source]  # exact draws have no steps


def test_seconds_grow_with_the_calls_of_two_short_runs(tiny, monkeypatch):
    unit = load_study(tiny, [("samplers.steps", 300)]).units[2]
    problem, ran = unit.problem.probe(0), []

    def run(self, units, source):
        ran.append(sum(calls_of_a_draw(source, problem)))
        return 0.1 + 0.003 * ran[-1]

    monkeypatch.setattr(Bench, "_run", run)
    found = Bench("cpu", 1)._extrapolated([unit])
    assert found == pytest.approx(0.1 + 0.003 * sum(unit.source.sampler.calls(problem)))
    assert max(ran) < 100


def test_a_group_for_each_draw_costs_the_calls_of_the_group(tiny):
    unit = load_study(tiny).units[1]
    sampler, problem = make_sampler("mcgdiff:islands"), unit.problem.probe(0)
    size, once = sampler.needs.group, sampler.calls(problem)
    assert size > 1
    assert calls_of_a_draw(OneOfEachGroup(sampler), problem) == tuple(size * count for count in once)


def test_every_cell_is_measured_and_images_by_few_rows(faces, monkeypatch):
    study = load_study(faces, [("samples", 20)])
    one = replace(study, units=study.units[:4])
    made = make_plan(one, workers=[1, 2])
    assert all(cell.unit_seconds > 0 for cell in made.cells)
    assert made.memory_mib > 100
    assert [schedule.workers for schedule in made.schedules] == [1, 2]
    few, share = Bench("cpu", 3)._some(study.units[:1])
    assert (len(few), few[0].n, share) == (1, 8, 0.4)
    whole, share = Bench("cuda", 3)._some(study.units[:1])
    assert (whole[0].n, share) == (20, 1.0)


def test_plan_of_the_command_line(cli, tiny):
    result = cli("study", "plan", tiny, "--seconds-per-call", "0.01", "--workers", "1,3")
    assert result.code == 0
    first = [line.split()[0] for line in result.out.splitlines() if line]
    assert first == ["sampler", "exact", "DDRM", "DPS", "all", "workers", "1", "3", "disk:"]
    assert "disk: " in result.out
    assert "as stated" in result.err
    made = cli("study", "plan", tiny, "--json", "--seconds-per-call", "0.01").json
    assert (made["units"], made["calls"]) == (6, 2 * 16 * (5 + 9))
    assert [schedule["workers"] for schedule in made["schedules"]] == [1, 8, 64]


def test_mistakes_are_one_line(cli, tiny):
    cli("study", "plan", tiny, "--workers", "0").assert_mistake("--workers", "'0'")
    cli("study", "plan", tiny, "--workers", "many").assert_mistake("--workers")
    cli("study", "plan", tiny, "--seconds-per-call", "-1").assert_mistake("must be positive")
    cli("study", "plan", tiny, "--device", "abacus").assert_mistake("abacus")
    with pytest.raises(ConfigError):
        make_plan(load_study(tiny), seconds_per_call=float(np.nan))
