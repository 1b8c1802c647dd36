"""What a training needs of a machine, measured on two events before it starts: memory, and time for a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from midguide.errors import ConfigError
from midguide.storage.machine import available_memory
from midguide.storage.outside import size_of
from midguide.training.config import LoopConfig

TRIED = 2
"""Events of the trial."""
LEAST = 10
"""Fewest steps that a training of minutes must have time for."""
MARGIN = 1.2
"""What memory is needed besides what is counted."""
COPIES = 6
"""Of the weights: themselves, gradients, two moments of AdamW, and a network to judge and one to keep."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a training needs.

    Args:
        fixed: bytes of weights, gradients, moments and averages.
        event: bytes that one event of a batch takes until its gradient is there.
        seconds: time of one event, forward and backward.
    """

    fixed: int
    event: int
    seconds: float

    def memory(self, part: int) -> int:
        """Bytes for batches that are computed `part` events at a time."""
        return round(MARGIN * (self.fixed + part * self.event))


def measure(network: nn.Module, config: LoopConfig, loss: Callable[[], Tensor]) -> Needs:
    """Needs of a network by a trial of two events, from which no step follows.

    Args:
        network: where it is to be trained.
        config: its recipe.
        loss: of `TRIED` events.
    """
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    parameters = {value.untyped_storage().data_ptr() for value in network.parameters()}
    held: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        return value

    seconds = math.inf
    for _ in range(2):  # the first wakes up the libraries
        started = time.monotonic()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            value = loss()
        event = sum(held.values())
        held.clear()
        value.backward()
        float(value.detach())  # waits for a device that computes ahead
        seconds = min(seconds, time.monotonic() - started)
    network.zero_grad(set_to_none=True)
    fixed = weights * (COPIES + 1 + len(config.more_emas))
    return Needs(fixed=fixed, event=event // TRIED, seconds=seconds / TRIED)


def check_memory(needs: Needs, config: LoopConfig, share: int, free: int | None) -> None:
    """Refuse a training for which there is too little memory.

    Args:
        needs: of the network.
        config: its recipe.
        share: events of a batch that fall to this process.
        free: bytes that are free; None for unknown.

    Raises:
        ConfigError: If it does not fit.
    """
    needed = needs.memory(share // config.accumulate)
    if free is None or needed <= free:
        return
    ways = (n for n in range(config.accumulate, share + 1) if share % n == 0)
    parts = next((n for n in ways if needs.memory(share // n) <= free), 0)
    hint = f"--set accumulate={parts} computes a batch in {parts} parts" if parts else "take a smaller network"
    raise ConfigError(
        f"`{config.name}` needs about {size_of(needed)} of memory for batches of {config.batch}, "
        f"{size_of(free)} are free",
        hint=hint,
    )


def check_time(needs: Needs, config: LoopConfig, share: int, minutes: float | None) -> str:
    """How long a training takes, in words.

    Raises:
        ConfigError: If there is time for hardly any step.
    """
    step = needs.seconds * share
    if minutes is None:
        return f"a step takes about {step:.2g} s, {config.steps} steps about {_duration(config.steps * step)}"
    steps = int(60 * minutes / step)
    if steps < LEAST:
        raise ConfigError(
            f"`{config.name}` takes about {step:.2g} s for a step: {steps} steps in {minutes:g} minutes",
            hint="give more --minutes, or take a smaller batch or network",
        )
    return f"a step takes about {step:.2g} s: about {steps} steps in {minutes:g} minutes"


def free_memory(device: str) -> int | None:
    """Bytes that can be had on a device; None where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def trial(task: Any, network: nn.Module, source: Any, seed: int, device: str) -> Callable[[], Tensor]:
    """The loss of two events of a source, with random numbers of its own."""
    drawn = source.draw(TRIED, torch.Generator().manual_seed(seed))

    def loss() -> Tensor:
        batch = tuple(part.to(device) for part in drawn) if isinstance(drawn, tuple) else drawn.to(device)
        return task.loss(network, batch, torch.Generator(device).manual_seed(seed))

    return loss


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} seconds"
