"""What a network is trained on: clean images, their latents, or signals, drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from midguide.priors.base import Autoencoder
from midguide.storage.record import describe


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
        batch = self.pixels[picked(len(self.pixels), count, generator)]
        if self.flip:
            batch = torch.where(tossed(count, generator)[:, None, None, None], batch.flip(3), batch)
        return scaled(batch)

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def to(self, device: str) -> Self:
        return replace(self, pixels=self.pixels.to(device))

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
        origin: what they are the latents of; another machine rounds them differently.
    """

    plain: Tensor
    mirrored: Tensor | None = None
    origin: Any = None
    value_range: tuple[float, float] | None = None

    @classmethod
    def encode(cls, images: Images, autoencoder: Autoencoder) -> Self:
        """Encode all images, and their mirror images where they are flipped."""

        def latents(pixels: Tensor) -> Tensor:
            return encoded((scaled(part) for part in pixels.split(64)), autoencoder)

        mirrored = latents(images.pixels.flip(3)) if images.flip else None
        return cls(latents(images.pixels), mirrored, origin=describe((images, autoencoder)))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        rows = picked(len(self.plain), count, generator)
        batch = self.plain[rows]
        if self.mirrored is not None:
            batch = torch.where(tossed(count, generator)[:, None, None, None], self.mirrored[rows], batch)
        return batch.float()

    def record(self) -> Any:
        """What they are the latents of, where that is known."""
        return self.origin or describe((self.plain, self.mirrored))

    @property
    def nbytes(self) -> int:
        return self.plain.nbytes * (1 if self.mirrored is None else 2)

    def to(self, device: str) -> Self:
        mirrored = None if self.mirrored is None else self.mirrored.to(device)
        return replace(self, plain=self.plain.to(device), mirrored=mirrored)

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
        rows = picked(len(self.recordings), count, generator)
        return rows, self._windows(rows, picked(self._starts, count, generator))

    def events(self) -> Tensor:
        """The middle window of every recording."""
        rows = torch.arange(len(self.recordings), device=self.recordings.device)
        return self._windows(rows, torch.full_like(rows, (self._starts - 1) // 2))

    @property
    def nbytes(self) -> int:
        return self.recordings.nbytes

    def to(self, device: str) -> Self:
        return replace(self, recordings=self.recordings.to(device))

    @property
    def _starts(self) -> int:
        return max(self.recordings.shape[-1] - self.length, 0) + 1

    def _windows(self, rows: Tensor, starts: Tensor) -> Tensor:
        times = starts[:, None] + torch.arange(self.length, device=starts.device)
        channels = torch.arange(self.recordings.shape[1], device=starts.device)
        last = self.recordings.shape[-1] - 1
        found = self.recordings[rows[:, None, None], channels[:, None], times.clamp(max=last)[:, None]]
        return found if self.length <= last + 1 else torch.where((times <= last)[:, None], found, 0.0)


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

    @property
    def nbytes(self) -> int:
        return self.signals.nbytes + self.labels.nbytes

    def to(self, device: str) -> Self:
        return replace(self, signals=self.signals.to(device), labels=self.labels.to(device))


def picked(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Numbers below `size`, drawn with replacement, shape (count,)."""
    return torch.randint(size, (count,), generator=generator, device=generator.device)


def tossed(count: int, generator: torch.Generator) -> Tensor:
    """Fair coins, shape (count,)."""
    return torch.rand(count, generator=generator, device=generator.device) < 0.5


def scaled(pixels: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0


def encoded(parts: Iterable[Tensor], autoencoder: Autoencoder) -> Tensor:
    """Latents of images, a few at a time, each part of shape (B, C, H, W): float16, shape (N, *latent)."""
    with torch.no_grad():
        return torch.cat([autoencoder.encode(part).half() for part in parts])
