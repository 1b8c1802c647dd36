"""JPEG against Pillow, that is libjpeg-turbo with its accurate integer transform."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.fft
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from midguide.autodiff import vjp
from midguide.errors import ConfigError, ShapeError
from midguide.operators import JPEG, make_operator

QUALITIES = [2, 5, 10, 30, 50, 75, 90, 100]
SIZES = [(112, 112), (101, 91), (90, 100)]  # multiples of 16; odd; even, with blocks that are not full
# JFIF (ITU-T T.871), with coefficients of its own.
TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], dtype=np.float64
)
OFFSET = np.array([0.0, 128.0, 128.0])


def portrait(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """A face."""
    return Image.fromarray(skimage.data.astronaut()[58 : 58 + height, 172 : 172 + width]).convert(mode)


def pillow(image: Image.Image, quality: int, subsampling: str = "4:2:0") -> np.ndarray:
    """Bytes of the image after a round trip, in its mode, shape (H, W) or (H, W, 3)."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    decoded = Image.open(io.BytesIO(file.getvalue()))
    decoded.draft(image.mode, None)
    decoded.load()
    assert decoded.mode == image.mode
    return np.asarray(decoded).astype(float)


def as_batch(pixels: np.ndarray | Image.Image) -> Tensor:
    """Values of [0, 255], shape (H, W) or (H, W, 3), as a batch of one in [-1, 1]."""
    return torch.from_numpy(np.atleast_3d(np.asarray(pixels)) / 127.5 - 1).permute(2, 0, 1)[None]


def as_pixels(batch: Tensor) -> np.ndarray:
    return ((batch[0].permute(1, 2, 0) + 1) * 127.5).numpy()


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x).mean()))


def test_tables_are_those_of_libjpeg_at_every_quality() -> None:
    image = Image.new("RGB", (8, 8))
    for quality in range(1, 101):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        with Image.open(io.BytesIO(file.getvalue())) as decoded:
            want = [np.reshape(decoded.quantization[i], (8, 8)) for i in range(2)]
        np.testing.assert_array_equal(JPEG(quality).quantisation().numpy(), want)


def test_unclamped_tables_are_25_times_the_standard_ones_at_quality_2() -> None:
    base = JPEG(50).quantisation()  # scale 100
    assert torch.equal(JPEG(2, tables="unclamped").quantisation(), 25 * base)
    assert int(JPEG(2, tables="unclamped").quantisation().max()) == 3025
    torch.testing.assert_close(JPEG(90, tables="unclamped").quantisation(), 0.2 * base)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_luma_and_chroma_are_those_of_libjpeg(quality: int, subsampling: str, size: tuple[int, int]) -> None:
    """The codec proper: bytes of Y, Cb and Cr go in and come out, so that no conversion of colours is rounded."""
    ycbcr = portrait(*size, "YCbCr")
    want = pillow(ycbcr, quality, subsampling)
    operator = JPEG(quality, subsampling=subsampling, rounding="exact", upsampling="triangle")
    decoded = as_pixels(operator(as_batch((np.asarray(ycbcr) - OFFSET) @ np.linalg.inv(TO_YCBCR).T)))
    error = np.abs((decoded @ TO_YCBCR.T + OFFSET).clip(0, 255) - want)
    # libjpeg rounds the result to integers, and the means of chroma: 0.5 and a little. Its transform is in integers: a
    # coefficient within 1/16 of the middle between two steps, or at it, as sums of integers are, may go the other way,
    # which moves 64 pixels by up to 1/8 of a table entry each.
    if quality == 2:
        assert (error > 0.53).mean() < (0.001 if subsampling == "4:2:0" else 0.005)  # measured: 0; two blocks
        assert error.max() < 255 / 8 + 0.53
    else:
        assert (error > 1).mean() < 0.08  # measured: at most 0.073
        assert rms(error) < 0.9  # measured: at most 0.82
    if quality == 100:
        assert error.max() < 2  # all table entries are one


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_round_trip_of_colours_is_pillows(quality: int, size: tuple[int, int]) -> None:
    image = portrait(*size)
    want = pillow(image, quality)
    operator = JPEG(quality, rounding="exact", upsampling="triangle")
    error = np.abs(as_pixels(operator(as_batch(image))).clip(0, 255) - want)
    # Pillow rounds Y, Cb and Cr to integers before it transforms them, an error of 0.3 that moves more coefficients to
    # another step than the transform does. Measured: at most 1.18 on average; at quality 2, 0.32 and 0.2 % above 3.
    assert error.mean() < 1.2
    if quality == 2:
        assert error.mean() < 0.35
        assert (error > 3).mean() < 0.002


@pytest.mark.parametrize("quality", [2, 10, 50, 90])
def test_grey_is_pillows_grey(quality: int) -> None:
    image = portrait(101, 91, "L")
    want = pillow(image, quality)[..., None]
    error = np.abs(as_pixels(JPEG(quality, rounding="exact")(as_batch(image))).clip(0, 255) - want)
    # As for luma above. At low quality no coefficient of this image is that near to a middle.
    assert error.max() < 0.6 or quality > 10
    assert rms(error) < 1.0


def test_replication_costs_a_tenth_of_the_compression_error_against_libjpeg() -> None:
    image = portrait(112, 112)
    want = pillow(image, 2)
    decoded = as_pixels(JPEG(2, rounding="exact")(as_batch(image))).clip(0, 255)
    # 2.5 of 255 levels, where compression itself costs 25.8; the triangle filter's own 0.5 are rounding, as above.
    assert 2.0 < rms(decoded - want) < 0.1 * rms(want - np.asarray(image))


def test_replication_and_triangle_filter_differ_in_chroma_only() -> None:
    x = as_batch(portrait(37, 50))
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    a, b = (torch.einsum("c,bchw->bhw", luma, JPEG(5, upsampling=u)(x)) for u in ("replicate", "triangle"))
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)  # rounding


def test_cubic_rounding_is_that_of_the_formula(rng: np.random.Generator) -> None:
    x = rng.uniform(-1, 1, (1, 1, 8, 8))
    table = JPEG(30).quantisation()[0].numpy()
    v = scipy.fft.dctn(127.5 * (x[0, 0] + 1) - 128, norm="ortho") / table
    quantised = table * (np.round(v) + (v - np.round(v)) ** 3)
    want = (scipy.fft.idctn(quantised, norm="ortho") + 128) / 127.5 - 1
    np.testing.assert_allclose(JPEG(30)(torch.from_numpy(x))[0, 0].numpy(), want, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"upsampling": "triangle"}, {"tables": "unclamped"}])
def test_derivative_is_that_of_differences(settings: dict[str, Any]) -> None:
    operator = JPEG(10, **settings)
    generator = torch.Generator().manual_seed(0)
    x, direction = (torch.randn(1, 3, 19, 33, generator=generator, dtype=torch.float64) for _ in range(2))
    y, pullback = vjp(operator, 0.3 * x)
    step = 1e-7 * direction
    difference = (operator(0.3 * x + step) - operator(0.3 * x - step)) / 2e-7
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    # Second differences are 1e-7 of first ones; some of 2,000 coefficients would jump with a chance of 1e-4.
    torch.testing.assert_close((pullback(weights) * direction).sum(), (difference * weights).sum(), rtol=1e-5, atol=0.0)


def test_exact_rounding_has_no_derivative() -> None:
    _, pullback = vjp(JPEG(10, rounding="exact"), torch.zeros(1, 3, 16, 16))
    assert not pullback(torch.ones(1, 3, 16, 16)).any()


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_decoded_image_is_not_changed_by_decoding_it_again(subsampling: str) -> None:
    operator = JPEG(2, subsampling=subsampling, rounding="exact")
    y = operator(as_batch(portrait(112, 96)))
    torch.testing.assert_close(operator(operator.pinv(y)), y, rtol=0.0, atol=1e-12)  # rounding


@pytest.mark.parametrize("tables", ["standard", "unclamped"])
def test_with_cubic_rounding_it_is_changed_little(tables: str) -> None:
    x = as_batch(portrait(112, 112))
    operator = JPEG(2, tables=tables)
    y = operator(x)
    # A coefficient d from its step is d^3 from it after one pass and d^9 after two. Measured: a sixth or less.
    assert (operator(operator.pinv(y)) - y).norm() < 0.2 * (y - x).norm()


def test_signals_settings_and_channels_that_do_not_fit_are_refused() -> None:
    for quality in (0, 101, -5, 2.5):
        with pytest.raises(ConfigError, match=r"from 1 to 100, got .*\nhint:"):
            JPEG(quality)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"zero at quality 100\nhint: take quality=99"):
        JPEG(100, tables="unclamped")
    for name in ("tables", "subsampling", "rounding", "upsampling"):
        with pytest.raises(ConfigError, match=f"unknown {name} 'x'\nhint: one of"):
            make_operator("jpeg", (3, 16, 16), **{name: "x"})
    for shape in [(2, 16, 16), (16, 16), (4, 8, 8), (64,)]:
        with pytest.raises(ShapeError, match=r"\(1, H, W\) or \(3, H, W\)"):
            make_operator("jpeg", shape)
