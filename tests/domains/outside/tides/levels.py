"""What a prior of levels holds: meters, hour by hour, about a mean of zero."""

import math

import torch
from torch import Tensor

from midguide.maths.rng import Rng
from midguide.signals.base import SIGNALS, Axis, Signal, Space

MEAN_FREE = Space("mean-free", lambda x: x - x.mean(-1, keepdim=True))


@SIGNALS.register("tide", summary="hourly levels of the sea about their mean")
def tide_signal(*, unit_m: float = 0.5) -> Signal:
    """Levels in units of `unit_m` meters."""
    axes = Axis(name="station"), Axis(name="time", unit="h", rate=1.0)
    return Signal(unit="m", unit_size=unit_m, axes=axes, space=MEAN_FREE, kind="tide", settings={"unit_m": unit_m})


def level(seed: int, hours: int = 24) -> Tensor:
    """A day of levels in units of the prior, shape (1, 1, hours)."""
    phase = Rng([(seed, "tide")]).uniform(torch.empty(1, 1, 1))
    times = torch.arange(hours) / 12
    return MEAN_FREE.project(1.4 * torch.sin(2 * math.pi * (times + phase)))
