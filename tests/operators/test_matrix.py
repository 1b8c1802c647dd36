from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.operators import Identity, Matrix
from midguide.testing import check_operator

# Both sides are float64 computations with fewer than 1e3 operations per entry on well-conditioned matrices.
assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def low_rank(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(7, 3)) @ rng.normal(size=(3, 12))


def test_identity_measures_everything_as_it_is() -> None:
    x = torch.randn(2, 3, 4, 5)
    operator = Identity()
    assert torch.equal(operator(x), x)
    assert torch.equal(operator.singular_values(x), torch.ones(60))
    assert bool(operator.measured(x))


def test_identity_prox_is_a_weighted_mean() -> None:
    x, y = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(Identity().prox(x, y, 3.0), (y + 3 * x) / 4)


def test_matrix_is_numpy_product(rng: np.random.Generator) -> None:
    matrix, x = rng.normal(size=(7, 12)), rng.normal(size=(4, 3, 4))
    y = Matrix.create(torch.from_numpy(matrix), (3, 4))(torch.from_numpy(x))
    assert_close(y.numpy(), x.reshape(4, 12) @ matrix.T)


@pytest.mark.parametrize("rows", [7, 12, 20])
def test_pinv_of_wide_square_and_tall_matrices_is_numpys(rng: np.random.Generator, rows: int) -> None:
    matrix, y = rng.normal(size=(rows, 12)), rng.normal(size=(4, rows))
    x = Matrix.create(torch.from_numpy(matrix), (12,)).pinv(torch.from_numpy(y))
    np.testing.assert_allclose(x.numpy(), y @ np.linalg.pinv(matrix).T, rtol=1e-8, atol=1e-8)  # condition about 1e2


def test_pinv_of_a_rank_deficient_matrix_is_numpys(rng: np.random.Generator) -> None:
    matrix, y = low_rank(rng), rng.normal(size=(4, 7))
    operator = Matrix.create(torch.from_numpy(matrix), (12,))
    assert int((operator.values > 0).sum()) == 3
    assert_close(operator.pinv(torch.from_numpy(y)).numpy(), y @ np.linalg.pinv(matrix, rcond=1e-12).T)


def test_prox_solves_the_normal_equations(rng: np.random.Generator) -> None:
    matrix, x, y = rng.normal(size=(7, 12)), rng.normal(size=(4, 12)), rng.normal(size=(4, 7))
    operator = Matrix.create(torch.from_numpy(matrix), (12,))
    want = np.linalg.solve(matrix.T @ matrix + 0.3 * np.eye(12), (y @ matrix + 0.3 * x).T).T
    got = operator.prox(torch.from_numpy(x), torch.from_numpy(y), 0.3)
    assert_close(got.numpy(), want)


def test_a_matrix_per_observation_acts_row_by_row(rng: np.random.Generator) -> None:
    matrices, x = torch.from_numpy(rng.normal(size=(3, 5, 6))), torch.from_numpy(rng.normal(size=(3, 6)))
    together = Matrix.create(matrices, (6,))
    assert together.observations == 3
    alone = torch.cat([Matrix.create(matrix, (6,))(row[None]) for matrix, row in zip(matrices, x, strict=True)])
    torch.testing.assert_close(together(x), alone)
    torch.testing.assert_close(together.select(torch.tensor([2, 2]))(x[[2, 2]]), alone[[2, 2]])


@pytest.mark.parametrize("matrix", [torch.eye(5)[:3], torch.eye(5)[[4, 1]], torch.zeros(2, 5), torch.randn(8, 5)])
def test_the_reflections_are_an_orthogonal_basis_that_begins_with_the_row_space(matrix: torch.Tensor) -> None:
    operator = Matrix.create(matrix, (5,))
    basis, eye = operator.right.mT, torch.eye(5, dtype=torch.float64)
    assert_close((basis.mT @ basis).numpy(), eye.numpy())
    assert_close(((operator.left * operator.values) @ basis.mT).numpy(), matrix.double().numpy())
    assert_close(operator.vt(eye).numpy(), basis.numpy())  # row b is V^T e_b
    assert_close(operator.v(eye, eye).numpy(), basis.mT.numpy())


def test_orthonormal_rows_are_those_of_gram_and_schmidt(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(4, 7))
    operator = Matrix.orthonormal(torch.from_numpy(rows), (7,))
    want = np.empty_like(rows)
    for i, row in enumerate(rows):
        rest = row - want[:i].T @ (want[:i] @ row)
        want[i] = rest / np.linalg.norm(rest)
    assert_close(operator.matrix.numpy(), want)
    check_operator(operator, (7,))
    with pytest.raises(ShapeError, match=r"not orthonormal .*\nhint: at most 3 rows"):
        Matrix.orthonormal(torch.ones(5, 3), (3,))
    with pytest.raises(ShapeError, match="linearly dependent"):
        Matrix.orthonormal(torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]), (3,))


def test_cut_removes_small_singular_values_from_the_matrix_too(rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(6, 6))
    left, values, right = np.linalg.svd(matrix)
    operator = Matrix.create(torch.from_numpy(matrix), (6,), cut=float(values[2]) * 0.999)
    want = (left[:, :3] * values[:3]) @ right[:3]
    assert_close(operator.matrix.numpy(), want)
    assert int((operator.values > 0).sum()) == 3


def test_moving_and_replacing_keep_the_decomposition(rng: np.random.Generator) -> None:
    operator = Matrix.create(torch.from_numpy(rng.normal(size=(4, 6))), (6,))
    assert operator.to(torch.float32).reflectors.dtype == torch.float32
    assert replace(operator, event_shape=(2, 3)).reflectors is operator.reflectors


@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 2, 4, 6)])
def test_a_matrix_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="does not act on events"):
        Matrix.create(torch.zeros(shape), (6,))


def test_bad_matrices_and_inputs_are_refused() -> None:
    with pytest.raises(ShapeError, match="NaN"):
        Matrix.create(torch.full((2, 3), float("nan")), (3,))
    with pytest.raises(ConfigError, match="cut"):
        Matrix.create(torch.ones(2, 3), (3,), cut=-1.0)
    operator = Matrix.create(torch.ones(2, 3), (3,))
    with pytest.raises(ShapeError, match="events of shape"):
        operator(torch.zeros(1, 4))
    with pytest.raises(ShapeError, match="measurements have shape"):
        operator.adjoint(torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="observations of its own"):
        Matrix.create(torch.ones(2, 2, 3), (3,))(torch.zeros(1, 3))
