"""Real images with a known posterior: the prior is the law of N images, each smoothed by Gaussian noise.

The prior `(1/N) sum_k N(image_k, h^2 I)` is a mixture of N Gaussians. So its denoiser is a softmax over the images. Its
posterior under a linear measurement is known exactly: which images explain y, and with which weight. The effective
number of these images is `1 / sum_k w_k^2`.

Operator and noise of the named problems are such that several images explain y: see `effective_components`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from midguide.catalogue.settings import PathOr
from midguide.data.glyphs import glyphs
from midguide.data.images import load_image_set
from midguide.errors import ConfigError, DataError, ShapeError, about
from midguide.known.base import KNOWN, simulated
from midguide.maths.rng import Rng, stream_seed
from midguide.operators.factory import make_operator
from midguide.priors.gaussian import real_numbers
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem

FEWEST = 10
"""Images that make a prior at least: of fewer, draws would be copies."""

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel")
"""Pictures that come with scikit-image, of which patches are cut."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def finite_sample_prior(images: Tensor, bandwidth: float) -> GaussianMixture:
    """The law of N images with noise of standard deviation `bandwidth` on each: `(1/N) sum_k N(image_k, h^2 I)`.

    Args:
        images: shape (N, *event), at least ten.
        bandwidth: h, in the unit of the images; positive.

    Raises:
        ShapeError: If there are too few images, or they are not numbers.
        ConfigError: If they are complex, or hold NaN or infinity, or `bandwidth` is not positive.

    Example:
        >>> prior = finite_sample_prior(glyphs(torch.arange(100)), 0.1)
        >>> prior.components, prior.event_shape
        (100, (1, 32, 32))
    """
    images = real_numbers(images, "the images")
    if len(images) < FEWEST:
        raise ShapeError(
            f"{len(images)} images make no prior, it takes at least {FEWEST}", hint="hundreds to thousands are usual"
        )
    if not 0.0 < bandwidth < float("inf"):
        raise ConfigError(f"bandwidth must be positive, got {bandwidth}", hint="for example 0.1 for images in [-1, 1]")
    return GaussianMixture(torch.ones(len(images)), images, bandwidth**2)


def effective_components(posterior: GaussianMixture) -> float:
    """How many components of a mixture count: `1 / sum_k w_k^2`.

    Args:
        posterior: a mixture with the weights w_k.

    Returns:
        A number from 1, where one component has all the weight, to the number of components.

    Example:
        >>> from midguide.priors import GaussianMixture
        >>> effective_components(GaussianMixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 3), 1.0))
        2.0
    """
    return float(1 / posterior.weights.square().sum())


@KNOWN.register("finite-sample", family="images")
def finite_sample(
    seed: int,
    *,
    data: Annotated[str, PathOr("glyphs", "patches")],
    operator: str,
    operator_settings: dict[str, object] | None = None,
    sigma_y: float = 0.3,
    bandwidth: float = 0.1,
    count: int = 1000,
    size: int = 16,
    white: float | None = None,
) -> Problem:
    """Real images, smoothed, seen through an operator; from `glyphs`, `patches`, a folder or a zip file.

    Args:
        seed: of the truth, of the noise, and of what the operator draws.
        data: `glyphs`, `patches` of photographs, or a folder or zip file of images of one size, which become gray.
        operator: a linear one of `midguide list operators`.
        operator_settings: its settings.
        sigma_y: standard deviation of the noise.
        bandwidth: standard deviation of the noise that smooths the images.
        count: images of the prior, at most: the first ones of a folder.
        size: side of a patch in pixels; for `patches` only.
        white: the value of white in image files, as 4095 for 12 bits; by default the largest of their type.

    Returns:
        A problem whose posterior is a mixture with one component for each image, in closed form.

    Example:
        >>> problem = finite_sample(0, data="glyphs", operator="half-mask", count=20)
        >>> problem.truth.shape
        torch.Size([1, 1, 32, 32])
    """
    prior = _prior(data, count, bandwidth, size, white)
    made = make_operator(
        operator, prior.event_shape, seed=stream_seed(seed, "operator"), **dict[str, Any](operator_settings or {})
    )
    return simulated(prior, made, "gaussian", seed, sigma_y=sigma_y)


@KNOWN.register("glyphs-blocks", family="images", seeds=2, title="letters and digits, means of 8x8 blocks")
def glyphs_blocks(seed: int, *, count: int = 1000, sigma_y: float = 0.3) -> Problem:
    """Letters and digits of 32x32 pixels, measured by the means of 8x8 blocks."""
    settings: dict[str, object] = {"factor": 8}
    return finite_sample(
        seed, data="glyphs", operator="super-resolution", operator_settings=settings, sigma_y=sigma_y, count=count
    )


@KNOWN.register("glyphs-pixels", family="images", seeds=2, title="letters and digits, 2 % of the pixels")
def glyphs_pixels(seed: int, *, count: int = 1000, sigma_y: float = 0.3, keep: float = 0.02) -> Problem:
    """Letters and digits of 32x32 pixels, a few random pixels of them measured."""
    settings: dict[str, object] = {"keep": keep}
    return finite_sample(
        seed, data="glyphs", operator="random-inpainting", operator_settings=settings, sigma_y=sigma_y, count=count
    )


@KNOWN.register("patches-blocks", family="images", seeds=2, title="patches of photographs, means of 4x4 blocks")
def patches_blocks(seed: int, *, count: int = 1000, sigma_y: float = 0.3) -> Problem:
    """Patches of photographs, 16x16 pixels, measured by the means of 4x4 blocks."""
    settings: dict[str, object] = {"factor": 4}
    return finite_sample(
        seed, data="patches", operator="super-resolution", operator_settings=settings, sigma_y=sigma_y, count=count
    )


def patches(count: int, size: int, seed: int = 0) -> Tensor:
    """Gray patches of the photographs of scikit-image, halved in size, in [-1, 1], shape (count, 1, size, size)."""
    photos = [_photo(name) for name in PHOTOS]
    draws = Rng([(seed, "patches", i) for i in range(count)]).uniform(torch.empty(count, 3, dtype=torch.float64))
    cut = []
    for which, down, right in draws.tolist():
        photo = photos[int(which * len(photos))]
        top, left = (int(share * (side - size + 1)) for share, side in zip((down, right), photo.shape, strict=True))
        cut.append(photo[top : top + size, left : left + size])
    return torch.stack(cut)[:, None]


@lru_cache(maxsize=16)
def _photo(name: str) -> Tensor:
    """A photograph, gray, at half its size, in [-1, 1], shape (H, W)."""
    from skimage import data, transform

    picture = np.asarray(getattr(data, name)(), dtype=np.float64) / 255
    gray = picture @ np.array(_LUMA) if picture.ndim == 3 else picture
    small = transform.downscale_local_mean(gray[: gray.shape[0] // 2 * 2, : gray.shape[1] // 2 * 2], (2, 2))
    return torch.from_numpy(small).float() * 2 - 1


@lru_cache(maxsize=4)
def _prior(data: str, count: int, bandwidth: float, size: int, white: float | None) -> GaussianMixture:
    """The prior of a source of images; the same object for all problems that ask for it."""
    if count < FEWEST:
        raise ConfigError(f"count must be at least {FEWEST}, got {count}", hint="hundreds to thousands are usual")
    if white is not None and data in ("glyphs", "patches"):
        raise ConfigError("white is given, but no images", hint="white belongs to data that are image files")
    if data == "glyphs":
        return finite_sample_prior(glyphs(torch.arange(count)), bandwidth)
    if data == "patches":
        return finite_sample_prior(patches(count, size), bandwidth)
    if not os.path.exists(data):
        raise DataError(f"there is no {data}", hint="data is `glyphs`, `patches`, a folder or a zip file of images")
    with about("data"):
        images = load_image_set(Path(data), white=white)[:count].float() / 127.5 - 1
        return finite_sample_prior(torch.einsum("nchw,c->nhw", images, images.new_tensor(_LUMA))[:, None], bandwidth)
