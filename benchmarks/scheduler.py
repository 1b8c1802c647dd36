"""What the engines of a study cost beside its units: results/plan.md.

    python benchmarks/scheduler.py [--units 400] [--engine local --engine ray] [--workers 1,2] [--batch 1,10]
    python benchmarks/scheduler.py --wait 2 --units 120 --repeats 3

The first command counts units a second where a unit does nothing. The first `WARM` are not counted: they wait for
workers to start. The rate is that of the process that hands out and writes rows, in wall and in CPU seconds. The second
compares whole commands, from start to end, whose units wait, so that other work on the machine matters little; engines
take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.runners.base import RUNNERS
from midguide.studies.spec.study import parse_study

WARM = 40


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """A problem that costs nothing to build."""

    stacks: ClassVar[bool] = True
    simulated: ClassVar[bool] = False
    prior: str = "none"

    def prior_digest(self) -> str:
        return ""

    def data_digest(self, seed: int) -> str:
        return ""

    def build(self, seed: int) -> Problem:
        problem = Problem.unobserved(Gaussian(torch.zeros(1), 1.0))
        return Problem.of(problem.denoiser, problem.likelihood, torch.zeros(1, 1))

    probe = build


@dataclass(frozen=True)
class Zeros:
    """Draws that cost nothing, after a wait."""

    wait: float = 0.0

    def check(self, problem: Problem) -> None:
        """It accepts everything."""

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        time.sleep(self.wait)
        return Samples(torch.zeros(len(seeds), n, 1), Cost(0.0, 0.0, 0.0, 0.0), {})


STUDY = """
[study]
name = "nothing"
samples = 2
metrics = ["truth_rmse"]
batch = {batch}
[[problems]]
kind = "{here}:Nothing"
seeds = {{ first = 0, count = {units} }}
[[samplers]]
spec = "{here}:Zeros"
settings = {{ wait = {wait} }}
"""


def study(units: int, batch: int = 1, wait: float = 0.0) -> str:
    """The file of a study that costs nothing but waits."""
    return STUDY.format(here=Path(__file__).resolve(), units=units, batch=batch, wait=wait)


def rate(engine: str, workers: int, units: int, batch: int) -> tuple[float, float]:
    """Units a second, in wall and in CPU seconds of this process."""
    times: list[tuple[float, float]] = []
    made = parse_study(tomllib.loads(study(units + WARM, batch)))
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(folder, made.plain, [], made.code)
        runner = RUNNERS.make(engine, {"workers": workers})
        run_units(
            made,
            store,
            list(made.units),
            runner=runner,
            on_unit=lambda *unit: times.append((time.perf_counter(), time.process_time())),
        )
    wall, cpu = (end - start for end, start in zip(times[-1], times[WARM - 1], strict=True))
    return units / wall, units / cpu


def wall(engine: str, workers: int, units: int, wait: float) -> tuple[float, float, float]:
    """Seconds of a whole command, and of the part after the first unit; CPU seconds of all its processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.toml").write_text(study(units, wait=wait))
        words = [sys.executable, "-m", "midguide", "study", "run", "study.toml", "--engine", engine]
        started, known = time.perf_counter(), dict[str, float]()
        with (folder / "told").open("w") as told:
            process = subprocess.Popen([*words, "--workers", str(workers), "--out", "out"], cwd=folder, stderr=told)
            while process.poll() is None:
                known |= cpu_seconds(str(process.pid))
                time.sleep(0.2)
        whole = time.perf_counter() - started
        times = [path.stat().st_mtime for path in (folder / "out" / "units").glob("*.parquet")]
        if len(times) < units:
            sys.exit((folder / "told").read_text())
        return whole, max(times) - min(times), sum(known.values())


def cpu_seconds(process: str) -> dict[str, float]:
    """CPU seconds of a process and of all that it started, so far, by their number (Linux)."""
    parents, used = dict[str, str](), dict[str, float]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, _, rest = path.read_text().rpartition(")")
            values = rest.split()
            parents[path.parent.name], ticks = values[1], int(values[11]) + int(values[12])
            used[path.parent.name] = ticks / os.sysconf("SC_CLK_TCK")
    found, size = {process}, 0
    while len(found) > size:
        size = len(found)
        found |= {number for number, parent in parents.items() if parent in found}
    return {number: used[number] for number in found & set(used)}


def compare(engines: Sequence[str], workers: int, units: int, wait: float, repeats: int) -> None:
    """Whole commands of each engine by turns."""
    print(f"{units} units of {wait:g} s on {workers} workers: at best {units * wait / workers:.1f} s")
    print("| repeat | engine | seconds | after the first unit | CPU seconds | load |\n|---|---|---|---|---|---|")
    for k in range(repeats):
        for engine in engines:
            numbers = [*wall(engine, workers, units, wait), os.getloadavg()[0]]
            print(f"| {k + 1} | {engine} | {' | '.join(f'{number:.1f}' for number in numbers)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=400)
    parser.add_argument("--engine", action="append", default=None)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--batch", default="1,10")
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.wait:
        for workers in map(int, given.workers.split(",")):
            compare(given.engine or ["local", "ray"], workers, given.units, given.wait, given.repeats)
        return
    print("| engine | workers | batch | units a second | units a CPU second of the collector |\n|---|---|---|---|---|")
    for engine in given.engine or ["local", "ray"]:
        for workers in map(int, given.workers.split(",")):
            for batch in map(int, given.batch.split(",")):
                wall, cpu = rate(engine, workers, given.units, batch)
                print(f"| {engine} | {workers} | {batch} | {wall:.0f} | {cpu:.0f} |", flush=True)


if __name__ == "__main__":
    main()
