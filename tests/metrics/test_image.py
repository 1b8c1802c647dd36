"""PSNR and SSIM against scikit-image, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.metrics
import torch

from midguide.errors import ConfigError, NumericalError, ShapeError
from midguide.metrics.image import psnr, ssim


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth truth and a noisy copy, some values of which leave [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    truth = torch.cumsum(torch.randn(shape, generator=generator), -1).tanh()
    return truth + 0.3 * noise, truth


def unit(image: torch.Tensor) -> np.ndarray:
    return ((image.double().clamp(-1, 1) + 1) / 2).numpy()


@pytest.mark.parametrize("shape", [(3, 3, 11, 11), (2, 3, 32, 17), (2, 1, 24, 40), (1, 4, 64, 64)])
def test_ssim_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    x, truth = pair(*shape)
    expected = [
        skimage.metrics.structural_similarity(
            unit(a),
            unit(b),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=0,
        )
        for a, b in zip(x, truth, strict=True)
    ]
    # Both are float64 sums of about a hundred terms; variances cancel from 1 to about 1e-3 and C2 = 9e-4.
    assert ssim(x, truth).numpy() == pytest.approx(np.array(expected), abs=1e-10)


def test_psnr_is_that_of_scikit_image() -> None:
    x, truth = pair(3, 3, 20, 12)
    expected = [
        skimage.metrics.peak_signal_noise_ratio(unit(b), unit(a), data_range=1) for a, b in zip(x, truth, strict=True)
    ]
    assert psnr(x, truth).numpy() == pytest.approx(np.array(expected), rel=1e-12)  # float64 rounding


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_metric_of_an_image_does_not_depend_on_its_batch(metric) -> None:
    x, truth = pair(4, 3, 16, 16)
    alone = torch.cat([metric(x[i : i + 1], truth[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(metric(x, truth), alone, rtol=1e-12, atol=0)  # order of float64 sums


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_one_truth_serves_all_images(metric) -> None:
    x, truth = pair(3, 3, 16, 16)
    same = metric(x, truth[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(metric(x, truth[:1]), same, rtol=1e-12, atol=0)  # order of float64 sums


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_metric_does_not_depend_on_the_value_range(metric) -> None:
    x, truth = pair(2, 3, 16, 16)
    x, truth = x.double(), truth.double()
    shifted = metric((x + 1) * 127.5, (truth + 1) * 127.5, (0, 255))
    torch.testing.assert_close(metric(x, truth), shifted, rtol=1e-9, atol=1e-12)  # rounding of the shift, over C2


def test_bytes_are_compared_as_numbers() -> None:
    x, truth = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 51, dtype=torch.uint8)
    assert psnr(x, truth, (0, 255)).item() == pytest.approx(10 * np.log10(25), rel=1e-12)  # 51 / 255 = 1/5


def test_values_outside_the_range_count_as_its_ends() -> None:
    x, truth = pair(2, 3, 16, 16)
    assert torch.equal(psnr(x, truth), psnr(x.clamp(-1, 1), truth))
    assert torch.equal(ssim(5 * x.sign(), truth), ssim(x.sign(), truth))


def test_equal_images_have_infinite_psnr_and_ssim_one() -> None:
    x, _ = pair(2, 3, 16, 16)
    assert torch.equal(psnr(x, x), torch.full((2,), torch.inf, dtype=torch.float64))
    assert ssim(x, x).numpy() == pytest.approx(np.ones(2), abs=1e-12)  # rounding


@pytest.mark.parametrize("shape", [(1, 3, 10, 64), (1, 3, 64, 10)])
def test_ssim_refuses_images_smaller_than_its_window(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="at least 11x11, got .*\n?hint: use PSNR"):
        ssim(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("x", "truth"),
    [((3, 16, 16), (3, 16, 16)), ((2, 3, 16, 16), (2, 1, 16, 16)), ((2, 3, 16, 16), (3, 3, 16, 16)), ((0,), (0,))],
)
def test_metric_refuses_shapes_that_do_not_agree(metric, x: tuple[int, ...], truth: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        metric(torch.zeros(x), torch.zeros(truth))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_are_refused(metric, bad: float) -> None:
    x, truth = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16)
    x[1, 0, 3, 3] = bad
    with pytest.raises(NumericalError, match="the image"):
        metric(x, truth)
    with pytest.raises(NumericalError, match="the truth"):
        metric(truth, x)


def test_range_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ConfigError, match="must rise"):
        psnr(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), (1, -1))
