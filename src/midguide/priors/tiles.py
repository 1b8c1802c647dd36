"""One denoiser for larger signals, from overlapping tiles: images of any size, recordings of any length, volumes.

The network denoises each tile on its own. A mean with windows that sum to one joins overlapping answers (Bar-Tal et al.
2023, "MultiDiffusion", Eq. 5; Ozdenizci and Legenstein 2023, Algorithm 2). What lies outside a tile does not inform it:
correlations longer than a tile are lost, unless a measurement brings them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped

TOGETHER = 256
"""Tiles that the inner prior is given at once."""


def tiled(prior: Denoiser, size: int | tuple[int, ...], overlap: int | None = None) -> Tiled:
    """A prior of signals of this size, from tiles of the size of another prior.

    It is right for priors of patches: textures, natural images, micrographs, windows of a recording. A prior of whole
    scenes, such as one of aligned faces, draws a scene in every tile.

    Args:
        prior: of tiles, shape (channels, *tile), or (length,).
        size: of the larger signals, at least that of a tile along each axis. Axes in front of those of a tile are
            slices, each denoised on its own: (depth, height, width) makes a volume of a prior of images.
        overlap: least overlap of neighboring tiles, from 0 to less than a tile; a quarter of a tile by default.

    Returns:
        The prior, of signals of shape (channels, *size). A call of it is `tiles` calls of `prior`, and counted as such.

    Raises:
        ShapeError: If the size has fewer axes than a tile, or is smaller.
        ConfigError: If the overlap does not fit.
        UnsupportedProblem: If the prior is one of latents.

    Example:
        >>> from midguide.priors.gaussian import Gaussian
        >>> large = tiled(Gaussian(torch.zeros(3, 8, 8), 1.0), (20, 24), overlap=2)
        >>> large.event_shape, large.tiles
        ((3, 20, 24), 12)
    """
    if prior.autoencoder is not None:
        raise UnsupportedProblem(
            "a prior of latents cannot be tiled: its decoder makes signals of one size", hint="take one of signals"
        )
    return Tiled(prior, size, overlap)


class Tiled(Wrapped):
    """The prior `inner` of tiles as one of larger signals; `tiled` makes it.

    Along an axis, tiles start at evenly spread places. A pixel is the average of the tiles that cover it, with weights
    that fall off linearly over the overlap.
    """

    exact_moments = False
    statistics = None

    def __init__(self, inner: Denoiser, size: int | tuple[int, ...], overlap: int | None = None) -> None:
        super().__init__(inner)
        channels = inner.event_shape[: len(inner.event_shape) > 1]
        self._tile = tuple(inner.event_shape[len(channels) :])
        size = (size,) * len(self._tile) if isinstance(size, int) else tuple(size)
        self._space = size[len(size) - len(self._tile) :]
        if len(size) < len(self._tile) or any(n < least for n, least in zip(self._space, self._tile, strict=True)):
            raise ShapeError(
                f"signals of size {size} are not larger than tiles of {self._tile}",
                hint="as many axes as a tile or more, and at least its length along each; pad smaller signals",
            )
        if min(size) < 1 or (len(size) > len(self._tile) and not channels):
            raise ShapeError(
                f"size {size} does not fit slices of shape {inner.event_shape}", hint="slices have channels"
            )
        self.overlap = min(self._tile) // 4 if overlap is None else overlap
        if not 0 <= self.overlap < min(self._tile):
            raise ConfigError(
                f"overlap {self.overlap} does not fit tiles of {self._tile}", hint="from 0 to less than a side"
            )
        self.event_shape = (*channels, *size)

    @property
    def tiles(self) -> int:
        """Calls of the inner prior in one call of this one, in each row."""
        return math.prod(len(starts) for starts in self._starts) * math.prod(self._slices)

    @property
    def evaluations(self) -> int:
        return self.tiles * self.inner.evaluations

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        rows = x.movedim(1, 1 + len(self._slices)) if self._slices else x
        flat = rows.reshape(-1, *self._channels, math.prod(self._space))
        places, weights = self._places.to(x.device), self._weights.to(x)
        parts = flat.index_select(-1, places.flatten()).unflatten(-1, places.shape)
        parts = parts.movedim(-2, 1).reshape(-1, *self._channels, *self._tile)
        answers = torch.cat([self.inner(part, t) for part in parts.split(TOGETHER)])
        answers = answers.reshape(len(flat), len(places), *self._channels, places.shape[1]).movedim(1, -2)
        total = torch.zeros_like(flat).index_add(-1, places.flatten(), (weights * answers).flatten(-2))
        total = total.reshape(rows.shape)
        return total.movedim(1 + len(self._slices), 1) if self._slices else total

    def shown(self) -> Mapping[str, Any]:
        return {**Denoiser.shown(self), "tiles": f"{self.tiles} of {self._tile}"}

    @property
    def _channels(self) -> tuple[int, ...]:
        return self.inner.event_shape[: len(self.inner.event_shape) > 1]

    @property
    def _slices(self) -> tuple[int, ...]:
        return self.event_shape[len(self._channels) : len(self.event_shape) - len(self._tile)]

    @property
    def _starts(self) -> list[list[int]]:
        """Along each axis, where tiles start."""
        return [_starts(n, tile, self.overlap) for n, tile in zip(self._space, self._tile, strict=True)]

    @cached_property
    def _places(self) -> Tensor:
        """Places of the pixels of each tile among those of the flattened space, shape (tiles, pixels)."""
        places = torch.zeros(1, 1, dtype=torch.long)
        for n, tile, starts in zip(self._space, self._tile, self._starts, strict=True):
            along = torch.tensor(starts)[:, None] + torch.arange(tile)
            places = places[:, None, :, None] * n + along[None, :, None, :]
            places = places.reshape(places.shape[0] * places.shape[1], -1)
        return places

    @cached_property
    def _weights(self) -> Tensor:
        """Weights of the pixels of each tile, which sum to one at each place; float64, shape (tiles, pixels)."""
        window = torch.ones(1, dtype=torch.float64)
        for tile in self._tile:
            steps = torch.arange(tile, dtype=torch.float64)
            ramp = torch.minimum(steps + 1, tile - steps).clamp_max(self.overlap + 1)
            window = (window[:, None] * ramp).flatten()
        weights = window.expand(self._places.shape)
        total = torch.zeros(math.prod(self._space), dtype=torch.float64)
        total.index_add_(0, self._places.flatten(), weights.flatten())
        return weights / total[self._places]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the fewest tiles start that overlap by `overlap` at least and cover the length evenly."""
    count = 1 + math.ceil((length - tile) / (tile - overlap))
    return [round(i * (length - tile) / max(count - 1, 1)) for i in range(count)]
