"""What a network is trained on: clean images, their latents, or signals, drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.priors.base import Autoencoder


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

    def __len__(self) -> int:
        """How many there are."""
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

    def __len__(self) -> int:
        return len(self.pixels)


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

        def latents(pixels: Tensor) -> Tensor:
            return encoded((scaled(part) for part in pixels.split(64)), autoencoder)

        return cls(latents(images.pixels), latents(images.pixels.flip(3)) if images.flip else None)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(self.plain), (count,), generator=generator)
        batch = self.plain[rows]
        if self.mirrored is not None:
            flipped = torch.rand(count, generator=generator) < 0.5
            batch = torch.where(flipped[:, None, None, None], self.mirrored[rows], batch)
        return batch.float()

    def events(self) -> Tensor:
        return self.plain.float()

    def __len__(self) -> int:
        return len(self.plain)


@dataclass(frozen=True, eq=False)
class Signals:
    """Windows of recordings, each drawn from a random place; recordings shorter than a window end with zeros.

    Args:
        recordings: in units of the prior, float32, shape (N, channels, time).
        length: samples of a window.
    """

    recordings: Tensor
    length: int
    value_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.recordings)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.pick(count, generator)[1]

    def pick(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of recordings, shape (count,), and a window of each."""
        rows = torch.randint(len(self.recordings), (count,), generator=generator)
        starts = torch.randint(self._starts, (count,), generator=generator)
        windows = [self._window(row, start) for row, start in zip(rows.tolist(), starts.tolist(), strict=True)]
        return rows, torch.stack(windows)

    def events(self) -> Tensor:
        """The middle window of every recording."""
        return torch.stack([self._window(row, (self._starts - 1) // 2) for row in range(len(self.recordings))])

    @property
    def _starts(self) -> int:
        return max(self.recordings.shape[-1] - self.length, 0) + 1

    def _window(self, row: int, start: int) -> Tensor:
        window = self.recordings[row, :, start : start + self.length]
        return F.pad(window, (0, self.length - window.shape[-1]))


@dataclass(frozen=True, eq=False)
class Labeled:
    """Windows of recordings with what is known of the recording.

    Args:
        signals: the recordings.
        labels: float32, shape (N, classes), 0 or 1.
    """

    signals: Signals
    labels: Tensor

    def __len__(self) -> int:
        return len(self.signals)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Windows, shape (count, channels, length), and labels, shape (count, classes)."""
        rows, windows = self.signals.pick(count, generator)
        return windows, self.labels[rows]


def scaled(pixels: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0


def encoded(parts: Iterable[Tensor], autoencoder: Autoencoder) -> Tensor:
    """Latents of images, a few at a time, each part of shape (B, C, H, W): float16, shape (N, *latent)."""
    with torch.no_grad():
        return torch.cat([autoencoder.encode(part).half() for part in parts])
