"""Baselines for inpainting that know nothing of the prior: what a posterior sampler must beat in the hidden pixels.

They are not samplers: each gives one fill, and neither claims an uncertainty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.maths.linalg import conjugate_gradients

# Relative residual. The condition number of the Laplacian is about 1e5 for half of a 256x256 image, so that the fill
# is right to about 1e-7 of the contrast.
TOLERANCE = 1e-12


def mean_fill(y: Tensor, mask: Tensor) -> Tensor:
    """Baseline: every hidden pixel gets the mean of the measured ones, for each image and channel.

    Args:
        y: images, shape (B, C, H, W); what stands in hidden pixels is ignored.
        mask: boolean, true where y is measured; broadcasts to y, e.g. (H, W) or `operator.measured(y)`.

    Returns:
        Images, shape (B, C, H, W), equal to y where it is measured.

    Raises:
        ShapeError: If y is not a batch of images, the mask is not boolean or does not broadcast, or nothing is measured
            in a channel of an image.

    Example:
        >>> mean_fill(torch.tensor([[[[1.0, 3.0, 9.0]]]]), torch.tensor([True, True, False]))
        tensor([[[[1., 3., 2.]]]])
    """
    mask = _full_mask(y, mask)
    return torch.where(mask, y, _measured_mean(y, mask).to(y.dtype))


def harmonic_fill(y: Tensor, mask: Tensor) -> Tensor:
    """Baseline: hidden pixels solve the Laplace equation, with the measured ones as Dirichlet data.

    Every hidden pixel is the mean of its neighbors, up to four. At the border of the image those outside do not count,
    which is the Neumann condition. It is the smoothest fill: the one of least `sum (u_p - u_q)^2` over neighbors.
    Solved by conjugate gradients in float64, each image and channel on its own, to a relative residual of 1e-12.

    Args:
        y: images, shape (B, C, H, W); what stands in hidden pixels is ignored.
        mask: boolean, true where y is measured; broadcasts to y, e.g. (H, W) or `operator.measured(y)`.

    Returns:
        Images, shape (B, C, H, W), equal to y where it is measured.

    Raises:
        ShapeError: If `mean_fill` would raise it.

    Example:
        >>> harmonic_fill(torch.tensor([[[[1.0, 0.0, 3.0]]]]), torch.tensor([True, False, True]))
        tensor([[[[1., 2., 3.]]]])

    References: the zero-Laplacian case of Perez, Gangnet, Blake 2003, "Poisson image editing", SIGGRAPH.
    """
    mask = _full_mask(y, mask)
    mean = _measured_mean(y, mask)  # adding a constant commutes with the fill; zero is then a good first guess
    known = torch.where(mask, y.double() - mean, 0.0).flatten(0, 1)
    hidden = (~mask).flatten(0, 1)
    fill = conjugate_gradients(
        lambda u: torch.where(hidden, _laplacian(u), 0.0),
        -torch.where(hidden, _laplacian(known), 0.0),
        tolerance=TOLERANCE,
        max_iterations=known[0].numel(),
    )
    return torch.where(mask, y, (fill.unflatten(0, y.shape[:2]) + mean).to(y.dtype))


def _full_mask(y: Tensor, mask: Tensor) -> Tensor:
    """The mask in the shape of `y`."""
    if y.ndim != 4 or not y.is_floating_point():
        raise ShapeError(f"y must be floating point of shape (B, C, H, W), got {y.dtype} of shape {tuple(y.shape)}")
    if mask.dtype != torch.bool:
        raise ShapeError(f"a mask must be boolean, got {mask.dtype}", hint="for example: mask > 0.5")
    try:
        full = mask.to(y.device).expand(y.shape)
    except RuntimeError as error:
        raise ShapeError(f"a mask of shape {tuple(mask.shape)} does not broadcast to {tuple(y.shape)}") from error
    if not bool(full.flatten(2).any(2).all()):
        raise ShapeError("nothing is measured in a channel of an image: there is nothing to fill from")
    return full


def _measured_mean(y: Tensor, mask: Tensor) -> Tensor:
    """Mean of the measured pixels, in float64, shape (B, C, 1, 1)."""
    total = torch.where(mask, y.double(), 0.0).sum((2, 3), keepdim=True)
    return total / mask.sum((2, 3), keepdim=True)


def _laplacian(u: Tensor) -> Tensor:
    """`sum over neighbors q of (u_p - u_q)` at each pixel p of images (N, H, W): positive semi-definite."""
    down, right = u.diff(dim=1), u.diff(dim=2)
    result = torch.zeros_like(u)
    result[:, 1:] += down
    result[:, :-1] -= down
    result[:, :, 1:] += right
    result[:, :, :-1] -= right
    return result
