"""Shards share a study without a word between them. Together they have the rows of one run; a merge loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from midguide.cli.commands.study import opened
from midguide.errors import ConfigError
from midguide.studies.engine.estimate import relative_costs
from midguide.studies.engine.shards import Shard, shares
from midguide.studies.engine.units import batches
from midguide.studies.spec.study import load_study

ROOT = Path(__file__).parents[2]


def values(folder):
    """The rows of a folder without what the machine adds, by address and metric."""
    study, store = opened(Path(folder), None)
    rows = [row for unit in study.units for row in store.read(unit) or ()]
    return {(row["address"], row["metric"]): {**row, "seconds": 0, "peak_memory_mib": 0} for row in rows}


def draws(folder):
    return {path.parent.name: path.read_bytes() for path in Path(folder).glob("samples/[!.]*/samples.safetensors")}


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def shards(cli, tiny):
    """`shards(1, 3)` runs these of three shards of the tiny study into `out`; further words are added."""

    def run(*indices, words=(), out="out"):
        for i in indices:
            result = cli("study", "run", tiny, "--shard", f"{i}/3", "--out", out, *words)
            assert result.code == 0, result.err

    return run


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_shares_hold_every_unit_once_and_differ_by_one_batch_at_most(tiny, count):
    study = load_study(tiny, [("batch", 2)])
    split = shares(study, count)
    assert len(split) == count
    assert sorted(unit.address for share in split for unit in share) == sorted(unit.address for unit in study.units)
    costs = [relative_costs(batches(share, 2)) for share in split]
    assert max(map(sum, costs)) - min(map(sum, costs)) <= max(cost for share in costs for cost in share)
    assert split == shares(load_study(tiny, [("batch", 2)]), count)


def test_batches_stay_whole(faces):
    study = load_study(faces)
    together = {unit.address: batch for batch in batches(study.units, 3) for unit in batch}
    for share in shares(study, 4):
        for unit in share:
            assert {other.address for other in together[unit.address]} <= {other.address for other in share}


def test_a_method_that_costs_more_calls_counts_for_more(tiny):
    study = load_study(tiny, [("samplers.steps", 50)])
    exact, ddrm, dps = (relative_costs([[unit]])[0] for unit in study.units[:3])
    assert (ddrm / exact, dps / exact) == (51, 100)  # calls of a draw, and one for the draw itself


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_shard_is_one_of_n(text):
    with pytest.raises(ConfigError, match="I/N"):
        Shard.parse(text)


def test_merged_shards_have_the_rows_and_draws_of_one_run(cli, tiny, shards, tmp_path):
    kept = ("--set", "keep_samples=true")
    shards(1, 2, 3, words=kept)
    cli("study", "run", tiny, "--out", "whole", *kept)
    result = cli("study", "merge", "out")
    assert (result.code, result.out) == (0, f"{tmp_path / 'out'}\n")
    assert result.err == "6 units of 3 folders, 0 of them failed\n"
    assert values("out") == values("whole")
    assert len(draws("out")) == 6
    assert draws("out") == draws("whole")
    assert cli("study", "report", "out").code == 0
    before = everything("out")
    assert cli("study", "merge", "out").code == 0  # once more: nothing changes
    assert {path for path, _ in everything("out").items() ^ before.items()} == set()
    assert "0 units to run, 6 done" in cli("study", "run", tiny, "--out", "out", *kept).err


def test_shards_of_folders_that_do_not_know_each_other_are_merged(cli, tiny, shards):
    for i in (1, 2, 3):
        shards(i, out=f"machine-{i}")
    assert cli("study", "merge", "machine-1", "machine-2", "machine-3", "--out", "all").code == 0
    cli("study", "run", tiny, "--out", "whole")
    assert values("all") == values("whole")
    assert not (Path("machine-1") / "units").exists()


def test_status_shows_every_shard_and_all_together(cli, shards):
    shards(1, 3)
    status = cli("study", "status", "out", "--json").json
    assert list(status["shards"]) == ["1/3", "2/3", "3/3"]
    done = [part["done"] for part in status["shards"].values()]
    missing = [part["missing"] for part in status["shards"].values()]
    assert (sum(done), sum(missing), status["done"], status["missing"]) == (*[sum(done), 6 - sum(done)] * 2,)
    assert (missing[0], missing[2]) == (0, 0)
    lines = cli("study", "status", "out").out.splitlines()
    assert [line.split()[0] for line in lines] == ["shard", "1/3", "2/3", "3/3", "all"]


def test_gaps_are_named_and_merged_on_request_only(cli, shards, tmp_path):
    shards(1)
    before = everything("out")
    result = cli("study", "merge", "out")
    result.assert_mistake("of 6 units are missing", "all of shards 2/3, 3/3", "--partial", "nothing has been merged")
    assert everything("out") == before
    cli("study", "report", "out").assert_mistake("still in shards", "study merge")
    done = cli("study", "status", "out", "--json").json["done"]
    assert f"{6 - done} are missing" in cli("study", "merge", "out", "--partial").err
    assert len(list((tmp_path / "out" / "units").iterdir())) == done


def test_equal_results_in_two_folders_count_once_and_different_ones_are_refused(cli, tiny, shards, tmp_path):
    shards(1, 2, 3)
    shutil.copytree("out/shards/1-of-3", "copy")
    twice = len(list(Path("copy/units").iterdir()))
    assert f"{twice} were there twice" in cli("study", "merge", "out", "copy", "out", "--out", "all").err
    file = next(Path("copy/units").iterdir())
    table = pq.read_table(file)
    values = [value + 0.5 for value in table["value"].to_pylist()]
    pq.write_table(table.set_column(2, table.schema.field(2), [values]), file)
    result = cli("study", "merge", "out", "copy", "--out", "other")
    result.assert_mistake("two results", "out/shards/1-of-3", "copy", file.name, "nothing has been merged")
    assert not (tmp_path / "other").exists()


def test_shard_of_a_changed_study_file_is_refused(cli, tiny, shards):
    shards(1, 2, 3)
    tiny.write_text(tiny.read_text().replace("steps = 5,", "steps = 6,"))
    shards(2)
    cli("study", "merge", "out").assert_mistake("shard 1/3", "another study file", "shard 2/3", "[samplers]")
    assert "another study file" in cli("study", "status", "out").err
    assert not Path("out/units").exists()
    shards(1, 3)
    result = cli("study", "merge", "out")
    assert result.code == 0
    assert "are not of this grid and stay where they are" in result.err
    assert cli("study", "report", "out", "--json").json[2]["network_forwards"] == 6


def test_shard_of_another_version_is_refused_and_taken_on_request(cli, shards, monkeypatch):
    shards(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr("midguide.studies.engine.units.made_by", made_by_another_version)
        shards(3)
    result = cli("study", "merge", "out")
    result.assert_mistake("shard 3/3", "made by other code (midguide 0.0.1)", "--accept-old-code")
    assert not Path("out/units").exists()
    assert cli("study", "merge", "out", "--accept-old-code").code == 0


def made_by_another_version(unit, drawn=None):
    code = {"version": "0.0.1", "sha256": "0" * 64}
    return {"drawn": code, "measured": code}


def test_mistakes_are_one_line(cli, tiny, shards):
    cli("study", "run", tiny, "--shard", "4/3", "--out", "out").assert_mistake("--shard", "'4/3'")
    assert not Path("out").exists()
    cli("study", "merge", "nowhere").assert_mistake("nowhere holds no results of a study")
    shards(1)
    Path("out/shards/1-of-3/shard.json").write_text(json.dumps({"shard": 7, "of": 3}))
    cli("study", "merge", "out").assert_mistake("shard.json is damaged")
    assert "0 units to run" in cli("study", "run", tiny, "--shard", "100/100", "--out", "many").err


def test_patterns_may_match_nothing_in_a_shard_but_not_in_the_study(cli, tiny, shards):
    shards(1, 2, 3, words=("--only", "*/exact"))
    assert cli("study", "status", "out", "--json").json["done"] == 2
    run = cli("study", "run", tiny, "--shard", "1/3", "--out", "out", "--only", "*/exakt")
    run.assert_mistake("--only */exakt matches no cell")


def longer(tiny):
    """Units of some 50 ms, so that a signal finds some of them unfinished."""
    tiny.write_text(tiny.read_text().replace("count = 2", "count = 16").replace("steps = 5", "steps = 300"))


def environment(tmp_path, **more):
    """The program by its name, and a `scontrol` that notes what it is asked."""
    commands = {"midguide": f'exec "{sys.executable}" -m midguide "$@"', "scontrol": f'echo "$@" >> "{tmp_path}/asked"'}
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name, line in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SHARDS": "2", **more}


def task(tmp_path, tiny, i, *, cpus="1"):
    """A task of the array, as Slurm starts it."""
    slurm = {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_JOB_ID": f"1{i}", "SLURM_CPUS_PER_TASK": cpus}
    words = ["bash", str(ROOT / "examples" / "slurm.sh"), str(tiny), "out"]
    return subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment(tmp_path, **slurm),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_units(folder, least=1):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("units/[!.]*.parquet"))) < least:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_tasks_of_a_slurm_array_have_the_rows_of_one_run(cli, tiny, tmp_path):
    tasks = [task(tmp_path, tiny, i) for i in (1, 2)]
    for process in tasks:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert cli("study", "merge", "out").code == 0
    cli("study", "run", tiny, "--out", "whole")
    assert values("out") == values("whole")
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [True, False], ids=["all processes", "the script only"])
def test_task_at_its_time_limit_is_requeued_and_goes_on(cli, tiny, tmp_path, everyone):
    longer(tiny)
    process = task(tmp_path, tiny, 1, cpus="2")
    folder = tmp_path / "out" / "shards" / "1-of-2"
    wait_for_units(folder)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "terminated; repeat the same command to go on" in err
    assert "Traceback" not in err
    assert (tmp_path / "asked").read_text() == "requeue 11\n"
    status = cli("study", "status", folder, "--json").json
    assert (status["failed"], status["damaged"]) == (0, 0)
    assert status["done"] > 0
    result = cli("study", "run", tiny, "--shard", "1/2", "--out", "out")
    assert f"{status['done']} done, 0 failed before" in result.err
    assert cli("study", "run", tiny, "--shard", "2/2", "--out", "out").code == 0
    assert cli("study", "merge", "out").err == "48 units of 2 folders, 0 of them failed\n"
