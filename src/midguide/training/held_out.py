"""Held-out loss of a denoising network by noise level, while it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from midguide.diffusion.schedules import DiscreteVP, Level
from midguide.maths.rng import Rng
from midguide.priors.network import PREDICTIONS
from midguide.training.config import DenoisingConfig

RATIOS = (0.03, 0.07, 0.17, 0.4, 0.9, 2.0, 4.0, 8.0, 16.0)
"""Noise levels `sigma / alpha` at which networks are judged."""
JUDGED = 128
"""Held-out events by which a training is judged at its checkpoints."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A judge of networks: the loss of v, `E||v_hat - v||^2 / dim`, at nine noise levels and on average over them.

    The loss of v is that of x_0 times `1 + (alpha / sigma)^2`, so it compares networks whatever they predict. Events
    and noise are always the same.

    Args:
        config: says what the networks predict.
        clean: events that are not trained on, shape (N, *event).
        device: where the networks are.
        seed: of the noise.
    """

    config: DenoisingConfig
    clean: Tensor
    device: str = "cpu"
    seed: int = 0

    @cached_property
    def _noise(self) -> Tensor:
        return Rng([(self.seed, "held out")], size=len(self.clean)).normal(self.clean)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Loss of v by noise level, under the level's `sigma / alpha`, and their `mean`."""
        schedule = DiscreteVP.linear()
        times = {ratio: schedule.time_at(ratio) for ratio in RATIOS}
        losses = {f"{ratio:g}": self._loss(network, t, schedule.level(t)) for ratio, t in times.items()}
        return losses | {"mean": sum(losses.values()) / len(losses)}

    @torch.no_grad()
    def _loss(self, network: nn.Module, t: int, level: Level) -> float:
        total = 0.0
        for x0, z in zip(self.clean.split(64), self._noise.split(64), strict=True):
            x_t = (level.alpha * x0 + level.sigma * z).to(self.device)
            index = torch.full((len(x0),), t - 1, device=self.device)
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bfloat16):
                out = network(x_t, index).float()
            x0_hat = PREDICTIONS[self.config.prediction](x_t, out, level)
            total += float((x0_hat - x0.to(self.device)).square().sum())
        return total / self.clean.numel() / level.sigma**2
