from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.operators import SubsampledTransform, make_operator
from midguide.operators.compressed_sensing import hartley, walsh_hadamard
from midguide.storage.record import fingerprint

KINDS = ["hartley", "hadamard", "gaussian"]


@pytest.mark.parametrize("n", [1, 2, 8, 256])
def test_transform_is_scipys_matrix(n: int) -> None:
    got = walsh_hadamard(torch.eye(n, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(got, scipy.linalg.hadamard(n) / np.sqrt(n), rtol=0.0, atol=1e-15)  # one division


def test_transform_is_its_own_inverse_and_keeps_norms(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, 64)))
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(x)), x, rtol=0.0, atol=1e-14)  # 12 additions
    torch.testing.assert_close(walsh_hadamard(x).norm(), x.norm())


@pytest.mark.parametrize("n", [1, 2, 15, 31])
def test_hartley_transform_is_the_matrix_of_its_formula_orthogonal_and_its_own_inverse(n: int) -> None:
    angles = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
    want = (np.cos(angles) + np.sin(angles)) / np.sqrt(n)
    got = hartley(torch.eye(n, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(got, want, rtol=0.0, atol=1e-14)  # sums of 31 products
    np.testing.assert_allclose(got @ got, np.eye(n), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.25, 16), (0.5, 32), (1.0, 64)])
def test_each_channel_gives_the_fraction_of_its_pixels(kind: str, fraction: float, count: int) -> None:
    operator = make_operator("compressed-sensing", (3, 4, 16), kind=kind, fraction=fraction)
    assert operator(torch.zeros(2, 3, 4, 16)).shape == (2, 3, count)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_measured_alike(kind: str, dense: Callable[..., np.ndarray]) -> None:
    make = {"seed": 1, "kind": kind, "fraction": 0.25}
    one, three = (dense(make_operator("compressed-sensing", (c, 4, 8), **make), (c, 4, 8)) for c in (1, 3))
    np.testing.assert_allclose(three, np.kron(np.eye(3), one), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_decomposition_and_pinv_are_those_of_the_dense_matrix(kind: str, dense: Callable[..., np.ndarray]) -> None:
    shape = (2, 4, 8)
    operator = make_operator("compressed-sensing", shape, kind=kind, fraction=0.4)
    matrix = dense(operator, shape)
    basis = torch.eye(64, dtype=torch.float64).unflatten(1, shape)
    y = torch.eye(len(matrix), dtype=torch.float64).unflatten(1, (2, -1))
    values = operator.singular_values(basis[:1]).numpy()
    # Matrices of entries and singular values of at most 1.
    np.testing.assert_allclose(
        np.sort(values)[::-1][: len(matrix)], np.linalg.svd(matrix, compute_uv=False), atol=1e-13
    )
    np.testing.assert_allclose(operator.pinv(y).flatten(1).numpy().T, np.linalg.pinv(matrix), atol=1e-12)


def test_hadamard_rows_are_orthonormal_and_flat(dense: Callable[..., np.ndarray]) -> None:
    matrix = dense(make_operator("compressed-sensing", (1, 8, 8), kind="hadamard", fraction=0.3), (1, 8, 8))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(19), rtol=0.0, atol=1e-14)
    np.testing.assert_allclose(np.abs(matrix), 1 / 8, rtol=0.0, atol=1e-15)


def test_hartley_rows_are_orthonormal_and_nearly_flat_at_any_size(dense: Callable[..., np.ndarray]) -> None:
    matrix = dense(make_operator("compressed-sensing", (1, 7, 9), fraction=0.3), (1, 7, 9))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(19), rtol=0.0, atol=1e-14)
    assert np.abs(matrix).max() <= np.sqrt(2 / 63) + 1e-15  # |cos + sin| <= sqrt(2)


def test_gaussian_rows_are_a_uniformly_random_subspace(dense: Callable[..., np.ndarray]) -> None:
    matrix = dense(make_operator("compressed-sensing", (1, 16, 16), kind="gaussian"), (1, 16, 16))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(128), rtol=0.0, atol=1e-13)
    # 32,768 entries of mean zero and, in units of 1/16, of fourth moment 3 n / (n + 2) = 2.98 (uniform directions;
    # signs would have 1): 5 standard errors, nearly those of independent normal draws; one false alarm in 9e5 seeds.
    entries = 16 * matrix.ravel()
    assert abs(entries.mean()) < 5 / np.sqrt(len(entries))
    assert abs((entries**4).mean() - 3 * 256 / 258) < 5 * np.sqrt(96 / len(entries))


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_what_is_drawn_and_the_global_generator_is_left_alone(kind: str) -> None:
    before = torch.random.get_rng_state()
    operators = [make_operator("compressed-sensing", (1, 8, 8), seed=seed, kind=kind) for seed in (0, 0, 1)]
    first, again, other = (operator(torch.ones(1, 1, 8, 8)) for operator in operators)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first, again, other = (fingerprint(operator) for operator in operators)
    assert first == again != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"power of two of pixels, got 384\nhint: kind=hartley takes any"):
        make_operator("compressed-sensing", (3, 24, 16), kind="hadamard")
    with pytest.raises(ShapeError, match=r"16,384 pixels .* 4 GB.*\nhint: kind=hartley takes any size"):
        make_operator("compressed-sensing", (3, 128, 128), kind="gaussian")
    with pytest.raises(ConfigError, match=r"unknown kind `x`\nhint: one of gaussian, hadamard, hartley"):
        make_operator("compressed-sensing", (3, 8, 8), kind="x")
    with pytest.raises(ConfigError, match=r"unknown transform `x`\nhint: one of hadamard, hartley"):
        SubsampledTransform(torch.ones(4), torch.tensor([1]), "x")
    for fraction in (0.0, -0.5, 1.5):
        with pytest.raises(ConfigError, match=r"fraction must be in \(0, 1\]"):
            make_operator("compressed-sensing", (3, 8, 8), fraction=fraction)
    with pytest.raises(ShapeError, match="images of 8x8"):
        make_operator("compressed-sensing", (3, 8, 8))(torch.zeros(1, 3, 4, 16))
    rows = SubsampledTransform(torch.ones(4), torch.tensor([1, 2]))
    with pytest.raises(ShapeError, match="vectors of 4 entries"):
        rows(torch.zeros(1, 8))
    with pytest.raises(ShapeError, match=r"measurements have shape \(2,\)"):
        rows.adjoint(torch.zeros(1, 4))
