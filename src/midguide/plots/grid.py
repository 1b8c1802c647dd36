"""Many images as one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.errors import ShapeError


def grid(images: Tensor, *, columns: int | None = None, gap: int = 2, background: float = 1.0) -> Tensor:
    """Tile images row by row, pixel for pixel.

    Args:
        images: shape (N, C, H, W).
        columns: images per row; by default as square as N allows.
        gap: pixels between two images.
        background: value of the gaps and of places without an image.

    Returns:
        One image, shape (C, height, width).

    Raises:
        ShapeError: If `images` is not a batch of images, or empty.

    Example:
        >>> grid(torch.zeros(4, 3, 8, 8), gap=2).shape
        torch.Size([3, 18, 18])
    """
    if images.ndim != 4 or len(images) == 0:
        raise ShapeError(f"expected images of shape (N, C, H, W), got {tuple(images.shape)}")
    n, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(columns, n)
    rows = math.ceil(n / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    canvas = torch.full((channels, *size), background, dtype=images.dtype)
    for i, image in enumerate(images.detach().cpu()):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas
