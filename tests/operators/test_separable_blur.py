from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from midguide.errors import ShapeError
from midguide.operators import ReflectBlur, SeparableBlur, gaussian_kernel, make_operator

# Matrix products of up to 100 terms of size 1 in float64.
assert_close = partial(np.testing.assert_allclose, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("lengths", [(3, 5), (1, 7), (5, 9)])
def test_it_is_scipys_convolution_with_zeros_outside(lengths: tuple[int, int], rng: np.random.Generator) -> None:
    kernel_y, kernel_x = (rng.random(length) for length in lengths)
    x = rng.normal(size=(2, 3, 6, 9))
    operator = SeparableBlur.create(torch.from_numpy(kernel_y), torch.from_numpy(kernel_x), 6, 9)
    want = ndimage.convolve1d(ndimage.convolve1d(x, kernel_y, 2, mode="constant"), kernel_x, 3, mode="constant")
    assert_close(operator(torch.from_numpy(x)).numpy(), want)


@pytest.mark.parametrize("cut", [0.0, 0.3])
def test_decomposition_is_that_of_the_dense_matrix(cut: float, dense: Callable[..., np.ndarray]) -> None:
    operator = SeparableBlur.create(gaussian_kernel(0.8, 2.5), gaussian_kernel(0.5), 5, 6, cut=cut)
    shape = (2, 5, 6)
    matrix = dense(operator, shape)
    basis = torch.eye(60, dtype=torch.float64).unflatten(1, shape)
    values = operator.singular_values(basis[:1]).numpy()
    assert_close(np.sort(values)[::-1], np.linalg.svd(matrix, compute_uv=False))
    v, u = operator.vt(basis).numpy(), operator.ut(basis).numpy()
    assert_close((u * values) @ v.T, matrix)
    want = np.linalg.pinv(matrix, rcond=1e-10)
    np.testing.assert_allclose(operator.pinv(basis).flatten(1).numpy().T, want, rtol=0.0, atol=1e-8)  # condition 1e3


@pytest.mark.parametrize("shape", [(3, 256, 256), (3, 64, 64), (1, 16, 24), (2, 9, 7)])
def test_the_registered_gaussian_blur_is_a_reflected_convolution(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    kernel = gaussian_kernel(3.0 * min(shape[1:]) / 256)
    x = torch.from_numpy(rng.normal(size=(2, *shape)))
    operator, direct = make_operator("gaussian-blur", shape), ReflectBlur(torch.outer(kernel, kernel))
    # The promise to samplers that need an SVD; 1e-12 is what rounding leaves, see `assert_close`.
    assert_close(operator(x).numpy(), direct(x).numpy())
    assert isinstance(operator, SeparableBlur)
    assert_close(operator.adjoint(x).numpy(), direct.adjoint(x).numpy())


def test_decomposition_of_a_reflected_blur_is_that_of_the_dense_matrix(dense: Callable[..., np.ndarray]) -> None:
    operator = SeparableBlur.reflected(gaussian_kernel(0.8, 2.5), gaussian_kernel(0.5), 5, 6)
    matrix = dense(ReflectBlur(torch.outer(gaussian_kernel(0.8, 2.5), gaussian_kernel(0.5))), (1, 5, 6))
    basis = torch.eye(30, dtype=torch.float64).unflatten(1, (1, 5, 6))
    values = operator.singular_values(basis[:1]).numpy()
    assert_close(np.sort(values)[::-1], np.linalg.svd(matrix, compute_uv=False))
    assert_close((operator.ut(basis).numpy() * values) @ operator.vt(basis).numpy().T, matrix)


def test_cut_of_the_paper_keeps_73_of_256_values() -> None:
    operator = make_operator("gaussian-blur-separable", (3, 256, 256))
    assert isinstance(operator, SeparableBlur)
    assert int((operator.vertical.values > 0).sum()) == 73


def test_cut_operator_is_the_truncated_one() -> None:
    kernel = gaussian_kernel(1.5, 3.5)
    operator = SeparableBlur.create(kernel, kernel, 12, 12, cut=0.1)
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = (operator.singular_values(x) > 0).to(x)
    torch.testing.assert_close(operator(operator.v(kept * operator.vt(x), x)), operator(x))
    assert float(operator.singular_values(x)[kept.bool()].min()) >= 0.1**2


def test_images_of_another_size_are_refused() -> None:
    operator = SeparableBlur.create(torch.ones(3), torch.ones(3), 6, 8)
    with pytest.raises(ShapeError, match="expected images of 6x8"):
        operator(torch.zeros(1, 3, 8, 6))
    with pytest.raises(ShapeError, match="one axis"):
        SeparableBlur.create(torch.ones(3, 3), torch.ones(3), 6, 8)
