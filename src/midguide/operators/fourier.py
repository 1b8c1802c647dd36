"""Masked Fourier transforms in one to three dimensions, with or without coils: magnetic resonance imaging and others.

Spectra are orthonormal and centered, as in the files of scanners. Frequency zero lies in the middle of the mask, and
position zero in the middle of the signal. A complex number is a pair (real, imaginary). In signals the pair runs along
the axis before the space, in spectra along the last axis, as `torch.view_as_real` makes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError, suggestion
from midguide.maths.rng import Rng
from midguide.maths.stationary import hartley
from midguide.operators.base import (
    OPERATORS,
    LinearOperator,
    SVDOperator,
    check_entries,
    check_rows,
    observation_streams,
)


@dataclass(frozen=True, eq=False)
class Fourier(SVDOperator):
    """`y = M F x`: some frequencies of a signal, (B, ..., *space) -> (B, ..., *space, 2).

    The singular values of a complex signal are zero and one. Those of a real signal are `sqrt((M(k) + M(-k)) / 2)`,
    since both entries of a pair of opposite frequencies say the same; V is the Hartley transform.

    Args:
        mask: which frequencies are measured, boolean, shape (*space); its axes are the last ones of the signal.
        complex_signal: whether signals are pairs, shape (2, *space); else each channel is real.
        per_observation: the mask has a leading axis with one mask for each observation.

    Raises:
        ShapeError: If the mask is not boolean or does not have one to three axes.

    Example:
        >>> mask = torch.tensor([False, False, True, False])  # frequency zero: sum / 2
        >>> Fourier(mask)(torch.ones(1, 4))[0, 2]
        tensor([2., 0.])
    """

    mask: Tensor
    complex_signal: bool = False
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("mask",)

    def __post_init__(self) -> None:
        _check_mask(self.mask, self.per_observation)

    def measured(self, y: Tensor) -> Tensor:
        return _spread(self.mask, self.per_observation, y)

    def __call__(self, x: Tensor) -> Tensor:
        _check_signal(self, x)
        y = torch.view_as_real(_forward(self._values(x), self.dimensions))
        return torch.where(self.measured(y), y, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        image = _backward(_complex(torch.where(self.measured(y), y, 0.0)), self.dimensions)
        return _pairs(image, self.dimensions) if self.complex_signal else image.real

    def singular_values(self, x: Tensor) -> Tensor:
        mask = self.mask if self.per_observation else self.mask[None]
        if self.complex_signal:
            values = mask[..., None].expand(*mask.shape, 2).to(x.dtype)
            return values.flatten(1) if self.per_observation else values.flatten()
        axes = _space(self.dimensions)
        shifted = torch.fft.ifftshift(mask, axes).to(x.dtype)
        opposite = shifted.flip(axes).roll([1] * self.dimensions, axes)
        values = ((shifted + opposite) / 2).sqrt().reshape(len(mask), *[1] * (x.ndim - mask.ndim), *mask.shape[1:])
        values = values.expand(len(mask), *x.shape[1:]).flatten(1)
        return values if self.per_observation else values[0]

    def vt(self, x: Tensor) -> Tensor:
        _check_signal(self, x)
        if self.complex_signal:
            return torch.view_as_real(_forward(self._values(x), self.dimensions)).flatten(1)
        return hartley(x, self.dimensions).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        if self.complex_signal:
            spectrum = coefficients.reshape(-1, *like.shape[2:], 2)
            return _pairs(_backward(_complex(spectrum), self.dimensions), self.dimensions)
        return hartley(coefficients.unflatten(1, like.shape[1:]), self.dimensions)

    @property
    def dimensions(self) -> int:
        """How many axes the space has."""
        return self.mask.ndim - self.per_observation

    def _values(self, x: Tensor) -> Tensor:
        """The signal as complex numbers, shape (B, *space), or as real ones, shape (B, ..., *space)."""
        return _from_pairs(x, self.dimensions) if self.complex_signal else x


@dataclass(frozen=True, eq=False)
class CoilFourier(LinearOperator):
    """`y_c = M F (S_c x)` for each coil c: parallel imaging, (B, 1 or 2, *space) -> (B, coils, *space, 2).

    Args:
        mask: which frequencies are measured, boolean, shape (*space).
        maps: sensitivity of each coil as pairs, shape (coils, *space, 2).
        complex_signal: whether signals are pairs, shape (2, *space); else they are real, shape (1, *space).
        per_observation: mask and maps have a leading axis with one entry for each observation.

    Raises:
        ShapeError: If mask and maps do not fit each other.

    Example:
        >>> maps = coil_maps(4, (8, 8))
        >>> CoilFourier(torch.ones(8, 8, dtype=torch.bool), maps, True)(torch.zeros(1, 2, 8, 8)).shape
        torch.Size([1, 4, 8, 8, 2])

    References:
        Pruessmann et al. 1999, "SENSE: sensitivity encoding for fast MRI".
    """

    mask: Tensor
    maps: Tensor
    complex_signal: bool = False
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("mask", "maps")

    def __post_init__(self) -> None:
        _check_mask(self.mask, self.per_observation)
        first = 1 if self.per_observation else 0
        if self.maps.ndim != self.mask.ndim + 2 or self.maps.shape[first + 1 :] != (*self.mask.shape[first:], 2):
            raise ShapeError(
                f"coil maps of shape {tuple(self.maps.shape)} do not fit a mask of shape {tuple(self.mask.shape)}",
                hint="maps have the shape (coils, *space, 2); torch.view_as_real makes it of complex ones",
            )

    @property
    def dimensions(self) -> int:
        """How many axes the space has."""
        return self.mask.ndim - self.per_observation

    def measured(self, y: Tensor) -> Tensor:
        return _spread(self.mask, self.per_observation, y)

    def __call__(self, x: Tensor) -> Tensor:
        _check_signal(self, x)
        image = _from_pairs(x, self.dimensions)[:, None] if self.complex_signal else x
        y = torch.view_as_real(_forward(self._sensitivities(x) * image, self.dimensions))
        return torch.where(self.measured(y), y, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        images = _backward(_complex(torch.where(self.measured(y), y, 0.0)), self.dimensions)
        image = (self._sensitivities(y).conj() * images).sum(1)
        return _pairs(image, self.dimensions) if self.complex_signal else image.real[:, None]

    def _sensitivities(self, like: Tensor) -> Tensor:
        """Complex maps, shape (1 or N, coils, *space)."""
        maps = _complex(self.maps.to(like.dtype))
        return maps if self.per_observation else maps[None]


def cartesian_mask(
    space: tuple[int, ...], acceleration: float, center: float, pattern: str, axes: int, rng: Rng
) -> Tensor:
    """Which frequencies a Cartesian scan measures: all along the first axes, some along the last `axes` of them.

    Args:
        space: shape of the signal's space.
        acceleration: one in so many frequencies is measured, at least 1.
        center: share of each of the last axes around frequency zero that is always measured.
        pattern: how the others are chosen: `random` (all alike), `gaussian` (with a density that falls with the
            frequency), `equispaced` (one axis).
        axes: how many axes are undersampled.
        rng: one stream.

    Returns:
        Boolean, shape `space`, frequency zero in the middle.

    Raises:
        ConfigError: If a setting is impossible.
    """
    if pattern not in PATTERNS:
        raise ConfigError(f"unknown pattern `{pattern}`", hint=suggestion(pattern, PATTERNS))
    if not acceleration >= 1.0 or not 0.0 <= center <= 1.0 or not 1 <= axes <= len(space):
        raise ConfigError(
            f"acceleration={acceleration:g}, center={center:g}, axes={axes} describe no mask of {len(space)} axes",
            hint="acceleration from 1, center from 0 to 1, axes from 1 to those of the signal",
        )
    if pattern == "equispaced" and axes != 1:
        raise ConfigError(f"an equispaced mask undersamples one axis, got axes={axes}", hint="take `random`")
    places = [torch.arange(size, dtype=torch.float64) - size // 2 for size in space[-axes:]]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij"))
    sizes = torch.tensor(space[-axes:], dtype=torch.float64).reshape(-1, *[1] * axes)
    inside = ((grid + 0.5).abs() <= (center * sizes).round() / 2).all(0)
    if pattern == "equispaced":
        chosen = inside | (grid[0].long() % round(acceleration) == 0)
    else:
        chosen = inside | _most_likely(grid / sizes, inside, round(inside.numel() / acceleration), pattern, rng)
    return chosen.expand(space).clone()


PATTERNS = ("random", "gaussian", "equispaced")
DENSITY_STD = 0.2
"""Standard deviation of the density of `gaussian` masks, as a share of the frequencies along an axis."""


def _most_likely(frequencies: Tensor, inside: Tensor, count: int, pattern: str, rng: Rng) -> Tensor:
    """Frequencies drawn without replacement until `count` are measured, those `inside` included.

    The largest of `log density + Gumbel noise` are such a draw (Yellott 1977).
    """
    log_density = -0.5 * (frequencies / DENSITY_STD).square().sum(0) if pattern == "gaussian" else 0.0
    noise = rng.uniform(inside[None].double())[0].clamp_min(torch.finfo(torch.float64).tiny)
    score = torch.where(inside, -torch.inf, log_density - (-noise.log()).log())
    chosen = torch.zeros(inside.numel(), dtype=torch.bool)
    chosen[score.flatten().argsort(descending=True, stable=True)[: max(0, count - int(inside.sum()))]] = True
    return chosen.reshape(inside.shape)


def coil_maps(coils: int, space: tuple[int, ...]) -> Tensor:
    """Smooth sensitivities of coils on a ring around the signal, as pairs; their squares sum to one at each place.

    A coil at `c` sees position `r` with the weight `exp(-|r - c|^2 / 1.28)` and the phase `pi r.c / 2`, in units of
    half the signal's width. In one dimension the coils lie along the axis.

    Args:
        coils: how many, at least 1.
        space: shape of the signal's space.

    Returns:
        Float64, shape (coils, *space, 2).

    Example:
        >>> maps = coil_maps(4, (8, 8))
        >>> maps.shape, bool(torch.allclose(maps.square().sum((0, -1)), torch.ones(8, 8).double()))
        (torch.Size([4, 8, 8, 2]), True)
    """
    if coils < 1:
        raise ConfigError(f"coils must be at least 1, got {coils}", hint="leave it out for a scan without coils")
    check_entries(2 * coils * math.prod(space), "the coil maps")
    places = [torch.linspace(-1, 1, size, dtype=torch.float64) for size in space]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij"), -1)
    angles = 2 * math.pi * torch.arange(coils, dtype=torch.float64) / coils
    if len(space) == 1:
        centers = torch.linspace(-1.2, 1.2, coils, dtype=torch.float64)[:, None]
    else:
        ring = 1.2 * torch.stack([angles.sin(), angles.cos()], -1)
        centers = torch.nn.functional.pad(ring, (len(space) - 2, 0))
    centers = centers.reshape(coils, *[1] * len(space), len(space))
    size = torch.exp(-(grid - centers).square().sum(-1) / 1.28)
    size = size / size.square().sum(0).sqrt()
    phase = math.pi / 2 * (grid * centers).sum(-1)
    return torch.stack([size * phase.cos(), size * phase.sin()], -1)


@OPERATORS.register("fourier", summary="some frequencies of the signal", needs="nothing")
def fourier(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    acceleration: float = 4.0,
    center: float = 0.08,
    pattern: str = "random",
    axes: int = 1,
    complex_signal: bool = False,
    count: int | None = None,
) -> Fourier:
    """Measure one in `acceleration` frequencies on a Cartesian grid; see `cartesian_mask`.

    The first of several axes are channels. Mask i comes from the stream (seed, "fourier", i); `count` is how many
    observations get a mask of their own, None for one that serves all. `complex_signal` takes two channels for the
    real and the imaginary part.
    """
    mask = _masks(event_shape, seed, acceleration, center, pattern, axes, count)
    return Fourier(mask, complex_signal, count is not None)


@OPERATORS.register(
    "fourier-coils",
    summary="some frequencies of what each coil sees: MRI",
    needs="one channel, or with complex_signal two",
)
def fourier_coils(
    event_shape: tuple[int, ...],
    *,
    seed: int = 0,
    coils: int = 8,
    acceleration: float = 4.0,
    center: float = 0.08,
    pattern: str = "random",
    axes: int = 1,
    complex_signal: bool = False,
    count: int | None = None,
) -> CoilFourier:
    """Measure one in `acceleration` frequencies through `coils` simulated sensitivities (`coil_maps`).

    The other settings are those of `fourier`, and so are the masks of a seed.
    """
    mask = _masks(event_shape, seed, acceleration, center, pattern, axes, count)
    maps = coil_maps(coils, event_shape[1:] or event_shape)
    maps = maps if count is None else maps.expand(len(mask), *maps.shape)
    return CoilFourier(mask, maps, complex_signal, count is not None)


def _masks(
    event_shape: tuple[int, ...],
    seed: int,
    acceleration: float,
    center: float,
    pattern: str,
    axes: int,
    count: int | None,
) -> Tensor:
    """The mask of all observations, shape (*space), or one for each, shape (count, *space)."""
    masks = [
        cartesian_mask(event_shape[1:] or event_shape, acceleration, center, pattern, axes, rng)
        for rng in observation_streams(seed, "fourier", count)
    ]
    return masks[0] if count is None else torch.stack(masks)


def _check_mask(mask: Tensor, per_observation: bool) -> None:
    if mask.dtype != torch.bool or not 1 <= mask.ndim - per_observation <= 3:
        raise ShapeError(
            f"expected a boolean mask of one to three axes, got {mask.dtype} {tuple(mask.shape)}",
            hint="True where a frequency is measured, frequency zero in the middle; per_observation adds an axis",
        )


def _check_signal(operator: Fourier | CoilFourier, x: Tensor) -> None:
    """Refuse signals of another space than the mask's, or with channels that are neither real nor complex numbers."""
    check_rows(operator, x)
    space = tuple(operator.mask.shape[operator.per_observation :])
    channels = tuple(x.shape[1 : x.ndim - len(space)])
    wanted = {(2,)} if operator.complex_signal else {(1,)} if isinstance(operator, CoilFourier) else {channels}
    if tuple(x.shape[x.ndim - len(space) :]) != space or x.ndim <= len(space) or channels not in wanted:
        raise ShapeError(
            f"{'complex' if operator.complex_signal else 'real'} signals of space {space} do not have the shape "
            f"{tuple(x.shape[1:])}",
            hint="two channels, real and imaginary part" if operator.complex_signal else "a channel, then the space",
        )


def _space(dimensions: int) -> tuple[int, ...]:
    """The last axes."""
    return tuple(range(-dimensions, 0))


def _forward(x: Tensor, dimensions: int) -> Tensor:
    axes = _space(dimensions)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def _backward(y: Tensor, dimensions: int) -> Tensor:
    axes = _space(dimensions)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(y, axes), dim=axes, norm="ortho"), axes)


def _complex(y: Tensor) -> Tensor:
    """Complex numbers of pairs along the last axis."""
    return torch.view_as_complex(y.contiguous())


def _from_pairs(x: Tensor, dimensions: int) -> Tensor:
    """Complex numbers of a signal of pairs, (B, 2, *space) -> (B, *space)."""
    return torch.complex(*x.unbind(-1 - dimensions))


def _pairs(z: Tensor, dimensions: int) -> Tensor:
    """The signal of pairs of complex numbers, (B, *space) -> (B, 2, *space)."""
    return torch.stack([z.real, z.imag], -1 - dimensions)


def _spread(mask: Tensor, per_observation: bool, y: Tensor) -> Tensor:
    """The mask, shaped to broadcast over spectra y, shape (B, ..., *space, 2)."""
    mask = (mask if per_observation else mask[None])[..., None]
    return mask.reshape(len(mask), *[1] * (y.ndim - mask.ndim), *mask.shape[1:])
