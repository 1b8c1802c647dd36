"""Separable blurs, which have a singular value decomposition made of two small ones, whatever their border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import OPERATORS, image_size
from midguide.operators.blur import ReflectBlur, check_fits, scaled_gaussian
from midguide.operators.matrix import Matrix
from midguide.operators.separable import Separable


@dataclass(frozen=True, eq=False)
class SeparableBlur(Separable):
    """Convolution of columns and rows with two kernels, as a `Separable` operator.

    Build it with `SeparableBlur.create`, which sees zeros beyond the border, or with `SeparableBlur.reflected`, which
    mirrors the image there.

    Example:
        >>> kernel = torch.tensor([0.25, 0.5, 0.25])
        >>> SeparableBlur.create(kernel, kernel, 8, 16)(torch.ones(1, 3, 8, 16)).shape
        torch.Size([1, 3, 8, 16])
    """

    @classmethod
    def create(cls, kernel_y: Tensor, kernel_x: Tensor, height: int, width: int, *, cut: float = 0.0) -> Self:
        """Convolve columns with `kernel_y` and rows with `kernel_x`, zeros beyond the border.

        Args:
            kernel_y: shape (kh,), kh <= height.
            kernel_x: shape (kw,), kw <= width.
            height: rows of the images.
            width: columns of the images.
            cut: singular values of either factor below it are set to zero, in the operator as well.

        Raises:
            ShapeError: If a kernel has several axes or is larger than the image.
        """
        _check_kernels(kernel_y, kernel_x, height, width)
        return cls(
            Matrix.create(_toeplitz(kernel_y, height), (height,), cut=cut),
            Matrix.create(_toeplitz(kernel_x, width), (width,), cut=cut),
        )

    @classmethod
    def reflected(cls, kernel_y: Tensor, kernel_x: Tensor, height: int, width: int) -> Self:
        """The `ReflectBlur` with the kernel `outer(kernel_y, kernel_x)`; arguments as in `create`."""
        _check_kernels(kernel_y, kernel_x, height, width)
        return cls(
            Matrix.create(_mirrored(kernel_y, height), (height,)),
            Matrix.create(_mirrored(kernel_x, width), (width,)),
        )


@OPERATORS.register(
    "gaussian-blur", summary="Gaussian blur, reflect padding", needs="an image not smaller than the kernel"
)
def gaussian_blur(
    event_shape: tuple[int, ...], *, seed: int = 0, std: float = 3.0, truncate: float = 4.0
) -> SeparableBlur:
    """Gaussian blur, reflect padding; `std` is in pixels of a 256x256 image and scales with the shorter side.

    Its decomposition is exact, down to the smallest singular values. Where nothing accounts for the noise, as in the
    pseudo-inverse, take `gaussian-blur-separable`, which cuts them.
    """
    kernel = scaled_gaussian(event_shape, std, truncate)
    return SeparableBlur.reflected(kernel, kernel, *image_size(event_shape))


@OPERATORS.register(
    "gaussian-blur-separable",
    summary="Gaussian blur, zero padding, small singular values cut",
    needs="an image not smaller than the kernel",
)
def gaussian_blur_separable(
    event_shape: tuple[int, ...], *, seed: int = 0, std: float = 3.0, truncate: float = 4.0, cut: float = 0.03
) -> SeparableBlur:
    """Gaussian blur, zero padding, 1-D singular values below `cut` set to zero; `std` as in `gaussian_blur`."""
    if not 0.0 <= cut < 1.0:
        raise ConfigError(
            f"cut must be in [0, 1), got {cut:g}", hint="singular values are at most 1; 0.03 in the MGPS paper"
        )
    kernel = scaled_gaussian(event_shape, std, truncate)
    return SeparableBlur.create(kernel, kernel, *image_size(event_shape), cut=cut)


def _check_kernels(kernel_y: Tensor, kernel_x: Tensor, height: int, width: int) -> None:
    for kernel in (kernel_y, kernel_x):
        if kernel.ndim != 1:
            raise ShapeError(
                f"expected a kernel of one axis, got {tuple(kernel.shape)}",
                hint="one for each axis of the image",
            )
    check_fits((len(kernel_y), len(kernel_x)), (height, width))


def _toeplitz(kernel: Tensor, size: int) -> Tensor:
    """The matrix of a 1-D convolution with zeros beyond the border, shape (size, size)."""
    index = torch.arange(size)
    offset = index[:, None] - index[None] + len(kernel) // 2
    inside = (offset >= 0) & (offset < len(kernel))
    return torch.where(inside, kernel.double()[offset.clamp(0, len(kernel) - 1)], 0.0)


def _mirrored(kernel: Tensor, size: int) -> Tensor:
    """The matrix of a 1-D convolution that mirrors the signal at its borders, shape (size, size)."""
    basis = torch.eye(size, dtype=torch.float64)[..., None]
    return ReflectBlur(kernel.double()[:, None])(basis)[..., 0].mT
