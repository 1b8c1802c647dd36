from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.operators import BlockMean

CASES = [
    (2, (3, 6, 4)),
    (4, (1, 8, 12)),
    ((3, 2), (2, 6, 4)),
    ((4,), (12,)),
    ((2,), (3, 8)),
    (1, (1, 3, 3)),
]


@pytest.mark.parametrize("factor", [2, 4, (2, 4)])
def test_it_is_numpys_block_mean(factor: int | tuple[int, int], rng: np.random.Generator) -> None:
    f, g = (factor, factor) if isinstance(factor, int) else factor
    x = rng.normal(size=(2, 3, 8, 12))
    want = x.reshape(2, 3, 8 // f, f, 12 // g, g).mean((3, 5))
    np.testing.assert_allclose(BlockMean(factor)(torch.from_numpy(x)).numpy(), want, atol=1e-14)


@pytest.mark.parametrize(("factor", "shape"), CASES)
def test_adjoint_pinv_and_singular_values_are_those_of_the_dense_matrix(
    factor: int | tuple[int, ...], shape: tuple[int, ...], dense: Callable[..., np.ndarray]
) -> None:
    operator = BlockMean(factor)
    matrix = dense(operator, shape)
    outputs = torch.eye(len(matrix), dtype=torch.float64)
    y = outputs.unflatten(1, operator(torch.zeros(1, *shape)).shape[1:])
    # A few operations per entry of size 1.
    np.testing.assert_allclose(operator.adjoint(y).flatten(1).numpy(), matrix, atol=1e-14)
    np.testing.assert_allclose(operator.pinv(y).flatten(1).numpy().T, np.linalg.pinv(matrix), atol=1e-13)
    values = np.sort(operator.singular_values(torch.zeros(1, *shape, dtype=torch.float64)).numpy())[::-1]
    np.testing.assert_allclose(values[: len(matrix)], np.linalg.svd(matrix, compute_uv=False), atol=1e-14)
    assert not values[len(matrix) :].any()


def test_singular_values_are_one_over_the_factor() -> None:
    values = BlockMean(4).singular_values(torch.zeros(1, 3, 8, 8))
    assert int((values == 0.25).sum()) == 12
    assert int((values == 0).sum()) == 180


def test_pinv_replicates() -> None:
    y = torch.randn(2, 3, 2, 2)
    want = y.repeat_interleave(4, -2).repeat_interleave(4, -1)
    assert torch.equal(BlockMean(4).pinv(y), want)


@pytest.mark.parametrize("shape", [(3, 9, 8), (3, 8, 6), (8,)])
def test_sizes_that_are_no_multiples_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="do not tile"):
        BlockMean(4)(torch.zeros(1, *shape))


@pytest.mark.parametrize("factor", [0, -2, (2, 0), (), 2.0])
def test_impossible_factors_are_refused(factor: object) -> None:
    with pytest.raises(ConfigError, match="factor"):
        BlockMean(factor)  # pyright: ignore[reportArgumentType]
