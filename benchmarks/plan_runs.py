"""What `study plan` says beside what the study then takes, whole, from start to end: results/plan.md.

    python benchmarks/plan_runs.py [--study mixture --study faces --study ecg] [--repeats 1]

Three short studies of different kinds, each planned and run by the command line with one worker. Wall seconds are of
the whole command, less those of the same command that finds nothing to do, which is the import of torch, the study's
file and the addresses. CPU seconds likewise. The load says how far wall seconds can be trusted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDIES = {
    "mixture": """
[study]
name = "mixture"
samples = 500
metrics = ["sliced_wasserstein_1[slices=100]", "mode_weight_tv"]
[[problems]]
kind = "mixture"
dimension = 20
seeds = { first = 0, count = 3 }
[[samplers]]
spec = "mgps:mixture"
settings = { steps = 100 }
[[samplers]]
spec = "dps:linear"
settings = { steps = 200 }
[[samplers]]
spec = "ddrm:paper"
""",
    "faces": """
[study]
name = "faces"
samples = 2
batch = 2
metrics = ["psnr_mean[range=1]", "chi_square"]
[[problems]]
kind = "images"
operator = "box-inpainting"
seeds = { first = 0, count = 2 }
[[samplers]]
spec = "mgps:ffhq"
settings = { steps = 30 }
[[samplers]]
spec = "ddrm:paper"
[[samplers]]
spec = "pgdm:stable"
settings = { steps = 30 }
""",
    "ecg": """
[study]
name = "ecg"
samples = 4
metrics = ["chi_square"]
[[problems]]
kind = "ecg"
operator = "ecg-missing-block"
seeds = { first = 0, count = 2 }
[[samplers]]
spec = "mgps:ecg"
settings = { steps = 20 }
[[samplers]]
spec = "ddrm:paper"
settings = { steps = 40 }
""",
}


def timed(words: list[str], folder: Path) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command, and what it printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "midguide", "--threads", "1", "study", *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def row(name: str) -> list[object]:
    """One study, planned and run."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "study.toml").write_text(STUDIES[name])
        plan = json.loads(timed(["plan", "study.toml", "--workers", "1", "--json"], folder)[2])
        load = os.getloadavg()[0]
        wall, cpu, _ = timed(["run", "study.toml", "--out", "out"], folder)
        idle_wall, idle_cpu, _ = timed(["run", "study.toml", "--out", "out"], folder)
    planned, wall, cpu = plan["schedules"][0]["seconds"], wall - idle_wall, cpu - idle_cpu
    off = [f"{100 * (planned / seconds - 1):+.0f} %" for seconds in (wall, cpu)]
    return [name, plan["units"], f"{planned:.1f}", f"{wall:.1f}", off[0], f"{cpu:.1f}", off[1], f"{load:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", action="append", choices=STUDIES, default=None)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    print("| study | units | planned, s | wall, s | difference | CPU, s | difference | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for _ in range(given.repeats):
        for name in given.study or STUDIES:
            print("|", " | ".join(map(str, row(name))), "|", flush=True)


if __name__ == "__main__":
    main()
