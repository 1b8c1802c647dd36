"""How close an image is to the truth: PSNR and SSIM, one number per image, never reduced over the batch.

Protocol: clamp both images to the value range and scale them to [0, 1]. The data range is 1, and all computation is in
float64. Three channels count as they are, without conversion to luma.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midguide.errors import ConfigError, NumericalError, ShapeError

WINDOW = 11
WINDOW_STD = 1.5
K1, K2 = 0.01, 0.03


def psnr(x: Tensor, truth: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Peak signal-to-noise ratio of each image, `10 log10(1 / mean((x - truth)^2))` on [0, 1], in decibels.

    Args:
        x: images, shape (B, C, H, W), clamped to `value_range`.
        truth: what they should be, shape (B, C, H, W), or (1, C, H, W) for one truth of all.
        value_range: black and white.

    Returns:
        Decibels, float64, shape (B,); infinity where an image equals its truth.

    Raises:
        ShapeError: If the shapes are not images or do not agree.
        NumericalError: If an image holds NaN or infinity.

    Example:
        >>> psnr(torch.full((1, 3, 8, 8), 0.2), torch.zeros(1, 3, 8, 8)).round(decimals=6)
        tensor([20.], dtype=torch.float64)
    """
    x, truth = unit_images(x, truth, value_range)
    return -10 * (x - truth).square().flatten(1).mean(1).log10()


def ssim(x: Tensor, truth: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Structural similarity of each image, in the original definition.

    With means m, variances v and covariance c of both images under a Gaussian window (11x11, std 1.5) around a pixel,

        SSIM = (2 m_x m_y + C1)(2 c_xy + C2) / ((m_x^2 + m_y^2 + C1)(v_x + v_y + C2)),   C1 = 0.01^2, C2 = 0.03^2,

    with population (not sample) covariances, averaged over the pixels whose window lies inside the image ("valid"),
    then over the channels.

    Args:
        x: images, shape (B, C, H, W), clamped to `value_range`; H and W at least 11.
        truth: what they should be, shape (B, C, H, W), or (1, C, H, W) for one truth of all.
        value_range: black and white.

    Returns:
        Similarity in [-1, 1], float64, shape (B,); 1 where an image equals its truth.

    Raises:
        ShapeError: If the shapes are not images, do not agree, or are smaller than the window.
        NumericalError: If an image holds NaN or infinity.

    Example:
        >>> image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
        >>> ssim(image, image)
        tensor([1.], dtype=torch.float64)

    References: Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13(4), Eq. (13) to (15).
    """
    x, truth = unit_images(x, truth, value_range)
    if min(x.shape[2:]) < WINDOW:
        raise ShapeError(
            f"SSIM needs images of at least {WINDOW}x{WINDOW}, got {x.shape[2]}x{x.shape[3]}",
            hint="use PSNR for images that small",
        )
    mean_x, mean_y = _window_mean(x), _window_mean(truth)
    variance_x = _window_mean(x.square()) - mean_x.square()
    variance_y = _window_mean(truth.square()) - mean_y.square()
    covariance = _window_mean(x * truth) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(1)  # all channels have equally many windows


def unit_images(x: Tensor, truth: Tensor, value_range: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Images and truth in float64, clamped to `value_range` and scaled to [0, 1]; the errors of `psnr`."""
    low, high = value_range
    if not low < high:
        raise ConfigError(f"value_range must rise, got {value_range}")
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ShapeError(f"images must have shape (B, C, H, W), got {tuple(x.shape)}")
    if truth.shape[1:] != x.shape[1:] or truth.ndim != 4 or len(truth) not in (1, len(x)):
        raise ShapeError(
            f"images of shape {tuple(x.shape)} cannot be compared with a truth of shape {tuple(truth.shape)}",
            hint="one truth for each image, or one for all with a leading 1",
        )
    for name, images in (("image", x), ("truth", truth)):
        if not bool(torch.isfinite(images).all()):
            raise NumericalError(f"the {name} to compare holds NaN or infinity")
    x, truth = ((images.double().clamp(low, high) - low) / (high - low) for images in (x, truth))
    return x, truth


def _window_mean(images: Tensor) -> Tensor:
    """Mean under the Gaussian window at every place where it fits, shape (B, C, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / WINDOW_STD).square())
    weights = weights / weights.sum()
    planes = images.flatten(0, 1)[:, None]
    planes = torch.nn.functional.conv2d(planes, weights.reshape(1, 1, WINDOW, 1))
    planes = torch.nn.functional.conv2d(planes, weights.reshape(1, 1, 1, WINDOW))
    return planes[:, 0].unflatten(0, images.shape[:2])
