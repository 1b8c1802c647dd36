"""Image problems of a study: a picture, what an instrument sees of it, and a network as prior."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from midguide.catalogue.settings import PathOr, given
from midguide.data.examples import portrait
from midguide.data.images import load_image_set, to_uint8
from midguide.errors import ConfigError, DataError, about
from midguide.maths.rng import stream_seed
from midguide.operators.decomposed import Decomposed
from midguide.priors.base import Denoiser
from midguide.priors.settings import Dtype, PriorSettings
from midguide.problem import Problem
from midguide.storage.record import digest, fingerprint
from midguide.studies.kinds.base import KINDS
from midguide.studies.kinds.files import (
    AS_STATED,
    PRIOR,
    TRUTH_STEPS,
    drawn_from,
    kept,
    prior_digest,
    prior_of,
    record_of,
)
from midguide.studies.kinds.setup import RANGE, Setup

PORTRAIT = "astronaut"

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@KINDS.register("images")
@dataclass(frozen=True, kw_only=True)
class ImageProblem:
    """One image seen through one operator, with noise; the seed is the index of the image, and that of its noise.

    What the operator draws (a kernel, a mask) comes from `operator_seed` and is that of all images, or of each its own.

    Args:
        operator: a name in `midguide list operators`.
        operator_settings: the operator's own settings.
        operator_seed: seed of what the operator draws.
        operator_per_image: every image has an operator of its own, drawn from `operator_seed` and its index.
        prior: what `load_prior` takes: a name, a file, a folder, `FILE.py:NAME`.
        prior_settings: what is said of the prior in place of what it states.
        data: a folder or zip file of images of the size of the prior, in the order of their names; `astronaut`, the one
            portrait of scikit-image; or
            `prior`, draws of the prior itself, for which the prior is right by construction.
        white: the value of white in the image files, as 4095 for 12 bits in 16; by default the largest of their type.
        noise: a name in `midguide list likelihoods`.
        sigma_y: standard deviation of Gaussian noise in the value range of the prior; by default 0.05.
        rate: expected counts at the largest value, for Poisson noise.
        noise_settings: further settings of the noise.
        dtype: what the network computes in; states stay in float32.
    """

    stacks: ClassVar[bool] = True
    simulated: ClassVar[bool] = False

    operator: str
    operator_settings: Mapping[str, object] = field(default_factory=dict)
    operator_seed: int = 0
    operator_per_image: bool = False
    prior: str = "faces-64"
    prior_settings: PriorSettings = AS_STATED
    data: Annotated[str, PathOr(PRIOR, PORTRAIT)] = PRIOR
    white: float | None = None
    noise: str = "gaussian"
    sigma_y: float | None = None
    rate: float | None = None
    noise_settings: Mapping[str, object] = field(default_factory=dict)
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        _ = self._setup(0)  # which refuses an impossible noise

    def record(self) -> dict[str, Any]:
        """What a result depends on besides the prior's file and what `data_digest` holds."""
        data = {"data": "images"} if self.data != PRIOR else {"data": PRIOR, "steps": TRUTH_STEPS}
        setup = self._setup(0)
        instrument = {} if self.operator_per_image else {"instrument": setup.instrument_record(self._denoiser)}
        own = {**setup.record(), **instrument, "dtype": self.dtype}
        return {"type": "ImageProblem", **own, **data, **record_of(self.prior_settings)}

    def prior_digest(self) -> str:
        """SHA-256 of the prior's record."""
        return prior_digest(self.prior, self.dtype, self.prior_settings)

    def data_digest(self, seed: int) -> str:
        """SHA-256 of the pixels of the image, with its operator where it has its own.

        Draws of the prior follow from prior and seed.
        """
        pixels = "" if self.data == PRIOR else digest(self._pixels(seed))
        if not self.operator_per_image:
            return pixels
        return fingerprint([pixels, self._setup(seed).instrument_record(self._denoiser)])

    def build(self, seed: int) -> Problem:
        """The problem of one image.

        Raises:
            DataError: If there is no such image, or it does not fit the prior.
        """
        return self._observed(self._drawn(seed) if self.data == PRIOR else self._loaded(seed), seed)

    def probe(self, seed: int) -> Problem:
        """The problem of one image; where that would have to be drawn first, of an image of zeros."""
        if self.data != PRIOR:
            return self.build(seed)
        return self._observed(torch.zeros(1, *self._denoiser.signal_shape), seed)

    def _observed(self, truth: Tensor, seed: int) -> Problem:
        setup = self._setup(seed)
        if self.operator_per_image and isinstance(setup.instrument(self._denoiser), Decomposed):
            raise ConfigError(
                f"`{self.operator}` would be decomposed for each image, at 0.4 GB and half a minute each",
                hint='with operator_per_image take operator = "motion-blur"',
            )
        return setup.simulate(self._denoiser, truth, seed=seed)

    def _setup(self, seed: int) -> Setup:
        own = stream_seed(self.operator_seed, "image", seed) if self.operator_per_image else self.operator_seed
        return Setup(
            operator=self.operator,
            operator_settings=self.operator_settings,
            operator_seed=own,
            noise=self.noise,
            noise_settings={**given(sigma_y=self.sigma_y, rate=self.rate), **self.noise_settings},
        )

    @property
    def _denoiser(self) -> Denoiser:
        return prior_of(self.prior, self.dtype, self.prior_settings)

    @property
    def _range(self) -> tuple[float, float]:
        return self._denoiser.signal_range or RANGE

    def _pixels(self, seed: int) -> Tensor:
        """The image as bytes, shape (3, H, W)."""
        shape = self._denoiser.signal_shape
        images = _images(self.data, shape, self.white)
        if not 0 <= seed < len(images):
            last = f"0 to {len(images) - 1}" if len(images) > 1 else "0 only"
            raise DataError(f"{self.data} has no image {seed}", hint=f"the seeds of its images are {last}")
        return images[seed]

    def _drawn(self, seed: int) -> Tensor:
        """A draw of the prior in its value range, shape (1, C, H, W)."""
        return drawn_from(self.prior, seed, self.prior_settings).clamp(*self._range)

    def _loaded(self, seed: int) -> Tensor:
        """The image in the value range and with the channels of the prior, shape (1, C, H, W)."""
        low, high = self._range
        values = self._pixels(seed).float() / 255
        if self._denoiser.signal_shape[0] == 1:
            values = torch.einsum("chw,c->hw", values, values.new_tensor(_LUMA))[None]
        return (low + (high - low) * values)[None]


@kept(8)
def _images(data: str, event_shape: tuple[int, ...], white: float | None) -> Tensor:
    """All images of a source, uint8, shape (N, 3, H, W) with the size of the prior."""
    if len(event_shape) != 3 or event_shape[0] not in (1, 3):
        raise DataError(
            f"an image has 1 or 3 channels, events of this prior have shape {event_shape}",
            hint="take a prior of images",
        )
    with about("data"):
        if data != PORTRAIT and not os.path.exists(data):
            raise DataError(
                f"there is no {data}",
                hint="problems.data is a folder or zip file of images, or prior for draws of the prior: "
                "--set problems.data=PATH",
            )
        images = to_uint8(portrait(event_shape[1])) if data == PORTRAIT else load_image_set(Path(data), white=white)
    (height, width), (rows, columns) = images.shape[2:], event_shape[1:]
    if (height, width) != (rows, columns):
        raise DataError(
            f"the images of {data} are {width}x{height}, the prior takes {columns}x{rows} (width x height)",
            hint="crop and resize them first, or give a prior of their size",
        )
    return images
