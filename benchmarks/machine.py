"""What `midguide.storage.machine` does for a network on the CPU: the table of results/machine.md.

    python benchmarks/machine.py > tables.md
    python benchmarks/pages.py --take machine tables.md

Two minutes on a machine of two cores with nothing else on it. Each row is a process of its own, since both settings are
read when it starts; beside the last two another process computes without end.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from midguide.storage.machine import keep_freed_memory

CALLS = 8
GNU_SPINS = "300000"
"""How often a thread of GNU's OpenMP looks again before it sleeps, by default."""

HEAD = f"""# What commands do for a network on the CPU

Written by `python benchmarks/machine.py`: the network of `faces-64-small`, two images, two threads on two cores.
Milliseconds, medians of {CALLS} calls; with vjp: a forward and a derivative. Commands keep freed memory and let threads
wait briefly (`midguide.storage.machine`); a program that does not ask for it has the first row, and the fourth beside a
busy process of another session (another terminal, another user), to which Linux gives as much time as to all threads
of this one together.

| freed memory | threads wait | another process | forward, 64x64 | with vjp, 64x64 | forward, 256x256 | with vjp |
|---|---|---|---|---|---|---|"""


def child(kept: bool, sizes: tuple[int, ...]) -> None:
    """Print the medians: forward and with vjp for each size."""
    if kept:
        keep_freed_memory()
    import torch

    from midguide import load_prior

    torch.set_num_threads(2)
    network = load_prior("faces-64-small").network

    def milliseconds(size: int, derived: bool) -> float:
        x, label = torch.zeros(2, 3, size, size, requires_grad=derived), torch.full((2,), 100)
        started = time.perf_counter()
        with torch.set_grad_enabled(derived):
            out = network(x, label)
            if derived:
                torch.autograd.grad(out.sum(), x)
        return 1e3 * (time.perf_counter() - started)

    for size in sizes:
        for derived in (False, True):
            milliseconds(size, derived)
            print(f"{statistics.median(milliseconds(size, derived) for _ in range(CALLS)):.0f}")


def row(kept: bool, spins: str, busy: bool) -> str:
    sizes = ("64",) if busy else ("64", "256")
    command = [sys.executable, __file__, "kept" if kept else "returned", *sizes]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MALLOC_"))}
    environment |= {"GOMP_SPINCOUNT": spins, "OMP_NUM_THREADS": "2"}
    endless = [sys.executable, "-c", "while True: pass"]
    neighbor = subprocess.Popen(endless, start_new_session=True) if busy else None
    try:
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    finally:
        if neighbor is not None:
            neighbor.kill()
    settings = ["kept" if kept else "returned", "briefly" if spins == "1000" else "long", "busy" if busy else "none"]
    return "| " + " | ".join([*settings, *out, *[""] * (4 - len(out))]) + " |"


def main() -> None:
    print(HEAD)
    for kept, spins, busy in (
        (False, GNU_SPINS, False),
        (True, GNU_SPINS, False),
        (True, "1000", False),
        (False, GNU_SPINS, True),
        (True, "1000", True),
    ):
        print(row(kept, spins, busy), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1] == "kept", tuple(map(int, sys.argv[2:])))
    else:
        main()
