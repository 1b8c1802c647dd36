"""The loop that all trainings share: AdamW, averaged weights, warm-up and cosine, clipping, resumable checkpoints."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError, reason
from midguide.maths.rng import global_seed
from midguide.nn.layout import move
from midguide.storage.files import append, replacing
from midguide.training.config import LoopConfig

Batch = TypeVar("Batch")
Drawn = TypeVar("Drawn", covariant=True)
Taken = TypeVar("Taken", contravariant=True)


class Draws(Protocol[Drawn]):
    """What to train on: gives batches of events, perhaps with labels."""

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """A batch of `count` events; all randomness comes from `generator`."""
        ...


class Task(Protocol[Taken]):
    """What a training is for."""

    @property
    def config(self) -> LoopConfig:
        """How it is run."""
        ...

    def build(self) -> nn.Module:
        """A new network; its weights come from the global random numbers."""
        ...

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on the parameter of that name."""
        ...

    def loss(self, network: nn.Module, batch: Taken, generator: torch.Generator, /) -> Tensor:
        """What to minimize on a batch, a scalar on the device of the network."""
        ...


def fit(
    task: Task[Batch],
    source: Draws[Batch],
    out: Path,
    *,
    device: str = "cpu",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """Train until `config.steps`, continuing from `out/checkpoint.pt` where there is one.

    Args:
        task: network, loss and settings.
        source: what to train on.
        out: folder for `checkpoint.pt` (everything needed to go on) and `log.jsonl` (loss, rate).
        device: where to train.
        on_step: called with the number of finished steps and the loss of the last.

    Returns:
        The network with averaged weights, in evaluation mode.

    Raises:
        CheckpointError: `out/checkpoint.pt` belongs to another network.
    """
    out.mkdir(parents=True, exist_ok=True)
    run, config = _Run(task, device), task.config
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    first, started, losses = run.step, time.monotonic(), []
    while run.step < config.steps:
        losses.append(run.advance(source))
        on_step(run.step, losses[-1])
        if run.step % config.checkpoint_every == 0 or run.step == config.steps:
            run.save(checkpoint)
            rate = (run.step - first) / (time.monotonic() - started)
            row = {"step": run.step, "loss": sum(losses) / len(losses), "steps_per_second": round(rate, 3)}
            append(out / "log.jsonl", json.dumps(row) + "\n")
            losses = []
    run.network.load_state_dict(run.average)
    return run.network.eval()


class _Run:
    """Network, averaged weights, optimizer and random stream at one step of a training."""

    def __init__(self, task: Task[Any], device: str) -> None:
        self.task, self.config, self.device, self.step = task, task.config, device, 0
        with global_seed(self.config.seed):
            self.network = task.build()
        move(self.network, device)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            _groups(self.network, task), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(self.config.seed)

    def advance(self, source: Draws[Any]) -> float:
        """One optimizer step; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * _rate(self.step, self.config)
        loss = self.task.loss(self.network, source.draw(self.config.batch, self.generator), self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:  # how many batches a normalization has seen
                    self.average[name].copy_(value)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        parts = {"network": self.network, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"average": self.average, "generator": self.generator.get_state(), "step": self.step}
        buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError like any other
        torch.save(state, buffer)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load(self, path: Path) -> None:
        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.generator.set_state(saved["generator"].cpu())
            self.average, self.step = saved["average"], saved["step"]
        except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
            raise CheckpointError(
                f"{path} does not fit this training: {reason(error)}", hint="choose another --out"
            ) from error


def _groups(network: nn.Module, task: Task[Any]) -> list[dict[str, Any]]:
    """Parameters for the optimizer, first those with weight decay, then those without."""
    rest = [value for name, value in network.named_parameters() if task.decays(name)]
    free = [value for name, value in network.named_parameters() if not task.decays(name)]
    return [{"params": rest}] + ([{"params": free, "weight_decay": 0.0}] if free else [])


def _rate(step: int, config: LoopConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))
