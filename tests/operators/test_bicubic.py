from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.errors import ConfigError, ShapeError
from midguide.operators import bicubic_downsampling, make_operator


@pytest.mark.parametrize(("size", "factor"), [((24, 16), 4), ((15, 9), 3), ((32, 48), 16), ((6, 8), 1), ((4, 4), 4)])
def test_it_is_pillows_resize(size: tuple[int, int], factor: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=size).astype(np.float32)
    small = (size[1] // factor, size[0] // factor)
    want = np.asarray(Image.fromarray(x).resize(small, Image.Resampling.BICUBIC))
    got = bicubic_downsampling(*size, factor)(torch.from_numpy(x).double()[None])[0].numpy()
    np.testing.assert_allclose(got, want, rtol=0.0, atol=1e-6)  # Pillow stores single precision


@pytest.mark.parametrize("factor", [2, 4])
def test_it_is_torchs_interpolation_against_aliasing(factor: int, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, 24, 32)))
    want = torch.nn.functional.interpolate(
        x, scale_factor=1 / factor, mode="bicubic", antialias=True, align_corners=False
    )
    got = make_operator("bicubic", (3, 24, 32), factor=factor)(x)
    torch.testing.assert_close(got, want, rtol=0.0, atol=1e-12)  # rounding


def test_decomposition_is_that_of_the_dense_matrix(dense: Callable[..., np.ndarray]) -> None:
    operator, shape = bicubic_downsampling(8, 12, 4), (2, 8, 12)
    matrix = dense(operator, shape)
    basis = torch.eye(192, dtype=torch.float64).unflatten(1, shape)
    y = torch.eye(12, dtype=torch.float64).unflatten(1, (2, 2, 3))
    values = operator.singular_values(basis[:1]).numpy()
    # Sums of up to 96 products of entries below 1, of condition below 10.
    np.testing.assert_allclose(np.sort(values)[::-1][:12], np.linalg.svd(matrix, compute_uv=False), atol=1e-13)
    np.testing.assert_allclose((operator.ut(y).numpy() * values) @ operator.vt(basis).numpy().T, matrix, atol=1e-13)
    np.testing.assert_allclose(operator.pinv(y).flatten(1).numpy().T, np.linalg.pinv(matrix), atol=1e-12)


def test_a_constant_stays_itself() -> None:
    y = bicubic_downsampling(16, 32, 8)(torch.full((1, 16, 32), 0.7, dtype=torch.float64))
    torch.testing.assert_close(y, torch.full((1, 2, 4), 0.7, dtype=torch.float64))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"18x16 cannot be shrunk by 4\nhint: take a factor that divides"):
        make_operator("bicubic", (3, 18, 16))
    with pytest.raises(ShapeError, match="8x8 cannot be shrunk by 16"):
        make_operator("bicubic:x16", (3, 8, 8))
    for factor in (0, -2):
        with pytest.raises(ConfigError, match="factor must be a positive integer"):
            make_operator("bicubic", (3, 16, 16), factor=factor)
    with pytest.raises(ShapeError, match="expected images of 16x16"):
        make_operator("bicubic", (3, 16, 16))(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ShapeError, match="expected an image"):
        make_operator("bicubic", (16,))
