"""Training a denoising network on images or signals: EMA, warm-up, clipping, resumable checkpoints.

The loss is the mean squared error of the network's own prediction (eps, v or x0). Noise levels are drawn from a
log-normal in `sigma/alpha` mixed with a uniform part, so that few steps are spent where there is nothing to learn
(Karras et al. 2022, Section 5).
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError
from midguide.files import append, replacing
from midguide.nn.registry import NETWORKS, is_dynamics
from midguide.rng import global_seed
from midguide.schedules import DiscreteVP
from midguide.training.config import TrainingConfig
from midguide.training.sources import Source


class LevelSampler:
    """Draws times `1..T` of a schedule with the density of a `TrainingConfig`."""

    def __init__(self, schedule: DiscreteVP, config: TrainingConfig) -> None:
        levels = [schedule.level(t) for t in range(1, schedule.noisiest + 1)]
        log_ratio = torch.tensor([math.log(level.ratio) for level in levels], dtype=torch.float64)
        spacing = torch.gradient(log_ratio)[0]
        normal = torch.exp(-0.5 * ((log_ratio - config.level_mean) / config.level_std) ** 2) * spacing
        weights = (1 - config.uniform_levels) * normal / normal.sum() + config.uniform_levels / len(levels)
        self.cumulative = weights.cumsum(0)
        self.alphas = torch.tensor([level.alpha for level in levels])
        self.sigmas = torch.tensor([level.sigma for level in levels])

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Network indices `0..T-1`, alphas and sigmas, each of shape (count,).

        The draws are stratified: one per interval of probability `1/count`.
        """
        u = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        index = torch.searchsorted(self.cumulative, u * self.cumulative[-1]).clamp(max=len(self.alphas) - 1)
        return index, self.alphas[index], self.sigmas[index]


TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x0, z, alpha, sigma: z,
    "v": lambda x0, z, alpha, sigma: alpha * z - sigma * x0,
    "x0": lambda x0, z, alpha, sigma: x0,
}
"""What the network should return for `x_t = alpha x0 + sigma z`."""


def train(
    config: TrainingConfig,
    source: Source,
    out: Path,
    *,
    device: str = "cpu",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """Train until `config.steps`, continuing from `out/checkpoint.pt` where there is one.

    Args:
        config: the recipe.
        source: what is learned: see `midguide.training.sources`.
        out: folder for `checkpoint.pt` (everything needed to go on) and `log.jsonl` (loss, rate).
        device: where to train.
        on_step: called with the number of finished steps and the loss of the last.

    Returns:
        The network with averaged weights, in evaluation mode.

    Raises:
        CheckpointError: `out/checkpoint.pt` belongs to another network.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(config, device)
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
    """Network, averaged weights, optimiser and random stream at one step of a training."""

    def __init__(self, config: TrainingConfig, device: str) -> None:
        self.config, self.device, self.step = config, device, 0
        with global_seed(config.seed):
            self.network = NETWORKS[config.network.kind].build(config.network).to(device)
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            _groups(self.network, config), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.levels = LevelSampler(DiscreteVP.linear(), config)

    def advance(self, source: Source) -> float:
        """One optimiser step; its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * _rate(self.step, self.config)
        loss = self._loss(source)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        return float(loss.detach())

    def _loss(self, source: Source) -> Tensor:
        config = self.config
        x0 = source.draw(config.batch, self.generator)
        z = torch.randn(x0.shape, generator=self.generator)
        index, *level = self.levels.draw(config.batch, self.generator)
        alpha, sigma = (value.reshape(-1, *[1] * (x0.ndim - 1)) for value in level)
        target = TARGETS[config.prediction](x0, z, alpha, sigma).to(self.device)
        layout = torch.channels_last if x0.ndim == 4 else torch.contiguous_format
        x_t = (alpha * x0 + sigma * z).to(self.device, memory_format=layout)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=config.bfloat16):
            prediction = self.network(x_t, index.to(self.device))
        return (prediction.float() - target).square().mean()

    def save(self, path: Path) -> None:
        parts = {"network": self.network, "optimiser": self.optimiser}
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
            self.optimiser.load_state_dict(saved["optimiser"])
            self.generator.set_state(saved["generator"].cpu())
            self.average, self.step = saved["average"], saved["step"]
        except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path} does not fit this training: {reason}", hint="choose another --out"
            ) from error


def _groups(network: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Parameters for the optimiser; those that set rates and frequencies without weight decay."""
    free = [value for name, value in network.named_parameters() if is_dynamics(config.network, name)]
    rest = [value for name, value in network.named_parameters() if not is_dynamics(config.network, name)]
    return [{"params": rest}] + ([{"params": free, "weight_decay": 0.0}] if free else [])


def _rate(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))
