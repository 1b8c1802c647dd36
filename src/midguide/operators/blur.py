"""Blurs: convolutions `y[i] = sum_k kernel[k] x[i - k + centre]` with the centre at half the kernel's size.

`CircularBlur` wraps around at the border and has a singular value decomposition; `ReflectBlur` mirrors the image
without repeating its edge. Both act on the last two axes of events of shape (..., H, W), with any number of channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import (
    OPERATORS,
    LinearOperator,
    SVDOperator,
    check_rows,
    image_size,
    observation_streams,
    scaled,
)
from midguide.operators.motion_kernel import motion_kernel

IMAGE = (-2, -1)


def gaussian_kernel(std: float, truncate: float = 4.0) -> Tensor:
    """Samples of a Gaussian that sum to one, cut at `truncate` standard deviations, float64, shape (2 r + 1,).

    Args:
        std: standard deviation in pixels.
        truncate: radius in standard deviations, `r = round(truncate * std)`.

    Raises:
        ConfigError: one of them is not positive.

    Example:
        >>> len(gaussian_kernel(3.0))
        25
    """
    if not (std > 0.0 and truncate > 0.0):
        raise ConfigError(
            f"std and truncate must be positive, got {std:g} and {truncate:g}",
            hint="where operators have names, std is that of a 256x256 image: std=3 and truncate=4 in the MGPS paper",
        )
    radius = int(truncate * std + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / std) ** 2)
    return weights / weights.sum()


@dataclass(frozen=True, eq=False)
class CircularBlur(SVDOperator):
    """Convolution that wraps around: `y = F^-1 (t F x)` with t the Fourier transform of the kernel.

    `A^T A` is an even convolution, so the Hartley transform `cas = cos + sin`, which is real, orthogonal and its own
    inverse, is V; the singular values are |t|, and `U = F^-1 (t / |t|) F V`.

    Args:
        kernel: shape (kh, kw), not larger than the image.
        per_observation: the kernel has a leading axis with one kernel for each observation.

    Raises:
        ShapeError: the kernel is larger than the image.

    Example:
        >>> CircularBlur(torch.full((1, 3), 1 / 3))(torch.tensor([[[3.0, 0.0, 0.0, 0.0]]])).round()
        tensor([[[1., 1., 0., 1.]]])
    """

    kernel: Tensor
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self) -> None:
        _check_kernel(self.kernel, self.per_observation)

    def __call__(self, x: Tensor) -> Tensor:
        return _filter(x, self._transfer(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return _filter(y, self._transfer(y).conj())

    def singular_values(self, x: Tensor) -> Tensor:
        values = self._transfer(x).abs()
        values = values.expand(len(values), *x.shape[1:]).flatten(1)
        return values if self.per_observation else values[0]

    def vt(self, x: Tensor) -> Tensor:
        return _hartley(x).flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return _hartley(coefficients.unflatten(1, like.shape[1:]))

    def ut(self, y: Tensor) -> Tensor:
        coefficients = self.vt(_filter(y, self._transfer(y).sgn().conj()))
        return torch.where(self.singular_values(y) > 0, coefficients, 0.0)

    def _transfer(self, x: Tensor) -> Tensor:
        """The transfer function, exactly zero where it is zero up to rounding."""
        check_rows(self, x)
        check_fits(tuple(self.kernel.shape[-2:]), image_size(tuple(x.shape[1:])))
        transfer = _transfer(self.kernel, x)
        size = transfer.abs()
        cut = 10 * torch.finfo(size.dtype).eps * size.amax((-2, -1), keepdim=True)
        return torch.where(size > cut, transfer, 0.0)


@dataclass(frozen=True, eq=False)
class ReflectBlur(LinearOperator):
    """Convolution that mirrors the image at its borders (c b | a b c d | c b): pad, convolve, crop.

    Args:
        kernel: shape (kh, kw), not larger than the image.
        per_observation: the kernel has a leading axis with one kernel for each observation.

    Raises:
        ShapeError: the kernel is larger than the image.

    Example:
        >>> ReflectBlur(torch.full((1, 3), 1 / 3))(torch.tensor([[[0.0, 3.0, 0.0]]])).round()
        tensor([[[2., 1., 2.]]])
    """

    kernel: Tensor
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self) -> None:
        _check_kernel(self.kernel, self.per_observation)

    def __call__(self, x: Tensor) -> Tensor:
        pads = self._pads(x)
        for dim, pad in zip(IMAGE, pads, strict=True):
            x = _reflect(x, pad, dim)
        y = _filter(x, _transfer(self.kernel, x))
        for dim, pad in zip(IMAGE, pads, strict=True):
            y = y.narrow(dim, pad, y.shape[dim] - 2 * pad)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        rows, columns = self._pads(y)
        y = torch.nn.functional.pad(y, (columns, columns, rows, rows))
        x = _filter(y, _transfer(self.kernel, y).conj())
        for dim, pad in zip(IMAGE, (rows, columns), strict=True):
            x = _fold(x, pad, dim)
        return x

    def _pads(self, x: Tensor) -> tuple[int, int]:
        check_rows(self, x)
        height, width = self.kernel.shape[-2:]
        check_fits((height, width), image_size(tuple(x.shape[1:])))
        return height // 2, width // 2


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
    """Gaussian blur that wraps around; `std` is that of a 256x256 image and scales with the image's shorter side."""
    kernel = scaled_gaussian(event_shape, std, truncate)
    return CircularBlur(torch.outer(kernel, kernel))


@OPERATORS.register(
    "motion-blur", summary="blur by camera shake, reflect padding", needs="an image not smaller than the kernel"
)
def motion_blur(
    event_shape: tuple[int, ...], *, seed: int = 0, size: float = 61.0, intensity: float = 0.5, count: int | None = None
) -> ReflectBlur:
    """Blur by camera shake, reflect padding; `size` is the kernel's side in a 256x256 image and scales as `std` does.

    Sides are rounded to odd numbers. Such blurs nearly erase some patterns: where the pseudo-inverse is asked for
    without regard to the noise, conjugate gradients stop before it is reached. Kernel i comes from the stream
    (seed, "motion-blur", i); `count` is how many observations get a kernel of their own, None for one that serves all.
    """
    if not size > 0.0:
        raise ConfigError(
            f"size must be positive, got {size:g}",
            hint="the kernel's side in a 256x256 image: 61 in the MGPS paper",
        )
    side = 2 * round((scaled(size, min(image_size(event_shape))) - 1) / 2) + 1
    kernels = [motion_kernel(side, intensity, rng) for rng in observation_streams(seed, "motion-blur", count)]
    return ReflectBlur(kernels[0]) if count is None else ReflectBlur(torch.stack(kernels), per_observation=True)


def scaled_gaussian(event_shape: tuple[int, ...], std: float, truncate: float) -> Tensor:
    """A Gaussian kernel whose `std` is given for a 256x256 image and scales with the shorter side."""
    return gaussian_kernel(scaled(std, min(image_size(event_shape))), truncate)


def _check_kernel(kernel: Tensor, per_observation: bool) -> None:
    if kernel.ndim != 2 + per_observation or not kernel.is_floating_point() or kernel.numel() == 0:
        raise ShapeError(
            f"expected a real kernel of shape {'(N, kh, kw)' if per_observation else '(kh, kw)'}, "
            f"got {tuple(kernel.shape)} {kernel.dtype}",
            hint="per_observation=True takes one kernel for each observation",
        )


def _transfer(kernel: Tensor, x: Tensor) -> Tensor:
    """Fourier transform of the kernel on the grid of x, its centre at the origin, shape (1 or N, ..., H, W)."""
    wrap = []
    for size, length in zip(image_size(tuple(x.shape[1:])), kernel.shape[-2:], strict=True):
        place = (torch.arange(length, device=x.device) - length // 2) % size
        wrap.append(torch.nn.functional.one_hot(place, size).to(x.dtype))
    transfer = torch.fft.fft2(wrap[0].mT @ kernel.to(x) @ wrap[1])
    return transfer.reshape(-1, *[1] * (x.ndim - 3), *transfer.shape[-2:])


def _filter(x: Tensor, transfer: Tensor) -> Tensor:
    """`F^-1 (transfer F x)`, real because the transfer function is that of a real kernel."""
    half = transfer[..., : x.shape[-1] // 2 + 1]
    return torch.fft.irfft2(torch.fft.rfft2(x) * half, s=x.shape[-2:])


def _hartley(x: Tensor) -> Tensor:
    """Orthonormal Hartley transform of each channel: `sum_n x_n cas(2 pi (u n_y / H + v n_x / W)) / sqrt(H W)`."""
    transform = torch.fft.fft2(x, norm="ortho")
    return transform.real - transform.imag


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
