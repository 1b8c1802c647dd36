"""What a network is trained on: clean images or their latents, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from midguide.denoisers.base import Autoencoder


class Source(Protocol):
    """A set of clean events."""

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Range of the values, or None where unbounded."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Events drawn with replacement, float32, shape (count, *event); all randomness comes from `generator`."""
        ...

    def events(self) -> Tensor:
        """Every event once, as it is, float32, shape (N, *event)."""
        ...


@dataclass(frozen=True, eq=False)
class Images:
    """Images scaled to [-1, 1].

    Args:
        pixels: uint8, shape (N, C, H, W).
        flip: mirror half of the draws.
    """

    pixels: Tensor
    flip: bool = True
    value_range: tuple[float, float] | None = (-1.0, 1.0)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        batch = self.pixels[torch.randint(len(self.pixels), (count,), generator=generator)]
        if self.flip:
            flipped = torch.rand(count, generator=generator) < 0.5
            batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
        return scaled(batch)

    def events(self) -> Tensor:
        return scaled(self.pixels)


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of images, encoded once, in half precision.

    Args:
        plain: of the images as they are, float16, shape (N, *latent).
        mirrored: of their mirror images, which are half of the draws; None for none.
    """

    plain: Tensor
    mirrored: Tensor | None = None
    value_range: tuple[float, float] | None = None

    @classmethod
    def encode(cls, images: Images, autoencoder: Autoencoder) -> Self:
        """Encode all images, and their mirror images where they are flipped."""
        plain = encoded(images.pixels, autoencoder)
        return cls(plain, encoded(images.pixels.flip(3), autoencoder) if images.flip else None)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.plain), (count,), generator=generator)
        batch = self.plain[rows]
        if self.mirrored is not None:
            flipped = torch.rand(count, generator=generator) < 0.5
            batch = torch.where(flipped[:, None, None, None], self.mirrored[rows], batch)
        return batch.float()

    def events(self) -> Tensor:
        return self.plain.float()


def scaled(pixels: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0


def encoded(pixels: Tensor, autoencoder: Autoencoder) -> Tensor:
    """Latents of images, uint8, shape (N, C, H, W), a few at a time: float16, shape (N, *latent)."""
    with torch.no_grad():
        return torch.cat([autoencoder.encode(scaled(part)).half() for part in pixels.split(64)])
