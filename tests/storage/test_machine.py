"""What a process asks of Linux: to keep freed memory, to wait without spinning long, to be ended with its parent."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from midguide.storage import machine as process

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource, sys, torch
from midguide.storage.machine import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()

def steps(count):
    for _ in range(count):
        torch.ones(2**24)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

steps(2)
before = faults()
steps(50)
print(faults() - before)
"""

IMPORTS = """
import os, sys

class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("spins", os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Spy())
from midguide.cli import main
main(["list", "samplers"])
"""

FAMILY = '''
import subprocess, sys
child = """
import os, time
from midguide.storage.machine import end_with_parent
end_with_parent(os.getppid())
print(os.getpid(), flush=True)
time.sleep(600)
"""
subprocess.run([sys.executable, "-c", child])
'''


def output(code: str, *arguments: str, **environment: str) -> str:
    """What a process prints whose environment says nothing of memory and threads but this."""
    said = ("MALLOC_", "GLIBC_", "OMP_", "GOMP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(said)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True).stdout


def faults(kept: str, **environment: str) -> int:
    """Pages that fifty tensors of 64 MiB took from the system."""
    return int(output(FAULTS, kept, **environment))


@pytest.mark.skipif(not GLIBC, reason="asks glibc")
def test_freed_memory_is_taken_again_without_new_pages():
    assert faults("kept") < 0.2 * faults("returned")


@pytest.mark.skipif(not GLIBC, reason="asks glibc")
def test_the_environment_decides_where_it_says_something():
    assert faults("kept", MALLOC_TOP_PAD_="0") > 50 * 10_000


def test_early_versions_of_glibc_are_asked_for_what_they_allow(monkeypatch):
    asked = {}

    def early(option, value):
        accepted = option == M_TRIM_THRESHOLD or value <= 2**25
        asked.update({option: value} if accepted else {})
        return int(accepted)

    for name in os.environ.keys() & process._SAID:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process, "_of_the_c_library", lambda name: early)
    process.keep_freed_memory()
    assert asked == {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**30}


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_how_long_threads_spin_is_said_before_torch_reads_it(environment, count):
    assert f"spins {count}\n" in output(IMPORTS, **environment)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_process_ends_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not runs(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it ran on for ten seconds")


def runs(number: int) -> bool:
    """Whether it still runs; one that has ended may wait for whoever asks for its exit code."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
