"""Colorization: the instrument sees one gray value for each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError, unknown
from midguide.maths import linalg
from midguide.operators.base import OPERATORS, SVDOperator

# Red, green and blue in the luma of ITU-R BT.601, which is also that of JPEG.
LUMA = (0.299, 0.587, 0.114)

WEIGHTS = ("mean", "luma")


@dataclass(frozen=True, eq=False)
class Colorization(SVDOperator):
    """`y = sum_c w_c x_c` at each pixel, shape (B, C, H, W) -> (B, 1, H, W).

    The singular values are `|w|`, once for each pixel, and zero. The right singular vectors of a pixel are the columns
    of the reflection that takes the first channel to `w / |w|`.

    Args:
        weights: w, not all zero, one for each channel.

    Raises:
        ConfigError: If a weight is negative or not finite, or none is positive.
        ShapeError: If x is not an image with one channel for each weight.

    Example:
        >>> Colorization((0.5, 0.5))(torch.tensor([[[[1.0]], [[3.0]]]]))
        tensor([[[[2.]]]])
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.weights or not min(self.weights) >= 0.0 or not 0.0 < sum(self.weights) < float("inf"):
            raise ConfigError(
                f"the weights of channels are finite, not negative and not all zero, got {self.weights}",
                hint="0.299, 0.587, 0.114 are those of luma",
            )

    def __call__(self, x: Tensor) -> Tensor:
        return torch.einsum("c,bchw->bhw", self._weights(x), x)[:, None]

    def adjoint(self, y: Tensor) -> Tensor:
        return y * y.new_tensor(self.weights)[:, None, None]

    def singular_values(self, x: Tensor) -> Tensor:
        values = torch.zeros_like(x[0])
        values[0] = self._weights(x).norm()
        return values.flatten()

    def vt(self, x: Tensor) -> Tensor:
        w = self._weights(x)
        return linalg.reflect(x.movedim(1, -1), w / w.norm()).movedim(-1, 1).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return self.vt(coefficients.unflatten(1, like.shape[1:])).unflatten(1, like.shape[1:])  # a reflection

    def _weights(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != len(self.weights):
            raise ShapeError(
                f"expected images of {len(self.weights)} channels, got events of shape {tuple(x.shape[1:])}",
                hint="there is one weight for each channel",
            )
        return x.new_tensor(self.weights)


@OPERATORS.register("colorization", summary="mean or luma of the channels", needs="an image with channels; luma: three")
def colorization(event_shape: tuple[int, ...], *, seed: int = 0, weights: str = "mean") -> Colorization:
    """The `mean` of the channels, of which there may be any number, or the `luma` of red, green and blue."""
    if weights not in WEIGHTS:
        raise unknown("weights", weights, WEIGHTS)
    if len(event_shape) != 3:
        raise ShapeError(
            f"colorization takes images of shape (C, H, W), got {event_shape}", hint="add an axis of channels"
        )
    if weights == "mean":
        return Colorization((1 / event_shape[0],) * event_shape[0])
    if event_shape[0] != 3:
        raise ShapeError(f"luma is that of 3 channels, got {event_shape[0]}", hint="weights='mean' takes any number")
    return Colorization(LUMA)
