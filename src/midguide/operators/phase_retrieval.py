"""Phase retrieval: the instrument sees the modulus of the Fourier transform, not its phase."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.operators.base import OPERATORS, Operator, image_size

MOST = 64.0
"""Oversampling at which 256 pixels become 4,352."""


@dataclass(frozen=True, eq=False)
class PhaseRetrieval(Operator):
    """`y = |F P (x + 1) / 2|` for each channel: x to [0, 1], zeros around it (P), orthonormal Fourier transform F.

    The lowest frequency stands in the center of y. An image and the same image rotated by 180 degrees have the same y.
    So have its translations, where the image has a dark border. So the posterior has several modes.

    At zero modulus the derivative of |z| does not exist; here it is zero, the subgradient of least norm, which is what
    torch gives. All derivatives are finite.

    Args:
        pad: rows of zeros above and below, columns of zeros left and right.

    Raises:
        ConfigError: If a padding is negative.

    Example:
        >>> PhaseRetrieval((2, 2))(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 12, 12])
    """

    pad: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.pad) < 0:
            raise ConfigError(
                f"the padding cannot be negative, got {self.pad}", hint="a quarter of a side in the papers"
            )

    @property
    def value_range(self) -> tuple[float, float]:
        return -1.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        height, width = image_size(tuple(x.shape[1:]))
        rows, columns = self.pad
        size = (height + 2 * rows, width + 2 * columns)
        # Where the image stands within the zeros changes phases only: fft2 may append them all at its end.
        transform = torch.fft.fft2((x + 1) / 2, s=size, norm="ortho")
        return torch.fft.fftshift(transform, dim=(-2, -1)).abs()


@OPERATORS.register(
    "phase-retrieval",
    summary="modulus of the Fourier transform of the padded image; values in the prior's range, else -1 to 1",
    needs="an image",
)
def phase_retrieval(event_shape: tuple[int, ...], *, seed: int = 0, oversampling: float = 2.0) -> PhaseRetrieval:
    """Modulus of the Fourier transform; each side of the image is padded by `oversampling / 8` of its length.

    That is the literature's use of the word: at 2, 256 pixels become 384.
    """
    height, width = image_size(event_shape)
    if not 0.0 <= oversampling <= MOST:
        raise ConfigError(f"oversampling must be from 0 to {MOST:g}, got {oversampling:g}", hint="the papers take 2")
    return PhaseRetrieval((round(oversampling / 8 * height), round(oversampling / 8 * width)))
