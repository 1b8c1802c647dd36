"""Known changes of images that a network can be asked to name: what reconstructions get wrong.

Each takes images in [-1, 1], shape (B, C, H, W), and a generator, and returns as many changed ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

ANGLES = 4


def rotated(images: Tensor, turns: Tensor) -> Tensor:
    """Each square image turned by its number of quarter turns, shape (B,)."""
    every = torch.stack([images.rot90(k, (2, 3)) for k in range(ANGLES)])
    return every[turns, torch.arange(len(images))]


def changed(images: Tensor, kinds: Tensor, generator: Generator) -> Tensor:
    """Each image with the change in `CHANGES` of its number, shape (B,)."""
    out = images.clone()
    for number, change in enumerate(CHANGES.values()):
        rows = (kinds == number).nonzero()[:, 0]
        if len(rows):
            out[rows] = change(images[rows], generator)
    return out


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _blurred(images: Tensor, generator: Generator) -> Tensor:
    """Gaussian blur, std 0.7 to 2 pixels."""
    count, channels = images.shape[:2]
    offsets = torch.arange(-5.0, 6.0)
    weights = torch.exp(-0.5 * (offsets / _uniform(count, 0.7, 2.0, generator)[:, :, 0]).square())
    weights = (weights / weights.sum(2, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = F.pad(images.flatten(0, 1)[None], (5, 5, 5, 5), mode="reflect")
    planes = F.conv2d(planes, weights[..., None], groups=len(weights))
    return F.conv2d(planes, weights[:, :, None], groups=len(weights))[0].unflatten(0, (count, channels))


def _noisy(images: Tensor, generator: Generator) -> Tensor:
    """White noise, std 0.03 to 0.3."""
    noise = torch.randn(images.shape, generator=generator)
    return images + _uniform(len(images), 0.03, 0.3, generator) * noise


def _pixelated(images: Tensor, generator: Generator) -> Tensor:
    """Means of blocks of 2x2 or 4x4."""
    coarse = [F.avg_pool2d(images, size).repeat_interleave(size, 2).repeat_interleave(size, 3) for size in (2, 4)]
    return torch.where(_uniform(len(images), 0.0, 1.0, generator) < 0.5, *coarse)


def _hidden(images: Tensor, generator: Generator) -> Tensor:
    """A rectangle of an eighth to a half of each side takes the mean color of the image."""
    inside = _rectangle(images, 0.125, 0.5, generator)
    return torch.where(inside, images.mean((2, 3), keepdim=True), images)


def _spliced(images: Tensor, generator: Generator) -> Tensor:
    """A rectangle of three to five eighths of each side comes from another image."""
    return torch.where(_rectangle(images, 0.375, 0.625, generator), images.roll(1, 0).flip(3), images)


def _warped(images: Tensor, generator: Generator) -> Tensor:
    """A smooth displacement, std 4 to 8 % of the half side on a 5x5 grid."""
    count = len(images)
    coarse = torch.randn(count, 2, 5, 5, generator=generator) * _uniform(count, 0.04, 0.08, generator)
    shift = F.interpolate(coarse, images.shape[2:], mode="bicubic", align_corners=True)
    still = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, still + shift.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def _tinted(images: Tensor, generator: Generator) -> Tensor:
    """Each channel scaled by 0.6 to 1.4 and shifted by up to 0.3."""
    count, channels = images.shape[:2]
    scale, shift = torch.rand(2, count, channels, 1, 1, generator=generator)
    return (images * (0.6 + 0.8 * scale) + 0.6 * shift - 0.3).clamp(-1, 1)


def _rectangle(images: Tensor, least: float, most: float, generator: Generator) -> Tensor:
    """True inside a random rectangle whose sides are `least` to `most` of the image's, shape (B, 1, H, W)."""
    inside = torch.ones(len(images), 1, 1, 1, dtype=torch.bool)
    for axis, size in ((2, images.shape[2]), (3, images.shape[3])):
        side = _uniform(len(images), least * size, most * size, generator)
        start = _uniform(len(images), 0.0, 1.0, generator) * (size - side)
        place = torch.arange(size).reshape(-1, 1) if axis == 2 else torch.arange(size)
        inside = inside & (place >= start) & (place < start + side)
    return inside


CHANGES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "none": lambda images, generator: images,
    "blurred": _blurred,
    "noisy": _noisy,
    "pixelated": _pixelated,
    "hidden": _hidden,
    "spliced": _spliced,
    "warped": _warped,
    "tinted": _tinted,
}
"""name -> change."""
