"""Inpainting: the operator measures some entries of `x` and hides the others.

Measurements have the shape of x, with exact zeros where x is hidden. Masks are booleans, true where x is measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from midguide.errors import ConfigError, DataError, ShapeError, unknown
from midguide.operators.base import (
    OPERATORS,
    SVDOperator,
    check_entries,
    check_rows,
    image_size,
    observation_streams,
    scaled,
)
from midguide.storage.outside import MIB, Outside
from midguide.storage.pictures import picture

SIDES = ("left", "right", "top", "bottom")

_MASK = Outside("mask", "any image will do, white = measured", limit=512 * MIB)


@dataclass(frozen=True, eq=False)
class Mask(SVDOperator):
    """`y = m x`, entry by entry, with m in {0, 1}; its singular vectors are the entries themselves.

    Args:
        mask: boolean, true where x is measured; broadcasts to the event, e.g. (H, W) for events (C, H, W).
        per_observation: the mask has a leading axis with one mask for each observation.

    Raises:
        ShapeError: If the mask is not boolean, or does not broadcast to the event.

    Example:
        >>> Mask(torch.tensor([True, False, True]))(torch.ones(1, 3))
        tensor([[1., 0., 1.]])
    """

    mask: Tensor
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("mask",)

    def __post_init__(self) -> None:
        if getattr(self.mask, "dtype", None) == np.bool_:
            object.__setattr__(self, "mask", torch.from_numpy(np.array(self.mask)))
        if not isinstance(self.mask, Tensor):
            raise ShapeError(f"a mask is a boolean tensor, got {type(self.mask).__name__}", hint="torch.tensor(mask)")
        if self.mask.dtype != torch.bool:
            raise ShapeError(f"a mask must be boolean, got {self.mask.dtype}", hint="for example: mask > 0.5")
        if self.per_observation and self.mask.ndim == 0:
            raise ShapeError("masks of each observation need a leading axis", hint="shape (N, H, W) for N of them")

    def measured(self, y: Tensor) -> Tensor:
        """The mask, with a row for each observation or one row for all, and as many axes as `y`."""
        check_rows(self, y)
        mask = (self.mask if self.per_observation else self.mask[None]).to(y.device)
        missing = y.ndim - mask.ndim
        if missing >= 0:
            mask = mask.reshape(len(mask), *[1] * missing, *mask.shape[1:])
        if missing < 0 or any(a not in (1, b) for a, b in zip(mask.shape[1:], y.shape[1:], strict=True)):
            raise ShapeError(
                f"a mask of shape {tuple(self.mask.shape)} does not broadcast to events of shape {tuple(y.shape[1:])}",
                hint="with one mask for each observation, set per_observation=True",
            )
        return mask

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.measured(x), x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def singular_values(self, x: Tensor) -> Tensor:
        mask = self.measured(x)
        values = mask.expand(len(mask), *x.shape[1:]).flatten(1).to(x.dtype)
        return values if self.per_observation else values[0]

    def vt(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return coefficients.unflatten(1, like.shape[1:])

    def ut(self, y: Tensor) -> Tensor:
        return self(y).flatten(1)


def box_mask(
    height: int, width: int, box_height: int, box_width: int, top: int | None = None, left: int | None = None
) -> Mask:
    """Hide a box, centered by default.

    Raises:
        ConfigError: If the box is empty or leaves the image.

    Example:
        >>> int((~box_mask(8, 8, 4, 2).mask).sum())
        8
    """
    top = (height - box_height) // 2 if top is None else top
    left = (width - box_width) // 2 if left is None else left
    inside = 0 <= top <= top + box_height <= height and 0 <= left <= left + box_width <= width
    if not inside or box_height < 1 or box_width < 1:
        raise ConfigError(
            f"a {box_height}x{box_width} box at row {top}, column {left} does not fit a {height}x{width} image",
            hint="where operators have names, box, top and left are those of a 256x256 image: box=150 in the paper",
        )
    if (box_height, box_width) == (height, width):
        raise ConfigError(f"the box hides all of a {height}x{width} image", hint="take a smaller one")
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[top : top + box_height, left : left + box_width] = False
    return Mask(mask)


def half_mask(height: int, width: int, side: str = "right") -> Mask:
    """Hide one half of an image: `side` is left, right, top or bottom; of an odd size, the larger part stays.

    Raises:
        ConfigError: If `side` is something else.
        ShapeError: If there is one row or column only.
    """
    if side not in SIDES:
        raise unknown("side", side, SIDES)
    if (width if side in ("left", "right") else height) < 2:
        raise ShapeError(f"an image of {height}x{width} has no {side} half", hint="it takes at least two pixels")
    if side in ("left", "right"):
        return box_mask(height, width, height, width // 2, 0, 0 if side == "left" else width - width // 2)
    return box_mask(height, width, height // 2, width, 0 if side == "top" else height - height // 2, 0)


def random_mask(event_shape: tuple[int, ...], keep: float, seed: int, count: int | None = None) -> Mask:
    """Measure exactly `round(keep n)` of the n entries, drawn without replacement.

    Args:
        event_shape: shape of the mask; give (H, W) to hide the same pixels in all channels.
        keep: fraction that is measured, in (0, 1].
        seed: mask i comes from the stream (seed, "mask", i).
        count: how many observations get a mask of their own; None for one mask that serves all.

    Raises:
        ConfigError: If `keep` or `count` is out of range, or nothing would be measured.
    """
    if not 0.0 < keep <= 1.0:
        raise ConfigError(f"keep must be in (0, 1], got {keep}", hint="it is the fraction that is measured")
    n = math.prod(event_shape)
    if round(keep * n) < 1:
        raise ConfigError(f"keep={keep} of {n} entries measures none", hint=f"take at least {1 / n:.2g}")
    check_entries(float(count or 1) * n, "the masks")
    draws = torch.cat(
        [rng.uniform(torch.empty(1, n, dtype=torch.float32)) for rng in observation_streams(seed, "mask", count)]
    )
    order = draws.argsort(dim=1, stable=True)
    masks = torch.zeros(draws.shape, dtype=torch.bool)
    masks.scatter_(1, order[:, : round(keep * n)], True)
    masks = masks.reshape(-1, *event_shape)
    return Mask(masks[0]) if count is None else Mask(masks, per_observation=True)


def mask_from_file(path: str | Path, height: int, width: int) -> Mask:
    """Read a mask from an image file of any kind that Pillow reads: white (above 127) is measured.

    Raises:
        DataError: If the file is missing, not an image, of another size, or has no white pixel.
    """
    with picture(_MASK, path) as image:
        gray = np.asarray(image.convert("L"))
    if gray.shape != (height, width):
        raise DataError(
            f"the mask {path} is {gray.shape[0]}x{gray.shape[1]} (height x width), the images are {height}x{width}",
            hint="resize the mask without interpolation",
        )
    if not (gray > 127).any():
        raise DataError(f"the mask {path} hides every pixel", hint="white is measured")
    return Mask(torch.from_numpy(gray > 127))


@OPERATORS.register("box-inpainting", summary="a box is hidden", needs="an image that holds the box")
def box_inpainting(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    box: float = 150.0,
    top: float | None = None,
    left: float | None = None,
) -> Mask:
    """Hide a box; its side and offsets are those of a 256x256 image and scale with the image, centered by default."""
    height, width = image_size(event_shape)
    return box_mask(
        height,
        width,
        round(scaled(box, height)),
        round(scaled(box, width)),
        None if top is None else round(scaled(top, height)),
        None if left is None else round(scaled(left, width)),
    )


@OPERATORS.register(
    "half-mask", summary="one half of the image is hidden", needs="an image of at least two rows or columns"
)
def half_inpainting(event_shape: tuple[int, ...], *, seed: int = 0, side: str = "right") -> Mask:
    """Hide one half of the image: left, right, top or bottom."""
    return half_mask(*image_size(event_shape), side)


@OPERATORS.register("random-inpainting", summary="a random fraction of pixels is measured", needs="nothing")
def random_inpainting(
    event_shape: tuple[int, ...], *, seed: int = 0, keep: float = 0.3, count: int | None = None
) -> Mask:
    """Measure a random fraction of the positions; the channels (the first of several axes) share their mask."""
    return random_mask(event_shape[1:] or event_shape, keep, seed, count)


@OPERATORS.register(
    "mask-file", summary="an image file says what is measured (white)", needs="an image of the size of the file at path"
)
def file_inpainting(event_shape: tuple[int, ...], *, seed: int = 0, path: str) -> Mask:
    """Measure where the image file at `path` is white."""
    return mask_from_file(path, *image_size(event_shape))
