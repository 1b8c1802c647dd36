"""A body of the domain's own: the exact denoiser of independent levels of variance one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from midguide.diffusion.schedules import make_schedule
from midguide.nn.base import BODIES


@BODIES.register("tide-gain", summary="one gain for each noise level")
@dataclass(frozen=True, kw_only=True)
class TideGainConfig:
    """Shape of a `TideGain`."""

    dynamics: ClassVar[tuple[str, ...]] = ("gain",)

    in_channels: int = 1
    out_channels: int = 1

    @property
    def grid(self) -> tuple[int]:
        """Any length."""
        return (1,)

    def build(self) -> nn.Module:
        """A new network."""
        return TideGain()


class TideGain(nn.Module):
    """`E[x_0 | x_t] = alpha_t x_t`, the answer for independent standard normal levels."""

    def __init__(self) -> None:
        super().__init__()
        schedule = make_schedule("vp-linear")
        self.gain = nn.Parameter(torch.tensor([schedule.level(t).alpha for t in range(1, 1001)]))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Signals of shape (B, 1, hours), indices of shape (B,)."""
        return self.gain[index.long()][:, None, None] * x
