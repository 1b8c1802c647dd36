"""Seeded campaigns of damaged input: `python tests/fuzz --seconds 300`; one of them again: `--again CAMPAIGN:NUMBER`.

Every input follows from the seed, the name of its campaign and a number. It must be read, or refused in one line; it
must not end in a traceback, hang, take much memory, or leave files behind. Exit code 1 where one did: its files stay.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from importlib import import_module
from pathlib import Path

# One thread each; nothing is fetched, and what is cached goes nowhere.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "NO_COLOR": "1"}
os.environ |= {"MIDGUIDE_MEMORY": "0.5", "MALLOC_TRIM_THRESHOLD_": "0"}  # nothing freed is kept for the next input
os.environ |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
os.environ |= dict.fromkeys(("MIDGUIDE_CACHE", "TORCHINDUCTOR_CACHE_DIR"), tempfile.mkdtemp(prefix="fuzz-"))

import pool
import spoken  # noqa: F401  (registers its campaigns)
import valid
from campaigns import CAMPAIGNS

SHOWN = 30
LATE = ("diffusers", "edfio", "h5netcdf", "h5py", "matplotlib.pyplot", "scipy.io", "torch._dynamo", "wfdb", "zarr")
"""What is imported when it is needed; here once, before the workers are forked."""


def main() -> int:
    """Run campaigns for some time and print how their inputs fared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--inputs", type=int, help="of each campaign, in place of a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", choices=CAMPAIGNS, default=list(CAMPAIGNS), metavar="CAMPAIGN")
    parser.add_argument("--place", type=Path, default=Path("build/fuzz"), help="where the files of failures stay")
    parser.add_argument("--again", nargs="+", metavar="CAMPAIGN:NUMBER", help="with the traceback, also of a hang")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    given.place.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    valid.prepare()
    for name in LATE:
        import_module(name)
    chosen = {name: CAMPAIGNS[name] for name in given.only}
    seconds, inputs = (math.inf, given.inputs) if given.inputs else (given.seconds, math.inf)
    plan = pool.Plan(CAMPAIGNS, given.seed, given.workers, 0, 0, given.place.resolve())
    for name, _, number in (text.partition(":") for text in given.again or ()):
        if os.fork() == 0:
            print(pool.tried(plan, name, int(number), show=True), flush=True)
            os._exit(0)
        os.wait()
    if given.again:
        return 0
    prepared = time.monotonic() - begun
    plan = plan._replace(campaigns=chosen, end=time.monotonic() + seconds, inputs=inputs)
    found = []
    for result in pool.run(plan):
        found.append(result)
        if result.kind not in pool.FINE:
            print(f"{result.kind}: --again {result.campaign}:{result.number}", flush=True)
    took = time.monotonic() - begun - prepared
    _report(found)
    print(f"seed {given.seed}, {took:.0f} s after {prepared:.0f} s of preparation, {len(found) / took:.0f} inputs/s")
    return int(any(result.kind not in pool.FINE for result in found))


def _report(found: list[pool.Result]) -> None:
    """The failures, those of one kind and place once, and a table of campaigns."""
    failures: dict[tuple[str, ...], list[pool.Result]] = defaultdict(list)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in found:
        counts[result.campaign][result.kind] += 1
        if result.kind not in pool.FINE:
            failures[result.campaign, result.kind, re.sub(r"'.*'|[\d.]+(?!:)|\(.*?\)", "", result.words)].append(result)
    for same in list(failures.values())[:SHOWN]:
        times = f" ({len(same)} times)" if len(same) > 1 else ""
        print(f"\n{same[0].kind}: --again {same[0].campaign}:{same[0].number}{times}: {same[0].words[-500:]}")
    kinds = [*pool.FINE, *sorted({result.kind for result in found} - set(pool.FINE))]
    print("campaign".ljust(20), *(kind.rjust(max(9, len(kind))) for kind in ("inputs", *kinds)))
    for name, count in counts.items():
        numbers = (count.total(), *(count[kind] for kind in kinds))
        print(
            name.ljust(20),
            *(str(n).rjust(max(9, len(kind))) for n, kind in zip(numbers, ("inputs", *kinds), strict=True)),
        )
    failed = Counter(result.kind for result in found if result.kind not in pool.FINE)
    words = ", ".join(f"{count} {kind}" for kind, count in sorted(failed.items())) or "0 failures"
    print(f"{len(found):,} inputs: {words}")


if __name__ == "__main__":
    sys.exit(main())
