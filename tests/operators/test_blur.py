from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from midguide.errors import ConfigError, ShapeError
from midguide.operators import (
    BlockMean,
    CircularBlur,
    Decomposed,
    ReflectBlur,
    ZeroBlur,
    gaussian_kernel,
    make_operator,
)
from midguide.storage.record import describe, digest

# Fourier transforms of up to 1e3 entries of size 1 in float64.
assert_close = partial(np.testing.assert_allclose, rtol=0.0, atol=1e-12)
SIZES = [(8, 8), (9, 7), (5, 12)]


def asymmetric(rng: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    kernel = rng.random(shape)
    return torch.from_numpy(kernel / kernel.sum((-2, -1), keepdims=True))


def convolve(x: np.ndarray, kernel: np.ndarray, mode: str) -> np.ndarray:
    return np.stack([[ndimage.convolve(channel, kernel, mode=mode) for channel in image] for image in x])


@pytest.mark.parametrize("std", [0.3, 1.0, 3.0])
def test_gaussian_kernel_is_scipys(std: float) -> None:
    impulse = np.zeros(51)
    impulse[25] = 1.0
    kernel = gaussian_kernel(std).numpy()
    radius = len(kernel) // 2
    want = ndimage.gaussian_filter1d(impulse, std)
    np.testing.assert_allclose(kernel, want[25 - radius : 26 + radius], atol=1e-15)
    assert not want[: 25 - radius].any()


def test_gaussian_kernel_of_the_paper_has_25_entries() -> None:
    assert len(gaussian_kernel(3.0)) == 25


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_shape", [(3, 3), (5, 3), (1, 5), (1, 1)])
def test_circular_blur_is_scipys_convolution(
    size: tuple[int, int], kernel_shape: tuple[int, int], rng: np.random.Generator
) -> None:
    kernel, x = asymmetric(rng, kernel_shape), rng.normal(size=(2, 3, *size))
    y = CircularBlur(kernel)(torch.from_numpy(x))
    assert_close(y.numpy(), convolve(x, kernel.numpy(), "wrap"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_shape", [(3, 3), (5, 3), (5, 5), (1, 5), (1, 1)])
def test_reflect_blur_is_scipys_convolution(
    size: tuple[int, int], kernel_shape: tuple[int, int], rng: np.random.Generator
) -> None:
    kernel, x = asymmetric(rng, kernel_shape), rng.normal(size=(2, 3, *size))
    y = ReflectBlur(kernel)(torch.from_numpy(x))
    assert_close(y.numpy(), convolve(x, kernel.numpy(), "mirror"))


@pytest.mark.parametrize("make", [CircularBlur, ReflectBlur])
def test_the_image_of_a_point_is_the_kernel(
    make: type[CircularBlur] | type[ReflectBlur], rng: np.random.Generator
) -> None:
    for shape, corner in (((3, 5), (4, 3)), ((4, 2), (3, 4))):  # even kernels have their centre at half their size
        kernel, x = asymmetric(rng, shape), torch.zeros(1, 1, 11, 11, dtype=torch.float64)
        x[..., 5, 5] = 1.0
        y = make(kernel)(x)[0, 0, corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]]
        assert_close(y.numpy(), kernel.numpy())


@pytest.mark.parametrize("make", [CircularBlur, ReflectBlur])
@pytest.mark.parametrize("kernel_shape", [(3, 5), (4, 4), (5, 1)])
def test_adjoint_is_the_transpose_of_the_dense_matrix(
    make: type[CircularBlur] | type[ReflectBlur],
    kernel_shape: tuple[int, int],
    rng: np.random.Generator,
    dense: Callable[..., np.ndarray],
) -> None:
    operator = make(asymmetric(rng, kernel_shape))
    matrix = dense(operator, (2, 5, 6))
    basis = torch.eye(60, dtype=torch.float64).unflatten(1, (2, 5, 6))
    assert_close(operator.adjoint(basis).flatten(1).numpy(), matrix)


def test_circular_decomposition_is_that_of_the_dense_matrix(
    rng: np.random.Generator, dense: Callable[..., np.ndarray]
) -> None:
    operator = CircularBlur(asymmetric(rng, (3, 4)))
    shape = (2, 5, 6)
    matrix = dense(operator, shape)
    basis = torch.eye(60, dtype=torch.float64).unflatten(1, shape)
    values = operator.singular_values(basis[:1]).numpy()
    assert_close(np.sort(values)[::-1], np.linalg.svd(matrix, compute_uv=False))
    v, u = operator.vt(basis).numpy(), operator.ut(basis).numpy()  # row i is the image of e_i: V and U
    assert_close((u * values) @ v.T, matrix)
    assert_close(u.T @ u, np.eye(60))
    np.testing.assert_allclose(operator.pinv(basis).flatten(1).numpy().T, np.linalg.pinv(matrix), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("make", [CircularBlur, ReflectBlur])
def test_kernels_per_observation_blur_their_own_row(
    make: type[CircularBlur] | type[ReflectBlur], rng: np.random.Generator
) -> None:
    kernels, x = asymmetric(rng, (3, 3, 5)), torch.from_numpy(rng.normal(size=(3, 2, 6, 7)))
    together = make(kernels, per_observation=True)
    assert together.observations == 3
    alone = torch.cat([make(kernel)(row[None]) for kernel, row in zip(kernels, x, strict=True)])
    torch.testing.assert_close(together(x), alone)
    torch.testing.assert_close(together.select(torch.tensor([2]))(x[2:]), alone[2:])


def test_reflect_blur_keeps_a_constant_image_constant() -> None:
    operator = make_operator("gaussian-blur", (3, 40, 24), std=20.0)
    image = torch.full((1, 3, 40, 24), 0.7, dtype=torch.float64)
    torch.testing.assert_close(operator(image), image)


def test_registered_std_scales_with_the_image() -> None:
    operator = make_operator("gaussian-blur-circular", (3, 64, 64))
    assert isinstance(operator, CircularBlur)
    kernel = gaussian_kernel(0.75)
    torch.testing.assert_close(operator.kernel, torch.outer(kernel, kernel))


@pytest.mark.parametrize(("pixels", "side"), [(256, 61), (64, 15), (32, 7), (16, 3), (4, 1)])
def test_registered_motion_kernels_scale_with_the_image(pixels: int, side: int) -> None:
    operator = make_operator("motion-blur", (1, 2 * pixels, pixels))
    assert isinstance(operator, ReflectBlur)
    assert operator.kernel.shape == (side, side)


def test_each_observation_may_have_a_motion_kernel_of_its_own() -> None:
    one, three = (make_operator("motion-blur", (1, 64, 64), seed=7, count=count) for count in (None, 3))
    assert isinstance(one, ReflectBlur)
    assert isinstance(three, ReflectBlur)
    assert three.observations == 3
    torch.testing.assert_close(three.kernel[0], one.kernel, rtol=0.0, atol=0.0)
    assert len({digest(kernel) for kernel in three.kernel}) == 3
    assert describe(three)["kernel"]["sha256"] != describe(one)["kernel"]["sha256"]
    with pytest.raises(ConfigError, match="count must be at least 1"):
        make_operator("motion-blur", (1, 64, 64), count=0)


def test_a_decomposed_motion_blur_is_the_motion_blur() -> None:
    blur, decomposed = (make_operator(name, (2, 20, 24), seed=3) for name in ("motion-blur", "motion-blur-decomposed"))
    assert isinstance(decomposed, Decomposed)
    x = torch.randn(2, 2, 20, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blur = blur.to(torch.float64)
    torch.testing.assert_close(decomposed(x), blur(x), rtol=0.0, atol=0.0)
    assert describe(decomposed) == {"type": "Decomposed", "operator": describe(blur)}  # in float64, as it is made
    left, values, right = decomposed.decomposition.at(x)
    through = left @ torch.diag(values) @ right
    torch.testing.assert_close((through @ x.flatten(2).mT).mT, blur(x).flatten(2))


def test_a_decomposition_is_made_once_and_only_if_it_is_asked_for(monkeypatch) -> None:
    made = []
    monkeypatch.setattr(torch.linalg, "svd", lambda matrix, svd=torch.linalg.svd: made.append(1) or svd(matrix))
    operator = make_operator("motion-blur-decomposed", (1, 16, 16), count=2)
    y = operator(torch.ones(2, 1, 16, 16))
    operator.adjoint(y)
    assert made == []
    for _ in range(2):
        operator.to(torch.float32).select(torch.tensor([1, 0, 1])).pinv(torch.cat([y, y[:1]]))
    assert made == [1]


def test_an_image_too_large_to_decompose_is_refused() -> None:
    with pytest.raises(ShapeError, match="images of up to 4,096 pixels, got 64x65"):
        make_operator("motion-blur-decomposed", (1, 64, 65))


def test_only_an_operator_that_keeps_the_size_is_decomposed() -> None:
    with pytest.raises(ShapeError, match=r"makes \(4, 2\) of an image of 8x4"):
        Decomposed.create(BlockMean(2), (8, 4))


@pytest.mark.parametrize("make", [CircularBlur, ReflectBlur])
def test_a_kernel_larger_than_the_image_is_refused(make: type[CircularBlur] | type[ReflectBlur]) -> None:
    image = torch.zeros(1, 1, 4, 5)
    make(torch.ones(4, 5))(image)
    for shape, said in (((5, 5), "a kernel of 5x5"), ((4, 6), "a kernel of 4x6")):
        with pytest.raises(ShapeError, match=f"{said} is larger than the image of 4x5"):
            make(torch.ones(shape))(image)


@pytest.mark.parametrize("name", ["gaussian-blur", "gaussian-blur-circular", "gaussian-blur-separable"])
def test_a_gaussian_wider_than_the_image_is_refused(name: str) -> None:
    make_operator(name, (1, 16, 16), std=28.0)  # 15 pixels
    with pytest.raises(ShapeError, match="is larger than the image of 16"):
        make_operator(name, (1, 16, 16), std=30.0)


@pytest.mark.parametrize("name", ["motion-blur", "motion-blur-decomposed"])
def test_a_motion_kernel_larger_than_the_image_is_refused(name: str) -> None:
    make_operator(name, (1, 16, 16), size=15 * 16.0)
    with pytest.raises(ShapeError, match="a kernel of 17x17 is larger than the image of 16x16"):
        make_operator(name, (1, 16, 16), size=17 * 16.0)


def test_bad_kernels_and_widths_are_refused() -> None:
    for kernel in (torch.ones(()), torch.ones(2, 2, 3, 3), torch.ones(3, 3, dtype=torch.int64), torch.ones(0, 3)):
        with pytest.raises(ShapeError, match="expected a real kernel"):
            CircularBlur(kernel)
    with pytest.raises(ShapeError, match="observations of its own"):
        ReflectBlur(torch.ones(2, 3, 3), per_observation=True)(torch.zeros(3, 1, 8, 8))
    for kernel, event in ((torch.ones(3, 3), (8,)), (torch.ones(2, 3, 3), (3, 8, 8))):
        with pytest.raises(ShapeError, match="does not fit events"):
            CircularBlur(kernel)(torch.zeros(3, *event))
    with pytest.raises(ShapeError, match="does not fit events"):
        ZeroBlur(torch.ones(2, 3, 3), per_channel=True)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="positive"):
        gaussian_kernel(0.0)


@pytest.mark.parametrize(
    ("blur", "mode"), [(CircularBlur, "wrap"), (ReflectBlur, "mirror"), (ZeroBlur, "constant")], ids=lambda value: ""
)
@pytest.mark.parametrize(("sizes", "shape"), [((12,), (4,)), ((9, 7), (3, 4)), ((5, 6, 7), (3, 2, 5))])
def test_convolutions_in_one_to_three_dimensions_are_scipys(
    blur: type, mode: str, sizes: tuple[int, ...], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x, kernel = rng.normal(size=(2, 3, *sizes)), rng.random(shape)
    want = [[ndimage.convolve(channel, kernel, mode=mode) for channel in image] for image in x]
    assert_close(blur(torch.from_numpy(kernel))(torch.from_numpy(x)).numpy(), np.stack(want))


def test_each_channel_may_have_a_kernel_of_its_own(rng: np.random.Generator) -> None:
    x, kernels = torch.from_numpy(rng.normal(size=(2, 3, 8, 9))), torch.from_numpy(rng.random((3, 3, 5)))
    for blur in (CircularBlur, ReflectBlur, ZeroBlur):
        y = blur(kernels, per_channel=True)(x)
        assert_close(y[:, 1:2].numpy(), blur(kernels[1])(x[:, 1:2]).numpy())
