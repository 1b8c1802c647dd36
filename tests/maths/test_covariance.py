"""Covariances as objects: roots and solves of a Krylov space, and what they say where a matrix is not positive."""

from dataclasses import dataclass

import pytest
import torch

from midguide.maths.covariance import Pullback, krylov
from midguide.maths.rng import Rng

ROWS, D = 4, 6


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass
class Dense:
    """A linear map given as a matrix."""

    matrix: torch.Tensor

    def __call__(self, x):
        return x @ self.matrix.mT

    def adjoint(self, y):
        return y @ self.matrix


class Counted:
    """Products with matrices of each row, counted."""

    def __init__(self, matrices):
        self.matrices, self.calls = matrices, 0

    def __call__(self, v):
        self.calls += 1
        return torch.einsum("bij,bj->bi", self.matrices.to(v), v)


def positive(seed=0):
    a = draw(ROWS, D, D, seed=seed)
    return a @ a.mT / D + 0.05 * torch.eye(D, dtype=torch.float64)


def solution(matrices, operator, noise, r):
    a = operator.matrix
    return torch.linalg.solve(a @ matrices @ a.mT + torch.diag_embed(noise.expand(r.shape)), r[..., None])[..., 0]


@pytest.mark.parametrize("measured", [1, 3, 5])
def test_a_solve_in_all_directions_is_the_dense_one_and_its_gain_is_free(measured):
    products, operator = Counted(positive()), Dense(draw(measured, D, seed=1))
    covariance, r = Pullback(products, 1.0, (D,), directions=D), draw(ROWS, measured, seed=2)
    for noise in (torch.tensor(0.3, dtype=torch.float64), torch.linspace(0.1, 0.9, measured, dtype=torch.float64)):
        products.calls = 0
        found = covariance.solve(operator, noise, r)
        assert products.calls == covariance.products(r) == measured
        want = solution(products.matrices, operator, noise, r)
        assert torch.allclose(found.value, want, atol=1e-10)
        assert torch.allclose(found.gain, covariance(operator.adjoint(want)), atol=1e-10)
        assert bool((found.residual < 1e-10).all())
        assert not bool(found.indefinite.any())


def test_few_directions_are_the_steps_of_conjugate_gradients():
    matrices, r = positive(), draw(ROWS, D, seed=2)
    for directions in (1, 2, 3):
        found = Pullback(Counted(matrices), 1.0, (D,), directions).solve(Dense(torch.eye(D).double()), 0.2, r)
        for row in range(ROWS):
            matrix = matrices[row] + 0.2 * torch.eye(D, dtype=torch.float64)
            x, residual = torch.zeros(D, dtype=torch.float64), r[row]
            direction = residual
            for _ in range(directions):  # Hestenes and Stiefel 1952
                length = residual @ residual / (direction @ matrix @ direction)
                x, fresh = x + length * direction, residual - length * matrix @ direction
                direction, residual = fresh + fresh @ fresh / (residual @ residual) * direction, fresh
            assert torch.allclose(found.value[row], x, atol=1e-10)
            assert torch.allclose(found.residual[row], residual.norm() / r[row].norm(), atol=1e-10)


def test_a_root_in_all_directions_has_the_covariance():
    products = Counted(positive())
    covariance = Pullback(products, 2.0, (D,), directions=D)
    units = torch.eye(D, dtype=torch.float64)
    root = torch.stack([covariance.root(unit.expand(ROWS, D)).value for unit in units], 2)
    assert products.calls == D * D
    assert torch.allclose(root @ root.mT, 2 * products.matrices, atol=1e-10)


def test_a_root_of_few_directions_says_how_much_the_last_one_changed():
    covariance, z = Pullback(Counted(positive()), 1.0, (D,), directions=D), draw(ROWS, D, seed=3)
    values, vectors = torch.linalg.eigh(positive())
    want = torch.einsum("bij,bj,bkj,bk->bi", vectors, values.sqrt(), vectors, z)
    errors, changes = [], []
    for directions in (2, 4, D):
        found = Pullback(covariance.pullback, 1.0, (D,), directions).root(z)
        errors.append(float((found.value - want).norm()))
        changes.append(float(found.change.mean()))
    assert errors == sorted(errors, reverse=True)
    assert changes == sorted(changes, reverse=True)
    assert errors[-1] < 1e-10


def test_draws_have_the_covariance():
    matrix, rows = positive()[:1], 40_000
    covariance = Pullback(Counted(matrix.expand(rows, D, D)), 1.0, (D,), directions=D)
    draws = covariance.draw(Rng([(0, "draws")], rows), torch.empty(rows, D, dtype=torch.float64)).value
    # each entry has a standard error below 2 l / sqrt(rows), l the largest eigenvalue; five of them, 21 entries
    allowed = 5 * 2 * float(torch.linalg.eigvalsh(matrix).max()) / rows**0.5
    assert float((draws.mT @ draws / rows - matrix[0]).abs().max()) < allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_of_negative_curvature_are_left_out_and_said(dtype):
    matrices = positive().to(dtype)
    matrices[1] = -matrices[1]
    matrices[2] = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.5, 0.5, -3.0]))
    covariance, r = Pullback(Counted(matrices), 1.0, (D,), directions=D), draw(ROWS, D, seed=4).to(dtype)
    found = covariance.solve(Dense(torch.eye(D, dtype=dtype)), 0.01, r)
    assert found.indefinite.tolist() == [False, True, True, False]
    assert bool(torch.isfinite(found.value).all() and torch.isfinite(found.gain).all())
    assert not bool(found.value[1].any())  # all directions are negative: no step is taken
    want = torch.cat([r[2, :5] / (matrices[2].diagonal()[:5] + 0.01), r.new_zeros(1)])  # the others are solved
    assert torch.allclose(found.value[2], want, atol=1e-4)
    alone = Pullback(Counted(matrices[[0, 3]]), 1.0, (D,), D).solve(Dense(torch.eye(D, dtype=dtype)), 0.01, r[[0, 3]])
    assert torch.allclose(found.value[[0, 3]], alone.value, rtol=1e-4)
    root = covariance.root(r)
    assert root.indefinite.tolist() == [False, True, True, False]
    assert bool(torch.isfinite(root.value).all())
    assert not bool(root.value[1].any())


def test_rounding_is_not_taken_for_negative_curvature():
    factor = draw(ROWS, D, 2)
    covariance = Pullback(Counted((100 * factor @ factor.mT).float()), 1.0, (D,), directions=D)
    r = draw(ROWS, D, seed=8).float()
    found = covariance.solve(Dense(torch.eye(D)), 1e-7, r)  # noise that float32 does not see beside 100
    assert not bool(found.indefinite.any())
    along = torch.linalg.qr(factor).Q  # the gain is the projection on the range of C
    want = (along @ (along.mT @ r.double()[..., None]))[..., 0]
    assert torch.allclose(found.gain.double(), want, atol=1e-3)


def test_a_jacobian_that_is_not_symmetric_counts_by_its_symmetric_part():
    symmetric, skew = positive(), draw(ROWS, D, D, seed=5)
    skew = skew - skew.mT
    whole, part = (Pullback(Counted(m), 1.0, (D,), directions=D) for m in (symmetric + skew, symmetric))
    z = draw(ROWS, D, seed=6)
    assert torch.allclose(whole.root(z).value, part.root(z).value, atol=1e-8)


def test_spaces_that_end_early_and_right_sides_of_zero_give_no_nan():
    matrices = torch.zeros(3, D, D, dtype=torch.float64)
    matrices[0] = 2 * torch.eye(D, dtype=torch.float64)
    matrices[1, 0, 0] = 5.0
    r = draw(3, D, seed=7)
    r[2] = 0.0
    covariance = Pullback(Counted(matrices), 1.0, (D,), directions=5)
    found = covariance.solve(Dense(torch.eye(D, dtype=torch.float64)), 0.5, r)
    noise = torch.tensor(0.5, dtype=torch.float64)
    assert torch.allclose(found.value, solution(matrices, Dense(torch.eye(D, dtype=torch.float64)), noise, r))
    assert not bool(found.indefinite.any())
    assert torch.allclose(covariance.root(r).value[0], 2**0.5 * r[0])
    assert not bool(covariance.root(r).value[2].any())


def test_the_basis_is_orthonormal_where_plain_lanczos_loses_it():
    values = torch.logspace(0, -9, 40, dtype=torch.float64)
    basis = torch.linalg.qr(draw(40, 40)).Q
    matrix = (basis * values) @ basis.mT
    space = krylov(lambda v: v @ matrix, draw(1, 40, seed=1), 20)
    q = torch.stack([v[0] for v in space.basis])
    assert torch.allclose(q @ q.mT, torch.eye(20, dtype=torch.float64), atol=1e-10)


def test_diagonal_and_trace_are_those_of_the_matrix():
    covariance, like = Pullback(Counted(positive()), 3.0, (D,)), draw(ROWS, D)
    want = 3 * positive().diagonal(dim1=1, dim2=2)
    assert torch.allclose(covariance.diagonal(like), want)
    assert torch.allclose(covariance.trace(like), want.sum(1))
