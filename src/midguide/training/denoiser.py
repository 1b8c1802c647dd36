"""Training a denoising network on images, their latents, or signals.

The loss is the mean squared error of the network's own prediction (eps, v or x0). Noise levels are drawn from a
log-normal in `sigma/alpha` mixed with a uniform part, so that few steps are spent where there is nothing to learn
(Karras et al. 2022, Section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from midguide.diffusion.schedules import DiscreteVP
from midguide.maths.linalg import per_row
from midguide.nn.base import is_dynamics
from midguide.nn.layout import image_layout
from midguide.training.base import Run
from midguide.training.config import DenoisingConfig
from midguide.training.loop import Judge, Watch, fit
from midguide.training.sources import Source


class LevelSampler:
    """Draws times `1..T` of a schedule with the density of a `DenoisingConfig`."""

    def __init__(self, schedule: DiscreteVP, config: DenoisingConfig) -> None:
        levels = [schedule.level(t) for t in range(1, schedule.noisiest + 1)]
        log_ratio = torch.tensor([math.log(level.ratio) for level in levels], dtype=torch.float64)
        spacing = torch.gradient(log_ratio)[0]
        normal = torch.exp(-0.5 * ((log_ratio - config.level_mean) / config.level_std) ** 2) * spacing
        weights = (1 - config.uniform_levels) * normal / normal.sum() + config.uniform_levels / len(levels)
        self.cumulative = weights.cumsum(0)
        self.alphas = torch.tensor([level.alpha for level in levels])
        self.sigmas = torch.tensor([level.sigma for level in levels])

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Network indices `0..T-1`, alphas and sigmas, each of shape (count,), where the generator is.

        The draws are stratified: one per interval of probability `1/count`.
        """
        place = generator.device
        self._move(place)
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=place)
        u = (torch.arange(count, device=place) + u) / count
        index = torch.searchsorted(self.cumulative, u * self.cumulative[-1]).clamp(max=len(self.alphas) - 1)
        return index, self.alphas[index], self.sigmas[index]

    def _move(self, place: torch.device) -> None:
        if self.alphas.device != place:
            self.cumulative, self.alphas, self.sigmas = (
                table.to(place) for table in (self.cumulative, self.alphas, self.sigmas)
            )


TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x0, z, alpha, sigma: z,
    "v": lambda x0, z, alpha, sigma: alpha * z - sigma * x0,
    "x0": lambda x0, z, alpha, sigma: x0,
}
"""What the network should return for `x_t = alpha x0 + sigma z`."""


@dataclass(frozen=True)
class Denoising:
    """The task of a `DenoisingConfig`."""

    config: DenoisingConfig
    device: str = "cpu"

    @cached_property
    def levels(self) -> LevelSampler:
        """Where the noise levels come from."""
        return LevelSampler(DiscreteVP.linear(), self.config)

    def build(self) -> nn.Module:
        return self.config.network.build()

    def decays(self, name: str) -> bool:
        return not is_dynamics(self.config.network, name)

    def loss(self, network: nn.Module, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the network's prediction, at noise levels of its own for each event."""
        x_t, index, target = self.noised(clean, generator)
        return (self.predicted(network, x_t, index) - target).square().mean()

    def noised(self, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy events, network indices and targets, on the device."""
        z = torch.randn(clean.shape, generator=generator, device=generator.device)
        index, *level = self.levels.draw(len(clean), generator)
        alpha, sigma = (per_row(value, clean) for value in level)
        target = TARGETS[self.config.prediction](clean, z, alpha, sigma).to(self.device)
        layout = image_layout(self.device) if clean.ndim == 4 else torch.preserve_format
        x_t = (alpha * clean + sigma * z).to(self.device, memory_format=layout)
        return x_t, index.to(self.device), target

    def predicted(self, network: nn.Module, x: Tensor, index: Tensor) -> Tensor:
        """What the network returns, in float32."""
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bfloat16):
            return network(x, index).float()


def train(
    config: DenoisingConfig,
    source: Source,
    run: Run,
    *,
    judge: Judge | None = None,
    watch: Watch | None = None,
) -> nn.Module:
    """Train a denoiser; see `training.loop.fit`."""
    return fit(Denoising(config, run.device), source, run, judge=judge, watch=watch)
