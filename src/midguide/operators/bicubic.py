"""Bicubic downsampling: what a program for pictures makes of an image that it shrinks."""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import OPERATORS, image_size
from midguide.operators.matrix import Matrix
from midguide.operators.separable import Separable


def bicubic_downsampling(height: int, width: int, factor: int) -> Separable:
    """Shrink by bicubic interpolation against aliasing, as Pillow does and MATLAB's `imresize` but for the edge.

    Output i is the mean of the pixels j with weights `k((j + 1/2) / f - (i + 1/2))`. Here k is the cubic kernel of Keys
    with a = -1/2, which reaches over `4 f` pixels. At the edge the pixels that exist share the weight, as in Pillow;
    MATLAB mirrors the image instead.

    Args:
        height: rows of the images, a multiple of the factor.
        width: columns of the images, a multiple of the factor.
        factor: f, at least 1.

    Raises:
        ConfigError: If the factor is not a positive integer.
        ShapeError: If a size is not a multiple of it.

    Example:
        >>> bicubic_downsampling(8, 16, 4)(torch.ones(1, 3, 8, 16)).shape
        torch.Size([1, 3, 2, 4])

    References: Keys 1981, "Cubic convolution interpolation for digital image processing", Eq. (15).
    """
    if not isinstance(factor, int) or factor < 1:
        raise ConfigError(
            f"factor must be a positive integer, got {factor!r}", hint="factor=4 keeps a quarter of a side"
        )
    if height % factor or width % factor:
        raise ShapeError(
            f"an image of {height}x{width} cannot be shrunk by {factor}",
            hint="take a factor that divides both sides, or crop or resize",
        )
    return Separable(
        Matrix.create(_bicubic_weights(height, factor), (height,)),
        Matrix.create(_bicubic_weights(width, factor), (width,)),
    )


@OPERATORS.register("bicubic", summary="bicubic downsampling", needs="an image, its sides multiples of factor")
def bicubic(event_shape: tuple[int, ...], *, seed: int = 0, factor: int = 4) -> Separable:
    """Bicubic downsampling; the factor is a ratio and does not scale with the image."""
    return bicubic_downsampling(*image_size(event_shape), factor)


def _bicubic_weights(size: int, factor: int) -> Tensor:
    """The matrix of 1-D bicubic downsampling, shape (size / factor, size)."""
    pixels = (torch.arange(size, dtype=torch.float64) + 0.5) / factor
    outputs = torch.arange(size // factor, dtype=torch.float64) + 0.5
    t = (pixels - outputs[:, None]).abs()
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)
