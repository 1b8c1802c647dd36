"""Tomography: integrals of an image over strips, with parallel or fan beams (the Radon transform).

A pixel is a square of constant value. Seen from an angle its shadow is a trapezoid, and a detector cell receives the
part of the shadow that falls on it. See Long, Fessler and Balter 2010, "3D forward and back-projection for X-ray CT
using separable footprints". With parallel beams these are the exact strip integrals. With fan beams the rays through
one pixel count as parallel.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths.autodiff import sparse_product
from midguide.operators.base import OPERATORS, LinearOperator, Operator, check_entries, image_size


@dataclass(frozen=True, eq=False)
class Radon(LinearOperator):
    """Mean of each strip times its length, (B, ..., H, W) -> (B, ..., angle, detector).

    The unit of length is the longer side of the image: a strip across a square image of ones gives 1. Angle zero sums
    along columns, as in scikit-image; angles turn counterclockwise.

    Args:
        angles: of the views, in degrees.
        detectors: cells of the detector; their middle is the projection of the image's center.
        height: rows of the image.
        width: columns of the image.
        spacing: width of a detector cell, in pixels.
        distance: of a fan beam's source from the center, in units of the longer side; None for parallel beams. The
            detector is a line through the center, perpendicular to the central ray.

    Raises:
        ConfigError: If a number is not positive, or the source lies inside the image.

    Example:
        >>> Radon((0.0,), 4, 4, 4)(torch.ones(1, 1, 4, 4))
        tensor([[[[1., 1., 1., 1.]]]])
    """

    angles: tuple[float, ...]
    detectors: int
    height: int
    width: int
    spacing: float = 1.0
    distance: float | None = None

    def __post_init__(self) -> None:
        if not self.angles or min(self.detectors, self.height, self.width) < 1:
            raise ConfigError("tomography needs at least one angle, one detector cell and one pixel")
        if not self.spacing > 0.0:
            raise ConfigError(f"spacing must be positive, got {self.spacing:g}", hint="1 for cells as wide as pixels")
        reach = math.hypot(self.height, self.width) / 2 / max(self.height, self.width)
        if self.distance is not None and not self.distance > reach:
            raise ConfigError(
                f"a source at distance {self.distance:g} lies inside the image",
                hint=f"the corners are at {reach:.2f}; the unit is the longer side",
            )

        # of each pixel in each view: its cells, weights and places while they are collected
        cells = 1 + 2 / self.spacing
        check_entries(8 * cells * len(self.angles) * self.height * self.width, "the geometry")
        check_entries(float(len(self.angles)) * self.detectors, "the measurement")

    def __call__(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != (self.height, self.width):
            raise ShapeError(f"expected images of {self.height}x{self.width}, got {tuple(x.shape[1:])}")
        matrix, transpose = self._weights(x)
        y = sparse_product(matrix, transpose, x.flatten(-2).flatten(0, -2))
        return y.reshape(*x.shape[:-2], len(self.angles), self.detectors)

    def adjoint(self, y: Tensor) -> Tensor:
        matrix, transpose = self._weights(y)
        x = sparse_product(transpose, matrix, y.flatten(-2).flatten(0, -2))
        return x.reshape(*y.shape[:-2], self.height, self.width)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """The classical reconstruction, (B, ..., angle, detector) -> (B, ..., H, W): ramp filter, back-projection.

        It is made for parallel views that cover 180 degrees evenly.

        Raises:
            ConfigError: If the beams form a fan.

        References:
            Kak and Slaney 1988, "Principles of computerized tomographic imaging", chapter 3.
        """
        if self.distance is not None:
            raise ConfigError("filtered back-projection is made for parallel beams", hint="take `pinv`")
        padded = 2 ** math.ceil(math.log2(2 * self.detectors))
        offsets = torch.fft.fftfreq(padded, d=1 / padded, dtype=torch.float64)
        odd = offsets.long() % 2 != 0
        ramp = torch.where(odd, -1 / (math.pi * offsets).square().where(odd, torch.ones(())), 0.0)
        ramp[0] = 0.25
        response = torch.fft.rfft(ramp).real.to(y)
        filtered = torch.fft.irfft(torch.fft.rfft(y, padded) * response, padded)[..., : self.detectors]
        views = len(self.angles)
        # the adjoint spreads a value over the pixels of a strip with weights in units of the image's side
        scale = math.pi / views * (max(self.height, self.width) / self.spacing) ** 2 * self.spacing
        return self.adjoint(filtered) * scale

    def _weights(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix and its transpose, sparse, in the dtype and on the device of `like`."""
        key = (like.dtype, like.device)
        if key not in self._cached:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls compressed rows a beta; they are 16 times as fast
                matrix = self._matrix.to(like.dtype).to_sparse_csr()
                transpose = self._matrix.t().coalesce().to(like.dtype).to_sparse_csr()
                self._cached[key] = matrix.to(like.device), transpose.to(like.device)
        return self._cached[key]

    @cached_property
    def _cached(self) -> dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def _matrix(self) -> Tensor:
        """The matrix (angle x detector, pixel), sparse, float64."""
        rows, columns, values = [], [], []
        for view, angle in enumerate(map(math.radians, self.angles)):
            cells, pixels, weights = self._view(angle)
            rows.append(view * self.detectors + cells)
            columns.append(pixels)
            values.append(weights)
        shape = (len(self.angles) * self.detectors, self.height * self.width)
        indices = torch.stack([torch.cat(rows), torch.cat(columns)])
        return torch.sparse_coo_tensor(indices, torch.cat(values), shape, check_invariants=True).coalesce()

    def _view(self, angle: float) -> tuple[Tensor, Tensor, Tensor]:
        """Detector cells, pixels and weights of one view; lengths in pixels until the last line."""
        center, wide, narrow, gain = self._shadows(angle)
        reach = (wide + narrow) / 2
        first = ((center - reach) / self.spacing + self.detectors / 2).floor().long()
        count = int(((2 * reach) / self.spacing).max().ceil()) + 1
        cells = first[:, None] + torch.arange(count)
        left = (cells - self.detectors / 2) * self.spacing - center[:, None]
        part = _below(left + self.spacing, wide[:, None], narrow[:, None]) - _below(
            left, wide[:, None], narrow[:, None]
        )
        weights = part * gain[:, None] / (self.spacing * max(self.height, self.width))
        pixels = torch.arange(self.height * self.width)[:, None].expand_as(cells)
        seen = (cells >= 0) & (cells < self.detectors) & (weights > 0.0)
        return cells[seen], pixels[seen], weights[seen]

    def _shadows(self, angle: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each pixel's shadow on the detector: center, the two widths of its trapezoid, and its area."""
        down = torch.arange(self.height, dtype=torch.float64) - (self.height - 1) / 2
        right = torch.arange(self.width, dtype=torch.float64) - (self.width - 1) / 2
        up, right = torch.meshgrid(-down, right, indexing="ij")
        up, right = up.flatten(), right.flatten()
        across = right * math.cos(angle) + up * math.sin(angle)
        along = up * math.cos(angle) - right * math.sin(angle)
        if self.distance is None:
            ones = torch.ones_like(across)
            sides = abs(math.cos(angle)) * ones, abs(math.sin(angle)) * ones
            return across, torch.maximum(*sides), torch.minimum(*sides), ones
        source = self.distance * max(self.height, self.width)
        magnification = source / (source - along)
        ray = angle + torch.atan2(across, source - along)
        # widths on a line across the ray, seen on the detector, which is inclined to it
        tilt = magnification / torch.cos(ray - angle)
        sides = ray.cos().abs() * tilt, ray.sin().abs() * tilt
        return across * magnification, torch.maximum(*sides), torch.minimum(*sides), tilt


def _below(u: Tensor, wide: Tensor, narrow: Tensor) -> Tensor:
    """The area left of `u` of a trapezoid of area one around zero, the convolution of boxes of these widths."""
    # of a box of width w, the integral of its distribution function is ramp(u + w/2) - ramp(u - w/2), over w
    outer, inner = (wide + narrow) / 2, (wide - narrow) / 2
    flat = (u / wide + 0.5).clamp(0.0, 1.0)
    ramps = [(u + outer), (u + inner), (u - inner), (u - outer)]
    squares = [ramp.clamp_min(0.0).square() for ramp in ramps]
    smooth = (squares[0] - squares[1] - squares[2] + squares[3]) / (2 * wide * narrow.clamp_min(1e-9))
    return torch.where(narrow > 1e-6, smooth, flat)


@dataclass(frozen=True, eq=False)
class Transmission(Operator):
    """`y = exp(-absorption R x)`: the share of X-rays that pass (Beer and Lambert), for images in [0, 1].

    With the Poisson likelihood, whose rate is then the number of photons sent along each ray: low-dose tomography.

    Args:
        radon: R, the integrals over strips.
        absorption: how many mean free paths a strip of ones across the image is long; positive.

    Example:
        >>> Transmission(Radon((0.0,), 2, 2, 2), 2.0)(torch.ones(1, 1, 2, 2))
        tensor([[[[0.1353, 0.1353]]]])
    """

    radon: Radon
    absorption: float

    def __post_init__(self) -> None:
        if not 0.0 < self.absorption < math.inf:
            raise ConfigError(f"absorption must be positive, got {self.absorption:g}", hint="3 lets 5 % through")

    @property
    def value_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return torch.exp(-self.absorption * self.radon(x))


@OPERATORS.register("radon", summary="tomography with parallel or fan beams", needs="an image")
def radon(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    views: int = 60,
    arc: float = 180.0,
    detectors: int | None = None,
    spacing: float = 1.0,
    distance: float | None = None,
) -> Radon:
    """Integrals over strips from `views` angles spread evenly over `arc` degrees.

    The detector sees the whole image by default. `distance` of the source, in units of the longer side, gives a fan.
    """
    if views < 1:
        raise ConfigError(f"views must be at least 1, got {views}")
    height, width = image_size(event_shape)
    check_entries(float(views) * height * width, "the geometry")
    angles = tuple(arc * view / views for view in range(views))
    if detectors is None:
        seen = math.hypot(height, width)
        if distance is not None:  # the shadow of the circle around the image
            source = distance * max(height, width)
            seen *= source / math.sqrt(max(source**2 - seen**2 / 4, 1e-12))
        detectors = math.ceil(seen / spacing) if spacing > 0 else 1
    return Radon(angles, detectors, height, width, spacing, distance)


@OPERATORS.register("transmission", summary="share of X-rays that pass, for photon counts", needs="an image")
def transmission(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    absorption: float = 3.0,
    views: int = 60,
    arc: float = 180.0,
    detectors: int | None = None,
    spacing: float = 1.0,
    distance: float | None = None,
) -> Transmission:
    """`exp(-absorption R x)` with R as in `radon`; images of another range are mapped to [0, 1]."""
    geometry = radon(event_shape, views=views, arc=arc, detectors=detectors, spacing=spacing, distance=distance)
    return Transmission(geometry, absorption)
