"""The fills that know no prior, against dense solves and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midguide.errors import ShapeError
from midguide.metrics.fill import harmonic_fill, mean_fill

FILLS = [mean_fill, harmonic_fill]


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(*shape: int, keep: float, seed: int = 1) -> torch.Tensor:
    mask = images(*shape, seed=seed) < keep
    mask[..., 0, 0] = True  # something is measured in every image
    return mask


def dense_fill(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Laplace equation of one plane (H, W): one equation for each hidden pixel, the mean of its neighbors."""
    height, width = y.shape
    matrix, right = np.eye(height * width), np.where(mask, y, 0.0).ravel()
    for i, j in zip(*np.nonzero(~mask), strict=True):
        near = [(i + a, j + b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        near = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
        for a, b in near:
            matrix[i * width + j, a * width + b] = -1 / len(near)
    return np.linalg.solve(matrix, right).reshape(height, width)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.8])
def test_harmonic_fill_solves_the_laplace_equation(keep: float) -> None:
    y, mask = images(3, 2, 9, 13), random_mask(3, 2, 9, 13, keep=keep)
    expected = [[dense_fill(*p) for p in zip(a, b, strict=True)] for a, b in zip(y.numpy(), mask.numpy(), strict=True)]
    # Residual 1e-12 times the condition number, at most about 1e3 on 117 pixels.
    assert harmonic_fill(y, mask).numpy() == pytest.approx(np.array(expected), abs=1e-9)


def test_harmonic_fill_of_a_large_half_is_solved_as_well() -> None:
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[:, 32:] = False
    y = images(1, 1, 64, 64)
    # Closed form: cosines along the edge, which decay as cosh away from it and end with a Neumann border.
    k = torch.arange(64, dtype=torch.float64)
    basis = torch.cos(torch.pi * k[None] * (k[:, None] + 0.5) / 64)
    rate = torch.acosh(2 - torch.cos(torch.pi * k / 64))
    distance = torch.arange(32, -1, -1, dtype=torch.float64)[:, None] + 0.5  # to the border, from column 31 on
    decay = torch.cosh(rate * distance) / torch.cosh(rate * distance[0])
    edge = torch.linalg.solve(basis, y[0, 0, :, 31])
    expected = basis @ (decay * edge).T
    # Residual 1e-12 times the condition number, about 4 (2 * 32 / pi)^2 < 2e3.
    torch.testing.assert_close(harmonic_fill(y, mask)[0, 0, :, 31:], expected, rtol=0, atol=1e-9)


def test_harmonic_fill_continues_a_ramp() -> None:
    ramp = torch.linspace(-1, 1, 12, dtype=torch.float64).expand(1, 3, 7, 12)
    mask = torch.zeros(7, 12, dtype=torch.bool)
    mask[:, [0, 11]] = True
    torch.testing.assert_close(harmonic_fill(ramp, mask), ramp, rtol=0, atol=1e-10)  # residual 1e-12, condition < 100


def test_harmonic_fill_stays_between_the_measured_values() -> None:
    y, mask = images(4, 1, 20, 20), random_mask(4, 1, 20, 20, keep=0.1)
    fill = harmonic_fill(y, mask)
    low, high = torch.where(mask, y, 2.0).amin((2, 3)), torch.where(mask, y, -2.0).amax((2, 3))
    assert (fill.amin((2, 3)) >= low - 1e-9).all()  # residual 1e-12, condition below 1e3
    assert (fill.amax((2, 3)) <= high + 1e-9).all()


def test_mean_fill_is_the_mean_of_what_is_measured() -> None:
    y, mask = images(2, 3, 5, 6), random_mask(2, 3, 5, 6, keep=0.5)
    fill = mean_fill(y, mask)
    for b in range(2):
        for c in range(3):
            expected = y[b, c][mask[b, c]].mean()
            # order of float64 sums
            torch.testing.assert_close(
                fill[b, c][~mask[b, c]], expected.expand(int((~mask[b, c]).sum())), rtol=1e-13, atol=0
            )


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fill_keeps_what_is_measured_exactly(fill, dtype: torch.dtype) -> None:
    y, mask = images(2, 3, 8, 8).to(dtype), random_mask(2, 1, 8, 8, keep=0.4)
    filled = fill(y, mask)
    assert filled.dtype == dtype
    assert torch.equal(filled.where(mask, 0), y.where(mask, 0))


@pytest.mark.parametrize("fill", FILLS)
def test_fill_ignores_what_stands_in_hidden_pixels(fill) -> None:
    y, mask = images(2, 3, 8, 8), random_mask(8, 8, keep=0.4)
    assert torch.equal(fill(y.where(mask, torch.nan), mask), fill(y.where(mask, 0.0), mask))


@pytest.mark.parametrize("fill", FILLS)
def test_fill_of_an_image_does_not_depend_on_its_batch(fill) -> None:
    y, mask = images(3, 2, 8, 8), random_mask(3, 2, 8, 8, keep=0.3)
    alone = torch.cat([fill(y[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(fill(y, mask), alone, rtol=0, atol=1e-12)  # order of float64 sums


@pytest.mark.parametrize("fill", FILLS)
def test_fill_of_a_constant_is_that_constant(fill) -> None:
    y = torch.full((1, 1, 6, 6), 0.7)
    torch.testing.assert_close(fill(y, random_mask(6, 6, keep=0.2)), y, rtol=1e-7, atol=0)  # one float32 rounding


@pytest.mark.parametrize("fill", FILLS)
def test_fill_of_a_complete_image_is_the_image(fill) -> None:
    y = images(2, 3, 4, 4)
    assert torch.equal(fill(y, torch.ones(4, 4, dtype=torch.bool)), y)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("y", "mask", "message"),
    [
        (torch.zeros(3, 4, 4), torch.ones(4, 4, dtype=torch.bool), "shape"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.bool), "floating"),
        (torch.zeros(1, 3, 4, 4), torch.ones(4, 4), "boolean"),
        (torch.zeros(1, 3, 4, 4), torch.ones(5, 4, dtype=torch.bool), "broadcast"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(4, 4, dtype=torch.bool), "nothing is measured"),
    ],
)
def test_fill_refuses(fill, y: torch.Tensor, mask: torch.Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        fill(y, mask)
