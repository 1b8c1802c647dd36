"""Blurs: convolutions `y[i] = sum_k kernel[k] x[i - k + center]` with the center at half the kernel's size.

`CircularBlur` wraps around at the border and has a singular value decomposition. `ReflectBlur` mirrors the image
without repeating its edge. `ZeroBlur` takes it for zero outside. A kernel acts on as many of the last axes as it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths.stationary import hartley
from midguide.operators.base import (
    LARGEST,
    OPERATORS,
    LinearOperator,
    SVDOperator,
    check_entries,
    check_rows,
    image_size,
    observation_streams,
    scaled,
)
from midguide.operators.motion_kernel import motion_kernel


def gaussian_kernel(std: float, truncate: float = 4.0) -> Tensor:
    """Samples of a Gaussian that sum to one, cut at `truncate` standard deviations, float64, shape (2 r + 1,).

    Args:
        std: standard deviation in pixels.
        truncate: radius in standard deviations, `r = round(truncate * std)`.

    Raises:
        ConfigError: If one of them is not positive.

    Example:
        >>> len(gaussian_kernel(3.0))
        25
    """
    if not (std > 0.0 and truncate > 0.0):
        raise ConfigError(
            f"std and truncate must be positive, got {std:g} and {truncate:g}",
            hint="where operators have names, std is that of a 256x256 image: std=3 and truncate=4 in the MGPS paper",
        )
    check_entries(2 * truncate * std, "the kernel")
    radius = int(truncate * std + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / std) ** 2)
    return weights / weights.sum()


@dataclass(frozen=True, eq=False)
class CircularBlur(SVDOperator):
    """Convolution that wraps around: `y = F^-1 (t F x)` with t the Fourier transform of the kernel.

    `A^T A` is an even convolution. So V is the Hartley transform `cas = cos + sin`, which is real, orthogonal and its
    own inverse. The singular values are |t|, and `U = F^-1 (t / |t|) F V`.

    Args:
        kernel: shape (kh, kw), not larger than the image; (k,) for signals, (kd, kh, kw) for volumes.
        per_observation: the kernel has a leading axis with one kernel for each observation.
        per_channel: the kernel has an axis before its last ones with one kernel for each channel.

    Raises:
        ShapeError: If the kernel is larger than the image.

    Example:
        >>> CircularBlur(torch.full((1, 3), 1 / 3))(torch.tensor([[[3.0, 0.0, 0.0, 0.0]]])).round()
        tensor([[[1., 1., 0., 1.]]])
    """

    kernel: Tensor
    per_observation: bool = False
    per_channel: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self) -> None:
        _check_kernel(self)

    def __call__(self, x: Tensor) -> Tensor:
        return _filter(x, self._transfer(x), _dimensions(self))

    def adjoint(self, y: Tensor) -> Tensor:
        return _filter(y, self._transfer(y).conj(), _dimensions(self))

    def singular_values(self, x: Tensor) -> Tensor:
        values = self._transfer(x).abs()
        values = values.expand(len(values), *x.shape[1:]).flatten(1)
        return values if self.per_observation else values[0]

    def vt(self, x: Tensor) -> Tensor:
        return hartley(x, _dimensions(self)).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return hartley(coefficients.unflatten(1, like.shape[1:]), _dimensions(self))

    def ut(self, y: Tensor) -> Tensor:
        coefficients = self.vt(_filter(y, self._transfer(y).sgn().conj(), _dimensions(self)))
        return torch.where(self.singular_values(y) > 0, coefficients, 0.0)

    def _transfer(self, x: Tensor) -> Tensor:
        """The transfer function, exactly zero where it is zero up to rounding."""
        _pads(self, x)
        transfer = _transfer(self, x)
        size = transfer.abs()
        cut = 10 * torch.finfo(size.dtype).eps * size.amax(_space(_dimensions(self)), keepdim=True)
        return torch.where(size > cut, transfer, 0.0)


@dataclass(frozen=True, eq=False)
class ReflectBlur(LinearOperator):
    """Convolution that mirrors the image at its borders (c b | a b c d | c b): pad, convolve, crop.

    Args:
        kernel: shape (kh, kw), not larger than the image; (k,) for signals, (kd, kh, kw) for volumes.
        per_observation: the kernel has a leading axis with one kernel for each observation.
        per_channel: the kernel has an axis before its last ones with one kernel for each channel.

    Raises:
        ShapeError: If the kernel is larger than the image.

    Example:
        >>> ReflectBlur(torch.full((1, 3), 1 / 3))(torch.tensor([[[0.0, 3.0, 0.0]]])).round()
        tensor([[[2., 1., 2.]]])
    """

    kernel: Tensor
    per_observation: bool = False
    per_channel: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self) -> None:
        _check_kernel(self)

    def __call__(self, x: Tensor) -> Tensor:
        pads = _pads(self, x)
        for dim, pad in pads.items():
            x = _reflect(x, pad, dim)
        return _cropped(_filter(x, _transfer(self, x), _dimensions(self)), pads)

    def adjoint(self, y: Tensor) -> Tensor:
        pads = _pads(self, y)
        y = _padded(y, pads)
        x = _filter(y, _transfer(self, y).conj(), _dimensions(self))
        for dim, pad in pads.items():
            x = _fold(x, pad, dim)
        return x


@dataclass(frozen=True, eq=False)
class ZeroBlur(LinearOperator):
    """Convolution of an image that is zero outside: pad, convolve, crop.

    Args:
        kernel: shape (kh, kw), not larger than the image; (k,) for signals, (kd, kh, kw) for volumes.
        per_observation: the kernel has a leading axis with one kernel for each observation.
        per_channel: the kernel has an axis before its last ones with one kernel for each channel.

    Raises:
        ShapeError: If the kernel is larger than the image.

    Example:
        >>> ZeroBlur(torch.full((3,), 1 / 3))(torch.tensor([[0.0, 3.0, 3.0]])).round()
        tensor([[1., 2., 2.]])
    """

    kernel: Tensor
    per_observation: bool = False
    per_channel: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self) -> None:
        _check_kernel(self)

    def __call__(self, x: Tensor) -> Tensor:
        pads = _pads(self, x)
        x = _padded(x, pads)
        return _cropped(_filter(x, _transfer(self, x), _dimensions(self)), pads)

    def adjoint(self, y: Tensor) -> Tensor:
        pads = _pads(self, y)
        y = _padded(y, pads)
        return _cropped(_filter(y, _transfer(self, y).conj(), _dimensions(self)), pads)


Blur = CircularBlur | ReflectBlur | ZeroBlur


def check_fits(kernel: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Refuse a kernel that is larger than the image along some axis."""
    if any(side > size for side, size in zip(kernel, image, strict=True)):
        sides, sizes = ("x".join(map(str, shape)) for shape in (kernel, image))
        raise ShapeError(
            f"a kernel of {sides} is larger than the image of {sizes}",
            hint="take a smaller one; where operators have names, std and size are those of a 256x256 image",
        )


@OPERATORS.register(
    "gaussian-blur-circular", summary="Gaussian blur, wraps around", needs="an image not smaller than the kernel"
)
def gaussian_blur_circular(
    event_shape: tuple[int, ...], *, seed: int = 0, std: float = 3.0, truncate: float = 4.0
) -> CircularBlur:
    """Gaussian blur that wraps around; `std` is in pixels of a 256x256 image and scales with the shorter side."""
    kernel = scaled_gaussian(event_shape, std, truncate)
    return CircularBlur(torch.outer(kernel, kernel))


@OPERATORS.register(
    "motion-blur", summary="blur by camera shake, reflect padding", needs="an image not smaller than the kernel"
)
def motion_blur(
    event_shape: tuple[int, ...], *, seed: int = 0, size: float = 61.0, intensity: float = 0.5, count: int | None = None
) -> ReflectBlur:
    """Blur by camera shake, reflect padding; `size` is the kernel's side in a 256x256 image and scales as `std` does.

    It rounds sides to odd numbers. Such blurs nearly erase some patterns: where the pseudo-inverse is asked for without
    regard to the noise, conjugate gradients stop before it is reached. Kernel i comes from the stream (seed,
    "motion-blur", i); `count` is how many observations get a kernel of their own, None for one that serves all.
    """
    if not size > 0.0:
        raise ConfigError(
            f"size must be positive, got {size:g}",
            hint="the kernel's side in a 256x256 image: 61 in the MGPS paper",
        )
    side = 2 * round((min(scaled(size, min(image_size(event_shape))), LARGEST) - 1) / 2) + 1
    check_fits((side, side), image_size(event_shape))
    kernels = [motion_kernel(side, intensity, rng) for rng in observation_streams(seed, "motion-blur", count)]
    return ReflectBlur(kernels[0]) if count is None else ReflectBlur(torch.stack(kernels), per_observation=True)


def scaled_gaussian(event_shape: tuple[int, ...], std: float, truncate: float) -> Tensor:
    """A Gaussian kernel whose `std` is given for a 256x256 image and scales with the shorter side."""
    size = image_size(event_shape)
    width = scaled(std, min(size))
    if width > 0.0 and truncate > 0.0:  # before a kernel of any size is made
        side = 2 * round(min(truncate * width, LARGEST)) + 1
        check_fits((side, side), size)
    return gaussian_kernel(width, truncate)


def _dimensions(blur: Blur) -> int:
    """How many axes the kernel acts on."""
    return blur.kernel.ndim - blur.per_observation - blur.per_channel


def _space(dimensions: int) -> tuple[int, ...]:
    """The last axes."""
    return tuple(range(-dimensions, 0))


def _check_kernel(blur: Blur) -> None:
    kernel = blur.kernel
    if not 1 <= _dimensions(blur) <= 3 or not kernel.is_floating_point() or kernel.numel() == 0:
        leading = "".join("NC"[i] + ", " for i, given in enumerate((blur.per_observation, blur.per_channel)) if given)
        raise ShapeError(
            f"expected a real kernel of shape ({leading}kh, kw), got {tuple(kernel.shape)} {kernel.dtype}",
            hint="(k,) for signals, (kd, kh, kw) for volumes; per_observation and per_channel each add a first axis",
        )


def _pads(blur: Blur, x: Tensor) -> dict[int, int]:
    """How far the kernel reaches over the border, by axis; refuses images that it does not fit."""
    check_rows(blur, x)
    axes = _space(_dimensions(blur))
    channels = x.shape[1 : x.ndim - len(axes)]
    own = blur.kernel.shape[blur.kernel.ndim - len(axes) - 1 : blur.kernel.ndim - len(axes)]
    # a volume has channels, so that an image with channels is not taken for one
    if x.ndim <= len(axes) or (len(axes) == 3 and not channels) or (blur.per_channel and channels != own):
        raise ShapeError(
            f"a kernel of shape {tuple(blur.kernel.shape)} does not fit events of shape {tuple(x.shape[1:])}",
            hint="(k,) for signals, (kh, kw) for images, (kd, kh, kw) for volumes (channels, depth, height, width)",
        )
    check_fits(tuple(blur.kernel.shape[-len(axes) :]), tuple(x.shape[-len(axes) :]))
    return {axis: blur.kernel.shape[axis] // 2 for axis in axes}


def _padded(x: Tensor, pads: dict[int, int]) -> Tensor:
    """x with zeros around."""
    return torch.nn.functional.pad(x, [pad for dim in reversed(pads) for pad in (pads[dim], pads[dim])])


def _cropped(x: Tensor, pads: dict[int, int]) -> Tensor:
    """The inverse of `_padded`."""
    for dim, pad in pads.items():
        x = x.narrow(dim, pad, x.shape[dim] - 2 * pad)
    return x


def _transfer(blur: Blur, x: Tensor) -> Tensor:
    """Fourier transform of the kernel on the grid of x, its center at the origin, shape (1 or N, ..., *sizes)."""
    axes = _space(_dimensions(blur))
    sizes, lengths = x.shape[-len(axes) :], blur.kernel.shape[-len(axes) :]
    room = [end for size, length in reversed(list(zip(sizes, lengths, strict=True))) for end in (0, size - length)]
    kernel = torch.nn.functional.pad(blur.kernel.to(x), room).roll([-(length // 2) for length in lengths], axes)
    transfer = torch.fft.fftn(kernel, dim=axes)
    count = len(transfer) if blur.per_observation else 1
    channels = transfer.shape[-1 - len(axes) : -len(axes)] if blur.per_channel else ()
    return transfer.reshape(count, *[1] * (x.ndim - 1 - len(axes) - len(channels)), *channels, *sizes)


def _filter(x: Tensor, transfer: Tensor, dimensions: int) -> Tensor:
    """`F^-1 (transfer F x)`, real because the transfer function is that of a real kernel."""
    axes = _space(dimensions)
    half = transfer[..., : x.shape[-1] // 2 + 1]
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * half, s=x.shape[-dimensions:], dim=axes)


def _reflect(x: Tensor, pad: int, dim: int) -> Tensor:
    """Mirror `pad` entries at both ends without repeating the edge; unlike torch's, repeatable on a GPU."""
    n = x.shape[dim]
    before, after = x.narrow(dim, 1, pad), x.narrow(dim, n - 1 - pad, pad)
    return torch.cat([before.flip(dim), x, after.flip(dim)], dim)


def _fold(x: Tensor, pad: int, dim: int) -> Tensor:
    """The adjoint of `_reflect`: add what was mirrored to where it came from."""
    n = x.shape[dim] - 2 * pad
    core = x.narrow(dim, pad, n).clone()
    core.narrow(dim, 1, pad).add_(x.narrow(dim, 0, pad).flip(dim))
    core.narrow(dim, n - 1 - pad, pad).add_(x.narrow(dim, pad + n, pad).flip(dim))
    return core
