import math

import numpy as np
import ot
import pytest
import scipy.linalg
import torch

from midguide.errors import ConvergenceWarning
from midguide.maths.linalg import (
    conjugate_gradients,
    gaussian_kl,
    gaussian_w2,
    largest_singular_value,
    reflect,
    symmetric_sqrt,
    weighted_sum,
)


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covariance(d, seed):
    factor = _normal(d, d, seed=seed)
    return factor @ factor.mT / d + 0.1 * torch.eye(d, dtype=torch.float64)


def test_a_weighted_sum_leaves_its_terms_as_they_were():
    x, y = _normal(2, 3), _normal(2, 3, seed=1)
    before = x.clone(), y.clone()
    torch.testing.assert_close(weighted_sum((2.0, x), (-0.5, y), (1.0, x)), 3 * x - y / 2)
    torch.testing.assert_close(weighted_sum((1.0, x)), x)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_conjugate_gradients_solve_the_system():
    matrix, b = _covariance(12, 0), _normal(5, 12)
    x = conjugate_gradients(lambda v: v @ matrix, b, tolerance=1e-13)
    # The error is at most the condition number (below 100) times the residual.
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b.mT).mT, rtol=1e-10, atol=1e-10)


def test_conjugate_gradients_start_where_they_are_told():
    matrix, b = _covariance(6, 0), _normal(2, 6)
    solution = torch.linalg.solve(matrix, b.mT).mT
    with pytest.warns(ConvergenceWarning, match="have not converged in 0 steps"):
        x = conjugate_gradients(lambda v: v @ matrix, b, start=solution, tolerance=1e-30, max_iterations=0)
    assert torch.equal(x, solution)
    x = conjugate_gradients(lambda v: v @ matrix, b, start=_normal(2, 6, seed=1), tolerance=1e-13)
    torch.testing.assert_close(x, solution, rtol=1e-10, atol=1e-10)


def test_conjugate_gradients_say_when_they_end_too_early():
    b = torch.ones(2, 8, dtype=torch.float64)
    b[1, 1:] = 0.0  # an eigenvector: solved in one step
    scale = torch.logspace(0, 6, 8, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="the blur is approximate: .* in 3 steps"):
        conjugate_gradients(lambda v: scale * v, b, max_iterations=3, what="the blur")
    conjugate_gradients(lambda v: scale * v, b[1:], max_iterations=3)  # a warning would be an error here


def test_conjugate_gradients_row_does_not_depend_on_its_batch():
    # Rows of very different difficulty, so that they stop at different iterations. The map is elementwise, and sums
    # over 32 entries are the only other operation: equal to the bit.
    scale = torch.logspace(0, 3, 32, dtype=torch.float64)
    b = _normal(4, 32)
    b[1] = 0.0
    b[2, 1:] = 0.0
    together = conjugate_gradients(lambda v: v * scale, b, tolerance=1e-8)
    for i in range(4):
        alone = conjugate_gradients(lambda v: v * scale, b[i : i + 1], tolerance=1e-8)
        assert torch.equal(alone[0], together[i])
    assert not together[1].any()


def test_conjugate_gradients_with_a_matrix_do_not_depend_on_the_batch_to_rounding():
    # A product with a matrix may round differently for one row and for four.
    matrix, b = _covariance(12, 1), _normal(4, 12)
    together = conjugate_gradients(lambda v: v @ matrix, b, tolerance=1e-12)
    alone = torch.cat([conjugate_gradients(lambda v: v @ matrix, row[None], tolerance=1e-12) for row in b])
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)


def test_conjugate_gradients_give_the_least_norm_solution_of_a_singular_system():
    factor = _normal(8, 3)
    matrix = factor @ factor.mT
    b = _normal(2, 8, seed=1) @ matrix
    x = conjugate_gradients(lambda v: v @ matrix, b, tolerance=1e-12)
    torch.testing.assert_close(x, b @ torch.linalg.pinv(matrix, hermitian=True), rtol=1e-8, atol=1e-8)


def test_symmetric_sqrt_agrees_with_scipy():
    matrix = _covariance(7, 2)
    expected = torch.from_numpy(np.real(scipy.linalg.sqrtm(matrix.numpy())))
    torch.testing.assert_close(symmetric_sqrt(matrix), expected, rtol=1e-10, atol=1e-10)


def test_gaussian_w2_agrees_with_pot():
    mean_a, mean_b, cov_a, cov_b = _normal(6), _normal(6, seed=1), _covariance(6, 2), _covariance(6, 3)
    expected = torch.as_tensor(ot.gaussian.bures_wasserstein_distance(mean_a, mean_b, cov_a, cov_b))
    assert gaussian_w2(mean_a, cov_a, mean_b, cov_b) == pytest.approx(float(expected), rel=1e-9)


def test_gaussian_w2_in_one_dimension_is_the_distance_of_means_and_deviations():
    one = torch.ones(1)
    assert gaussian_w2(0 * one, 4 * one.diag(), 3 * one, one.diag()) == pytest.approx(math.sqrt(9 + 1))
    # A singular covariance (a point) is allowed.
    assert gaussian_w2(0 * one, 0 * one.diag(), 3 * one, 4 * one.diag()) == pytest.approx(math.sqrt(9 + 4))


def test_gaussian_w2_of_a_law_to_itself_is_zero():
    mean, cov = _normal(20), _covariance(20, 0)
    # The square root of a sum of rounding errors: 20 times 1e-16, hence 1e-7.
    assert gaussian_w2(mean, cov, mean, cov) < 1e-6


def test_gaussian_kl_in_one_dimension_is_the_textbook_formula():
    one = torch.ones(1)
    expected = math.log(3 / 2) + (4 + 1) / (2 * 9) - 0.5
    assert gaussian_kl(0 * one, 4 * one.diag(), one, 9 * one.diag()) == pytest.approx(expected, rel=1e-12)


def test_gaussian_kl_agrees_with_torch_distributions():
    mean_a, mean_b, cov_a, cov_b = _normal(6), _normal(6, seed=1), _covariance(6, 2), _covariance(6, 3)
    law_a, law_b = (torch.distributions.MultivariateNormal(m, c) for m, c in ((mean_a, cov_a), (mean_b, cov_b)))
    expected = torch.distributions.kl_divergence(law_a, law_b)
    assert gaussian_kl(mean_a, cov_a, mean_b, cov_b) == pytest.approx(float(expected), rel=1e-10)


def test_power_iteration_finds_the_largest_singular_value_of_each_row():
    matrix = _normal(5, 8)
    start = _normal(3, 8, seed=1)
    got = largest_singular_value(lambda v: v @ matrix.mT, lambda v: v @ matrix, start, iterations=500)
    expected = torch.linalg.svdvals(matrix)[0].expand(3)
    # The error falls as (s2 / s1)^(4 iterations).
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_reflection_is_orthogonal_symmetric_and_has_the_given_first_column():
    unit = _normal(6)
    unit = unit / unit.norm()
    matrix = reflect(torch.eye(6, dtype=torch.float64), unit)
    torch.testing.assert_close(matrix, matrix.mT)
    torch.testing.assert_close(matrix @ matrix, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(matrix[:, 0], unit)
