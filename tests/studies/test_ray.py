"""On a Ray cluster of two simulated machines a study has the rows of the local run, whatever dies (`make test-ray`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from midguide.cli.commands.study import opened
from midguide.errors import WorkerWarning
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.runners import ray as runner_module
from midguide.studies.runners.ray import ray_runner
from midguide.studies.runners.remote import identity
from midguide.studies.spec.study import load_study

pytestmark = [
    pytest.mark.ray,
    # Ray leaves files and sockets of processes that have ended to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


@pytest.fixture(scope="module")
def cluster(deadly):
    """Two machines of one core each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ["RAY_worker_niceness"] = "0"
    pytest.importorskip("ray", reason="needs the extra 'ray'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={**SMALL, "_system_config": QUICK})
        made.add_node(**SMALL)
    yield made
    made.shutdown()


def rows(folder):
    """The rows of a folder without what the machine adds."""
    study, store = opened(Path(folder), None)
    found = [row for unit in study.units for row in store.read(unit) or ()]
    return [{**row, "seconds": 0, "peak_memory_mib": 0} for row in found]


def draws(folder):
    return {path.parent.name: path.read_bytes() for path in Path(folder).glob("samples/[!.]*/samples.safetensors")}


OWN = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from helper import SLEEP
from midguide.samplers.unconditional import Unconditional
from midguide.studies.sources.sampled import Sampled

@dataclass(frozen=True)
class Slow:
    "Draws that take a while; those that DEADLY names end their process first, as a machine without memory does."
    sampler: Unconditional = Unconditional(steps=3)
    def check(self, problem): pass
    def draw(self, problem, n, seeds):
        time.sleep(SLEEP)
        for file in Path(os.environ["DEADLY"]).glob("hungry"):
            file.unlink()
            hoard = []
            while len(hoard) < 100:  # 5 GiB at most, page by page
                hoard.append(bytearray(b"x") * (50 * 2**20))
                time.sleep(0.1)
        for file in Path(os.environ["DEADLY"]).glob("*"):
            if file.name.startswith("always") or file.name == "once":
                if file.name == "once":
                    file.unlink()
                if file.name == "once" or (problem.likelihood.y.sum() > 0) == ("plus" in file.name):
                    os.kill(os.getpid(), signal.SIGKILL)
        return Sampled(self.sampler).draw(problem, n, seeds)
"""
STUDY = """
[study]
name = "own"
samples = 8
metrics = ["truth_rmse"]
keep_samples = true
[[problems]]
kind = "mixture"
dimension = 2
seeds = {{ first = 0, count = {count} }}
[[samplers]]
spec = "{own}:Slow"
"""


@pytest.fixture(scope="module")
def deadly(tmp_path_factory):
    """A folder that every process of the cluster knows: what lies in it ends workers."""
    folder = tmp_path_factory.mktemp("deadly")
    os.environ["DEADLY"] = str(folder)  # before the cluster starts, which hands it on
    yield folder
    del os.environ["DEADLY"]


@pytest.fixture
def own(deadly, cluster, tmp_path):
    """A study of a file of one's own, which another file lies beside; its units sleep."""

    def write(count, sleep):
        (tmp_path / "own.py").write_text(OWN)
        (tmp_path / "helper.py").write_text(f"SLEEP = {sleep}\n")
        (tmp_path / "study.toml").write_text(STUDY.format(own=tmp_path / "own.py", count=count))
        return tmp_path / "study.toml"

    yield write
    for file in deadly.iterdir():
        file.unlink()


def test_rows_and_draws_are_those_of_the_local_run(cli, faces, cluster):
    result = cli("study", "run", faces, "--engine", "ray", "--address", cluster.address, "--out", "there")
    assert result.code == 0, result.err
    assert cli("study", "run", faces, "--out", "here").code == 0
    assert rows("there") == rows("here")
    assert draws("there") == draws("here")
    assert len(draws("here")) == 20
    assert not list(Path("there").glob(".seen-*"))


def test_draws_come_back_or_go_to_an_address_where_no_folder_is_shared(cli, own, cluster, tmp_path):
    study, ray = own(2, 0), ("--engine", "ray", "--address", cluster.address)
    cli("study", "run", study, "--out", "here")
    result = cli("study", "run", study, *ray, "--engine-set", "shared=false", "--out", "back")
    assert (result.code, rows("back")) == (0, rows("here")), result.err
    assert draws("back") == draws("here")
    address = f"file://{tmp_path}/bucket"
    result = cli("study", "run", study, *ray, "--engine-set", f"draws={address}", "--out", "rows")
    assert (result.code, rows("rows")) == (0, rows("here")), result.err
    assert {path.name for path in (tmp_path / "bucket").iterdir()} == set(draws("here"))
    assert draws("rows") == {}
    measured = ("--set", 'metrics=["mean_error"]')
    cli("study", "run", study, "--out", "here", *measured)
    result = cli("study", "run", study, *ray, "--engine-set", "shared=false", "--out", "back", *measured)
    assert (result.code, rows("back")) == (0, rows("here")), result.err


def test_worker_that_dies_once_costs_nothing_and_one_that_always_dies_costs_its_unit(own, cluster, deadly, tmp_path):
    study = load_study(own(6, 0))
    here = Store.create(tmp_path / "here", study.plain, [])
    assert run_units(study, here, list(study.units)) == 0
    (deadly / "once").touch()
    there = Store.create(tmp_path / "there", study.plain, [])
    with pytest.warns(WorkerWarning, match="was lost .*: its batch runs again"):
        failed = run_units(study, there, list(study.units), runner=ray_runner(address=cluster.address))
    assert failed == 0
    assert rows(tmp_path / "there") == rows(tmp_path / "here")
    assert draws(tmp_path / "there") == draws(tmp_path / "here")
    (deadly / "always-plus").touch()
    positive = [unit for unit in study.units if unit.problem.build(unit.problem_seed).likelihood.y.sum() > 0]
    assert 0 < len(positive) < 6
    worse = Store.create(tmp_path / "worse", study.plain, [])
    with pytest.warns(WorkerWarning):
        failed = run_units(study, worse, list(study.units), runner=ray_runner(address=cluster.address, retries=1))
    assert failed == len(positive)
    assert {unit.address for unit in worse.progress(study.units).failed} == {unit.address for unit in positive}
    reason = worse.read(positive[0])[0]["failure"]
    assert reason.startswith("ChildProcessError: 2 workers were lost with it: ")


def in_use() -> tuple[int, int]:
    """Bytes of memory that this machine has in use, and has."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total - free, total


def test_worker_out_of_memory_costs_nothing_and_is_named_in_one_line(own, deadly, tmp_path):
    from ray.cluster_utils import Cluster

    study = load_study(own(2, 0))
    here = Store.create(tmp_path / "here", study.plain, [])
    run_units(study, here, list(study.units))
    used, total = in_use()
    limits = {"memory_usage_threshold": (used + 2**31) / total, "memory_monitor_refresh_ms": 100}
    small = Cluster(initialize_head=True, head_node_args={**SMALL, "_system_config": QUICK | limits})
    try:
        (deadly / "hungry").touch()
        there = Store.create(tmp_path / "there", study.plain, [])
        with pytest.warns(
            WorkerWarning, match=r"^the worker on .* was lost \([^\n]*memory[^\n]*\): its batch runs again$"
        ):
            assert run_units(study, there, list(study.units), runner=ray_runner(address=small.address)) == 0
        assert rows(tmp_path / "there") == rows(tmp_path / "here")
        assert draws(tmp_path / "there") == draws(tmp_path / "here")
    finally:
        small.shutdown()


def test_machine_that_is_killed_in_the_middle_costs_nothing(own, cluster, tmp_path):
    study = load_study(own(10, 0.3))
    here = Store.create(tmp_path / "here", study.plain, [])
    run_units(study, here, list(study.units))
    extra = cluster.add_node(**SMALL)
    there, done = Store.create(tmp_path / "there", study.plain, []), []

    def kill(unit, reasons, left):
        done.append(unit)
        if len(done) == 3:
            threading.Thread(target=cluster.remove_node, args=(extra,), kwargs={"allow_graceful": False}).start()

    with warnings.catch_warnings():
        warnings.simplefilter("always", WorkerWarning)
        runner = ray_runner(address=cluster.address, workers=3)
        assert run_units(study, there, list(study.units), runner=runner, on_unit=kill) == 0
    assert len(done) == 10
    assert rows(tmp_path / "there") == rows(tmp_path / "here")
    assert draws(tmp_path / "there") == draws(tmp_path / "here")


def test_run_that_is_killed_goes_on_with_the_same_rows(cli, own, cluster, tmp_path):
    study, address = own(8, 0.5), ("--engine", "ray", "--address", cluster.address)
    words = [sys.executable, "-m", "midguide", "study", "run", str(study), *address, "--out", "out"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("units/[!.]*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = cli("study", "status", "out", "--json").json["done"]
    assert 0 < done < 8
    result = cli("study", "run", study, *address, "--out", "out")
    assert f"{8 - done} units to run, {done} done, 0 failed before" in result.err
    cli("study", "run", study, "--out", "whole")
    assert rows("out") == rows("whole")
    assert draws("out") == draws("whole")


def test_no_worker_ever_holds_more_than_it_may(own, cluster, tmp_path, monkeypatch):
    study, held = load_study(own(8, 0)), []
    hand_out = runner_module.RayRunner._hand_out

    def watched(self):
        hand_out(self)
        held.append([len(seat.holds) for seat in self._seats])

    monkeypatch.setattr(runner_module.RayRunner, "_hand_out", watched)
    store = Store.create(tmp_path / "out", study.plain, [])
    run_units(study, store, list(study.units), runner=ray_runner(address=cluster.address, ahead=3))
    assert max(max(seats, default=0) for seats in held) == 3
    assert max(len(seats) for seats in held) == 2


def test_interrupt_leaves_no_worker_and_a_study_that_goes_on(own, cluster, tmp_path):
    study = load_study(own(6, 0.2))
    store = Store.create(tmp_path / "out", study.plain, [])

    def interrupt(*unit):
        raise KeyboardInterrupt

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt):
        run_units(study, store, list(study.units), runner=ray_runner(address=cluster.address), on_unit=interrupt)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    progress = store.progress(study.units)
    assert (len(progress.done), len(progress.missing)) == (1, 5)
    assert run_units(study, store, progress.missing, runner=ray_runner(address=cluster.address)) == 0


def test_defect_and_changed_file_end_the_run(own, cluster, tmp_path):
    file = own(2, 0)
    (tmp_path / "own.py").write_text(OWN.replace("time.sleep(SLEEP)", "raise TypeError('a defect')"))
    study = load_study(file)
    store = Store.create(tmp_path / "out", study.plain, [])
    with pytest.raises(TypeError, match="a defect"):
        run_units(study, store, list(study.units), runner=ray_runner(address=cluster.address))


def test_another_version_on_a_worker_is_one_line(cli, own, cluster, monkeypatch):
    for change, words in (
        ({"version": "9.9"}, ("has midguide", "this machine 9.9")),
        ({"code": "0"}, ("has other code of midguide",)),
    ):
        here = identity()._replace(**change)
        monkeypatch.setattr(runner_module, "identity", lambda here=here: here)
        result = cli("study", "run", own(2, 0), "--engine", "ray", "--address", cluster.address, "--out", "out")
        result_lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert (result.code, len(result_lines)) == (2, 1)
        for word in (*words, "install the same version"):
            assert word in result.err


def test_a_cluster_without_gpus_refuses_cuda(cli, own, cluster):
    words = ("--engine", "ray", "--address", cluster.address, "--device", "cuda", "--out", "out")
    result = cli("study", "run", own(1, 0), *words)
    assert result.code == 2
    assert "the cluster has no GPU" in result.err
