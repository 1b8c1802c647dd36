"""What samples cost: network calls, seconds, memory."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.problem import Problem
from midguide.storage.machine import available_memory, memory


@dataclass(frozen=True)
class Cost:
    """What the samples cost.

    Args:
        network_forwards: network evaluations per sample.
        network_vjps: vector-Jacobian products through the network per sample.
        seconds: wall-clock time of all samples.
        peak_memory_mib: peak memory of the process (CPU) or of the device's allocator (GPU) so far, in MiB.
    """

    network_forwards: float
    network_vjps: float
    seconds: float
    peak_memory_mib: float


def check_memory(problem: Problem, n: int) -> None:
    """Refuse `n` draws of each observation that alone are more than the memory of this machine.

    Raises:
        ConfigError: If they are.
    """
    values = problem.observations * n * math.prod(problem.signal_shape)
    needed, there = values * problem.likelihood.y.element_size(), memory()
    if there is None:
        torch.empty(values, dtype=problem.likelihood.y.dtype)  # the allocator refuses what is out of reach
    if there is not None and needed > there:
        raise ConfigError(
            f"{n:,} samples of each observation ({problem.observations:,}) take {needed / 2**30:,.0f} GiB, "
            f"this machine has {there / 2**30:,.0f}",
            hint="take fewer samples, or fewer observations at a time",
        )


class Used(NamedTuple):
    """Bytes of memory that this process takes on a device, now and at most so far."""

    now: int
    peak: int


def used_memory(device: torch.device) -> Used:
    """What this process takes: of torch's allocator on a GPU, in all on the CPU."""
    if device.type == "cuda":
        return Used(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))
    try:  # of this program alone: `ru_maxrss` counts what the process was before it started it
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
        now, peak = (int(lines[name].split()[0]) * 2**10 for name in ("VmRSS", "VmHWM"))
        return Used(now, peak)
    except (OSError, ValueError, KeyError):  # not on this system
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
        return Used(peak, peak)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take on a device; None where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return available_memory()


def peak_memory(draws: Tensor) -> float:
    """Peak memory so far of what computed the draws, in MiB."""
    return used_memory(draws.device).peak / 2**20
