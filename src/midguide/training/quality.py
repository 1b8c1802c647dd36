"""How far samples of a prior of images are from data: kernel and Fréchet distance of features, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.metrics.features import CLASSIFIER, classifier_features
from midguide.metrics.sets import frechet_distance, kernel_distance

BLOCKS = 10
"""Parts of the samples whose distances give the interval."""
SIDE = 64
"""Height and width of the images that the features are made for."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Distances of samples from data.

    Args:
        samples: how many.
        data: how many.
        features: their name.
        kid: kernel distance, unbiased: zero on average for samples of the data's law.
        kid_interval: half width of its interval at 95 %, from blocks of the samples; None for too few.
        kid_of_data: kernel distance of two halves of the data.
        fid: Fréchet distance, biased upwards; None for fewer samples than features.
    """

    samples: int
    data: int
    features: str
    kid: float
    kid_interval: float | None
    kid_of_data: float
    fid: float | None


def image_features(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Features of images of any size, gray or RGB, which are resized to 64x64, shape (n, d).

    Args:
        images: shape (n, 1 or 3, H, W).
        value_range: black and white.
    """
    sized = images.float()
    if sized.shape[2:] != (SIDE, SIDE):
        sized = F.interpolate(sized, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return classifier_features()(sized.expand(-1, 3, -1, -1), value_range)


def quality(samples: Tensor, data: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Quality:
    """Distances of samples, shape (n, C, H, W), from data, shape (m, C, H, W)."""
    drawn, real = image_features(samples, value_range), image_features(data, value_range)
    resized = "" if data.shape[2:] == (SIDE, SIDE) else f", images resized to {SIDE}x{SIDE}"
    return Quality(
        samples=len(samples),
        data=len(data),
        features=CLASSIFIER + resized,
        kid=kernel_distance(drawn, real),
        kid_interval=_interval(drawn, real),
        kid_of_data=kernel_distance(real[::2], real[1::2]),
        fid=frechet_distance(drawn, real) if len(samples) > drawn.shape[1] else None,
    )


def _interval(drawn: Tensor, real: Tensor) -> float | None:
    """Half width at 95 % from the spread of the distances of blocks, each with its own part of the data."""
    if min(len(drawn), len(real)) < 4 * BLOCKS:
        return None
    pairs = zip(drawn.chunk(BLOCKS), real.chunk(BLOCKS), strict=True)
    each = torch.tensor([kernel_distance(a, b) for a, b in pairs], dtype=torch.float64)
    return 2.26 * float(each.std()) / math.sqrt(BLOCKS)  # quantile of Student's t with nine degrees of freedom
