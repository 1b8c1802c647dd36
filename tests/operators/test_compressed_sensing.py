from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.operators import SubsampledHadamard, make_operator
from midguide.operators.compressed_sensing import walsh_hadamard
from midguide.record import fingerprint

KINDS = ["hadamard", "gaussian"]


@pytest.mark.parametrize("n", [1, 2, 8, 256])
def test_transform_is_scipys_matrix(n: int) -> None:
    got = walsh_hadamard(torch.eye(n, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(got, scipy.linalg.hadamard(n) / np.sqrt(n), rtol=0.0, atol=1e-15)  # one division


def test_transform_is_its_own_inverse_and_keeps_norms(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, 64)))
    torch.testing.assert_close(walsh_hadamard(walsh_hadamard(x)), x, rtol=0.0, atol=1e-14)  # 12 additions
    torch.testing.assert_close(walsh_hadamard(x).norm(), x.norm())


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
    # Matrices of entries below 1 and condition below 10.
    np.testing.assert_allclose(
        np.sort(values)[::-1][: len(matrix)], np.linalg.svd(matrix, compute_uv=False), atol=1e-13
    )
    np.testing.assert_allclose(operator.pinv(y).flatten(1).numpy().T, np.linalg.pinv(matrix), atol=1e-12)


def test_hadamard_rows_are_orthonormal_and_flat(dense: Callable[..., np.ndarray]) -> None:
    matrix = dense(make_operator("compressed-sensing", (1, 8, 8), fraction=0.3), (1, 8, 8))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(19), rtol=0.0, atol=1e-14)
    np.testing.assert_allclose(np.abs(matrix), 1 / 8, rtol=0.0, atol=1e-15)


def test_gaussian_entries_have_mean_zero_and_variance_one_over_n(dense: Callable[..., np.ndarray]) -> None:
    entries = dense(make_operator("compressed-sensing", (1, 16, 16), kind="gaussian"), (1, 16, 16)).ravel() * 16
    # 32,768 draws: 5 std of the mean and of the mean square; one false alarm in 9e5 seeds.
    assert abs(entries.mean()) < 5 / np.sqrt(len(entries))
    assert abs((entries**2).mean() - 1) < 5 * np.sqrt(2 / len(entries))


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
    with pytest.raises(ShapeError, match=r"power of two of pixels, got 384\nhint: crop or resize.*gaussian"):
        make_operator("compressed-sensing", (3, 24, 16))
    with pytest.raises(ShapeError, match=r"16,384 pixels .* 5 GB.*\nhint: kind='hadamard'"):
        make_operator("compressed-sensing", (3, 128, 128), kind="gaussian")
    with pytest.raises(ConfigError, match=r"unknown kind 'x'\nhint: one of gaussian, hadamard"):
        make_operator("compressed-sensing", (3, 8, 8), kind="x")
    for fraction in (0.0, -0.5, 1.5):
        with pytest.raises(ConfigError, match=r"fraction must be in \(0, 1\]"):
            make_operator("compressed-sensing", (3, 8, 8), fraction=fraction)
    with pytest.raises(ShapeError, match="images of 8x8"):
        make_operator("compressed-sensing", (3, 8, 8))(torch.zeros(1, 3, 4, 16))
    rows = SubsampledHadamard(torch.ones(4), torch.tensor([1, 2]))
    with pytest.raises(ShapeError, match="vectors of 4 entries"):
        rows(torch.zeros(1, 8))
    with pytest.raises(ShapeError, match=r"measurements have shape \(2,\)"):
        rows.adjoint(torch.zeros(1, 4))
