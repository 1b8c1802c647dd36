"""Several processes that train one network together, as `torchrun` starts them; alone without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from midguide.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Args:
        rank: its number; the first writes files.
        count: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0

    def part(self, batch: int) -> int:
        """Events of a batch that fall to each process.

        Raises:
            ConfigError: If they cannot be shared equally.
        """
        if batch % self.count:
            raise ConfigError(f"a batch of {batch} has no {self.count} equal parts", hint="change batch, or --nproc")
        return batch // self.count

    def agreed(self, value: float) -> float:
        """A number of the first process, for all."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(told, 0)
        return float(told)

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its mean over the processes, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that `torchrun` has started, connected while the block runs; one alone otherwise.

    Args:
        device: `cpu`, or `cuda`: then each process takes its own GPU.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    on_gpu = torch.device(device).type == "cuda"
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else device
    if on_gpu:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), count, own)
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that speaks: the only one, or the first that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"
