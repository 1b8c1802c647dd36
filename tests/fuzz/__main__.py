"""Seeded campaigns of damaged input: `python tests/fuzz --seconds 300`, or one input again: `--again NAME SEED`.

Every input is drawn from the name of its campaign and a number. It must be read, or refused in one line; it must not
end in a traceback, hang, take much memory, or leave files behind. Exit code 1 where one did.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
import warnings
from collections import Counter, defaultdict
from multiprocessing import get_context
from multiprocessing.queues import Queue

os.environ.setdefault("OMP_NUM_THREADS", "1")

from campaigns import CAMPAIGNS
from commands import COMMANDS
from pool import Result, run

ALL = CAMPAIGNS | COMMANDS
FINE = ("ok", "refused")


def main() -> int:
    """Run campaigns for some time and print how their inputs fared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS", "300")))
    parser.add_argument("--inputs", type=int, help="of all campaigns together, in place of a time")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FUZZ_SEED", "0")))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", choices=ALL, default=list(ALL), metavar="NAME")
    parser.add_argument("--again", nargs=2, metavar=("NAME", "SEED"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.again:
        print(run(given.again[0], ALL[given.again[0]], int(given.again[1])))
        return 0
    found = _found(given)
    _report(found)
    return int(any(result.kind not in FINE for result in found))


def _found(given: argparse.Namespace) -> list[Result]:
    """The results of all inputs; each worker takes its share of the numbers, in order."""
    context = get_context("fork")
    queue: Queue[Result | None] = context.Queue()
    numbers = range(given.workers)
    workers = [context.Process(target=_work, args=(given, number, queue)) for number in numbers]
    for worker in workers:
        worker.start()
    found, running = [], len(workers)
    while running:
        result = queue.get()
        running -= result is None
        if result is not None:
            found.append(result)
            if result.kind not in FINE:
                print(f"{result.kind}: {result.campaign} {result.seed}: {result.words}", flush=True)
    return found


def _work(given: argparse.Namespace, share: int, queue: Queue[Result | None]) -> None:
    import torch

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    end = time.monotonic() + given.seconds
    for number in itertools.count(share, given.workers):
        if (number >= given.inputs) if given.inputs else time.monotonic() > end:
            break
        name = given.only[number % len(given.only)]
        queue.put(run(name, ALL[name], given.seed * 10**6 + number // len(given.only)))
    queue.put(None)


def _report(found: list[Result]) -> None:
    """A table of campaigns, and how many inputs failed in which way."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in found:
        counts[result.campaign][result.kind] += 1
    kinds = [*FINE, *sorted({result.kind for result in found} - set(FINE))]
    print("campaign".ljust(16), *(kind.rjust(10) for kind in ("inputs", *kinds)))
    for name, count in counts.items():
        print(name.ljust(16), *(str(number).rjust(10) for number in (count.total(), *(count[kind] for kind in kinds))))
    failed = Counter(result.kind for result in found if result.kind not in FINE)
    words = ", ".join(f"{count} {kind}" for kind, count in failed.items()) or "0 failures"
    print(f"{len(found)} inputs: {words}")


if __name__ == "__main__":
    sys.exit(main())
