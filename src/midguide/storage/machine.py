"""How a process of this program uses its machine: memory, threads that wait, and its end.

The functions that change the process work on Linux with the GNU libraries; elsewhere they do nothing. They are for
programs only: whoever imports the package decides about their own process.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

_KEPT = 2**30
_MOST_OF_OLD_GLIBC = 2**25  # a larger threshold for mmap is refused by its early versions
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_SAID = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"}
_PR_SET_PDEATHSIG = 1  # sys/prctl.h of Linux


def keep_freed_memory() -> None:
    """Keep up to 1 GiB of freed memory for the next tensors, instead of handing it back to Linux.

    A step frees and takes tensors of the same sizes again and again, and the kernel fills each new page with zeros
    first. By default glibc fetches new pages for every tensor above 32 MiB. This function does nothing where the
    environment says what to keep (`MALLOC_TRIM_THRESHOLD_` and its like, `GLIBC_TUNABLES`).
    """
    mallopt = None if _SAID & os.environ.keys() else _of_the_c_library("mallopt")
    if mallopt is not None:
        if not mallopt(_M_MMAP_THRESHOLD, _KEPT):
            mallopt(_M_MMAP_THRESHOLD, _MOST_OF_OLD_GLIBC)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_memory() -> int | None:
    """Bytes that this process can have now, within its limits and its container's; None where the system is silent."""
    found = [int(kib) * 1024 for kib in _found(r"MemAvailable:\s+(\d+) kB", "/proc/meminfo")]
    limits = _found(r"(\d+)", "/sys/fs/cgroup/memory.max"), _found(r"(\d+)", "/sys/fs/cgroup/memory.current")
    cache = sum(map(int, _found(r"^inactive_file (\d+)", "/sys/fs/cgroup/memory.stat")))  # given back when needed
    found += [int(most) - int(now) + cache for most, now in zip(*limits, strict=False)]
    limits = _found(r"Max address space\s+(\d+)", "/proc/self/limits"), _found(r"VmSize:\s+(\d+)", "/proc/self/status")
    found += [int(most) - 1024 * int(now) for most, now in zip(*limits, strict=False)]  # `ulimit -v`
    return max(min(found), 0) if found else None


def _found(pattern: str, path: str) -> list[str]:
    """What stands in a file of the system; nothing where it is not there."""
    try:
        return re.findall(pattern, Path(path).read_text("ascii"), re.MULTILINE)[:1]
    except (OSError, UnicodeDecodeError):
        return []


def wait_briefly() -> None:
    """Let threads that wait for each other spin for some microseconds, then sleep; before torch is imported.

    By default GNU's OpenMP spins for milliseconds. Where another program uses one of the processors, the thread that is
    waited for then gets none while the others spin. The environment may say otherwise (`OMP_WAIT_POLICY`,
    `GOMP_SPINCOUNT`).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def end_with_parent(parent: int) -> None:
    """End this process as soon as its parent, which has this process number, has ended in whatever way."""
    prctl = _of_the_c_library("prctl")
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)


def _of_the_c_library(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
