from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from midguide.errors import ConfigError, ShapeError
from midguide.operators import Colorization, make_operator


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_mean_is_numpys(channels: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, channels, 4, 5))
    got = make_operator("colorization", (channels, 4, 5))(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, x.mean(1, keepdims=True), rtol=0.0, atol=1e-14)  # a few operations


def test_luma_is_pillows_gray(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    want = np.asarray(Image.fromarray(pixels).convert("L"))
    x = torch.from_numpy(pixels.astype(float)).permute(2, 0, 1)[None]
    got = make_operator("colorization", (3, 20, 30), weights="luma")(x)[0, 0].numpy()
    assert np.abs(got - want).max() < 0.51  # Pillow rounds to integers, with weights of 16 bits


@pytest.mark.parametrize("weights", [(0.299, 0.587, 0.114), (0.0, 1.0), (0.5,), (0.2, 0.2, 0.2, 0.2)])
def test_decomposition_and_pinv_are_those_of_the_dense_matrix(
    weights: tuple[float, ...], dense: Callable[..., np.ndarray]
) -> None:
    operator, shape = Colorization(weights), (len(weights), 2, 3)
    matrix = dense(operator, shape)
    n = matrix.shape[1]
    basis = torch.eye(n, dtype=torch.float64).unflatten(1, shape)
    values = operator.singular_values(basis[:1]).numpy()
    y = torch.eye(6, dtype=torch.float64).unflatten(1, (1, 2, 3))
    # A few operations per entry of size 1.
    np.testing.assert_allclose(np.sort(values)[::-1][:6], np.linalg.svd(matrix, compute_uv=False), atol=1e-14)
    np.testing.assert_allclose(operator.ut(y).T.numpy().T * values @ operator.vt(basis).numpy().T, matrix, atol=1e-14)
    np.testing.assert_allclose(operator.pinv(y).flatten(1).numpy().T, np.linalg.pinv(matrix), atol=1e-13)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown weights `x`\nhint: one of mean, luma"):
        make_operator("colorization", (3, 8, 8), weights="x")
    with pytest.raises(ShapeError, match=r"luma is that of 3 channels, got 2\nhint"):
        make_operator("colorization", (2, 8, 8), weights="luma")
    with pytest.raises(ShapeError, match=r"images of shape \(C, H, W\)"):
        make_operator("colorization", (8, 8))
    with pytest.raises(ShapeError, match="images of 3 channels"):
        Colorization((0.3, 0.3, 0.4))(torch.zeros(1, 2, 4, 4))
    for weights in [(), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)]:
        with pytest.raises(ConfigError, match="weights of channels"):
            Colorization(weights)
