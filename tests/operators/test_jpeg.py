"""JPEG against Pillow, that is libjpeg-turbo with its accurate integer transform."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths.autodiff import vjp
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


def pillow(
    image: Image.Image, quality: int, subsampling: str = "4:2:0", tables: list[list[int]] | None = None
) -> np.ndarray:
    """Bytes of the image after a round trip, in its mode, shape (H, W) or (H, W, 3); `tables` replace the quality."""
    file = io.BytesIO()
    how: dict[str, Any] = {"quality": quality} if tables is None else {"qtables": tables}
    image.save(file, "JPEG", subsampling=subsampling, **how)
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
        np.testing.assert_array_equal(JPEG(quality).quantization().numpy(), want)


def test_unclamped_tables_are_25_times_the_standard_ones_at_quality_2() -> None:
    base = JPEG(50).quantization()  # scale 100
    assert torch.equal(JPEG(2, tables="unclamped").quantization(), 25 * base)
    assert int(JPEG(2, tables="unclamped").quantization().max()) == 3025
    torch.testing.assert_close(JPEG(90, tables="unclamped").quantization(), 0.2 * base)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_luma_and_chroma_are_those_of_libjpeg(quality: int, subsampling: str, size: tuple[int, int]) -> None:
    """The codec proper: bytes of Y, Cb and Cr go in and come out, so that no conversion of colors is rounded."""
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
def test_round_trip_of_colors_is_pillows(quality: int, size: tuple[int, int]) -> None:
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


# Levels of 255, root mean square: measured 4.45, 3.42, 2.45, 1.75, 1.94, 1.90 and 1.69 at most.
FROM_PILLOW = [(2, 4.6), (5, 3.5), (10, 2.6), (30, 1.9), (50, 2.0), (75, 2.0), (90, 1.8)]


@pytest.mark.parametrize("size", [*SIZES, (37, 50)])
@pytest.mark.parametrize(("quality", "levels"), FROM_PILLOW)
def test_default_operator_is_pillows_round_trip_within_levels(
    quality: int, levels: float, size: tuple[int, int]
) -> None:
    """What users and studies get: cubic rounding, chroma replicated, nothing clipped but for the comparison."""
    image = portrait(*size)
    want = pillow(image, quality)
    operator = make_operator("jpeg", (3, *size), quality=quality)
    error = rms(as_pixels(operator(as_batch(image))).clip(0, 255) - want)
    assert error < levels
    assert error < 0.45 * rms(want - np.asarray(image))  # of what compression itself changes


@pytest.mark.parametrize("size", [*SIZES, (37, 50)])
@pytest.mark.parametrize(("quality", "levels"), [(1, 7.0), (2, 5.6), (5, 3.5), (10, 2.6), (25, 2.1)])
def test_the_papers_variant_is_the_round_trip_of_a_file_with_its_tables(
    quality: int, levels: float, size: tuple[int, int]
) -> None:
    """Unclamped tables of whole numbers, up to 6050, are entries of sixteen bits, which libjpeg writes and reads."""
    image = portrait(*size)
    operator = make_operator("jpeg:paper", (3, *size), quality=quality)
    assert isinstance(operator, JPEG)
    tables = [[int(entry) for entry in table.flatten()] for table in operator.quantization()]
    want = pillow(image, quality, tables=tables)
    assert rms(as_pixels(operator(as_batch(image))).clip(0, 255) - want) < levels
    exact = replace(operator, rounding="exact")
    assert rms(as_pixels(exact(as_batch(image))).clip(0, 255) - want) < 0.25 * rms(want - np.asarray(image))


@pytest.mark.parametrize("quality", [2, 10, 50, 90])
def test_gray_is_pillows_gray(quality: int) -> None:
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
    table = JPEG(30).quantization()[0].numpy()
    v = scipy.fft.dctn(127.5 * (x[0, 0] + 1) - 128, norm="ortho") / table
    quantized = table * (np.round(v) + (v - np.round(v)) ** 3)
    want = (scipy.fft.idctn(quantized, norm="ortho") + 128) / 127.5 - 1
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


WHOLE = [
    JPEG(quality, tables, subsampling)
    for quality in (2, 10, 50, 90)
    for tables in ("standard", "unclamped")
    for subsampling in ("4:2:0", "4:4:4")
]


@pytest.mark.parametrize("operator", WHOLE, ids=str)
def test_a_decoded_image_of_whole_blocks_is_not_changed_by_decoding_it_again(operator: JPEG) -> None:
    exact = replace(operator, rounding="exact")
    y = exact(as_batch(portrait(112, 96)))
    torch.testing.assert_close(exact(exact.pinv(y)), y, rtol=0.0, atol=1e-12)  # rounding errors


@pytest.mark.parametrize("operator", WHOLE, ids=str)
def test_with_cubic_rounding_no_coefficient_moves_by_more_than_an_eighth_of_its_table(operator: JPEG) -> None:
    """d in [-1/2, 1/2] from a step becomes d^3, then d^9, and |d^3 - d^9| is largest at 1/2; the transform keeps norms
    and replication means."""
    y = operator(as_batch(portrait(112, 96)))
    planes = (as_pixels(operator(operator.pinv(y))) - as_pixels(y)) @ TO_YCBCR.T
    luma, chroma = operator.quantization().numpy()
    sides = (8, 16, 16) if operator.subsampling == "4:2:0" else (8, 8, 8)
    for plane, table, side in zip(planes.transpose(2, 0, 1), (luma, chroma, chroma), sides, strict=True):
        moved = plane[: 112 // side * side].reshape(112 // side, side, 96 // side, side)
        allowed = (1 / 8 - 1 / 512) * rms(table) + 1e-9
        assert np.sqrt(np.square(moved).mean((1, 3))).max() <= allowed
    assert rms(planes) > 0.01  # it does move


@pytest.mark.parametrize("size", [*SIZES, (37, 50)])
@pytest.mark.parametrize("upsampling", ["replicate", "triangle"])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("tables", ["standard", "unclamped"])
@pytest.mark.parametrize(
    ("rounding", "share", "worst", "rest"), [("exact", 1 / 7, 3.6, 1.3), ("cubic", 1 / 5, 5.8, 1.9)]
)
def test_decoding_again_changes_a_portrait_of_any_size_by_few_levels(
    rounding: str, share: float, worst: float, rest: float, tables: str, subsampling: str, upsampling: str, size: Any
) -> None:
    """The pseudo-inverse in every variant and at sizes with incomplete blocks, in levels of 255, root mean square, and
    as a share of what compression changes. Measured: up to 3.55 and 5.79 at quality 2, 1.23 and 1.86 from 10 on."""
    x = as_batch(portrait(*size))
    for quality in (2, 10, 30, 75, 90):
        operator = JPEG(quality, tables, subsampling, rounding, upsampling)
        y = operator(x)
        change = 127.5 * rms((operator(operator.pinv(y)) - y).numpy())
        assert change <= share * 127.5 * rms((y - x).numpy())
        assert change <= (worst if quality == 2 else rest)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_channels_that_are_no_colors_are_coded_one_by_one_as_gray(channels: int) -> None:
    x, jpeg = torch.rand(2, channels, 13, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1, JPEG(30)
    assert torch.allclose(jpeg(x), torch.cat([jpeg(x[:, i : i + 1]) for i in range(channels)], 1), atol=1e-6)


def test_signals_settings_and_channels_that_do_not_fit_are_refused() -> None:
    for quality in (0, 101, -5, 2.5):
        with pytest.raises(ConfigError, match=r"from 1 to 100, got .*\nhint:"):
            JPEG(quality)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"zero at quality 100\nhint: take quality=99"):
        JPEG(100, tables="unclamped")
    for name in ("tables", "subsampling", "rounding", "upsampling"):
        with pytest.raises(ConfigError, match=f"unknown {name} `x`\nhint: one of"):
            make_operator("jpeg", (3, 16, 16), **{name: "x"})
    for shape in [(16, 16), (64,)]:
        with pytest.raises(ShapeError, match=r"\(channels, H, W\)"):
            make_operator("jpeg", shape)
