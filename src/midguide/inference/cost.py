"""What samples cost: network calls, seconds, memory."""

from __future__ import annotations

import math
import os
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return Used(pages * os.sysconf("SC_PAGE_SIZE"), peak)
    except (OSError, ValueError):  # not on this system
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
