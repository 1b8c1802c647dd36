"""High dynamic range: the instrument saturates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from midguide.errors import ConfigError
from midguide.operators.base import OPERATORS, PseudoInvertibleOperator


@dataclass(frozen=True, eq=False)
class HighDynamicRange(PseudoInvertibleOperator):
    """`y = clip(scale x, -1, 1)`, for events of any shape.

    Made for values in [-1, 1] with mid-gray at zero: scale 2 saturates whatever lies beyond half the range. For values
    in [0, 1] it would lift the image and clip its bright half only. The derivative is `scale` where nothing is clipped
    and zero elsewhere.

    The pseudo-inverse is `y / scale`: the preimage of least norm, exact for every measurement in [-1, 1].

    Args:
        scale: positive gain; 1 only clips.

    Raises:
        ConfigError: If the scale is not positive and finite.

    Example:
        >>> import torch
        >>> HighDynamicRange()(torch.tensor([[-0.9, 0.25, 0.5]]))
        tensor([[-1.0000,  0.5000,  1.0000]])
    """

    scale: float = 2.0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < math.inf:
            raise ConfigError(f"scale must be positive and finite, got {self.scale}", hint="the MGPS paper takes 2")

    @property
    def value_range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return (self.scale * x).clamp(-1.0, 1.0)

    def pinv(self, y: Tensor) -> Tensor:
        return y / self.scale


@OPERATORS.register(
    "high-dynamic-range", summary="multiplied and clipped; values in the prior's range, else -1 to 1", needs="nothing"
)
def high_dynamic_range(event_shape: tuple[int, ...], *, seed: int = 0, scale: float = 2.0) -> HighDynamicRange:
    """Multiply and clip to [-1, 1]."""
    return HighDynamicRange(scale)
