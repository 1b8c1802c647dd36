"""What samples cost: network calls, seconds, memory."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.problem import Problem
from midguide.storage.machine import memory


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


def peak_memory(draws: Tensor) -> float:
    """Peak memory so far of what computed the draws, in MiB."""
    if draws.device.type == "cuda":
        return torch.cuda.max_memory_allocated(draws.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
