from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators import (
    BlockMean,
    CircularBlur,
    Compose,
    HighDynamicRange,
    LinearCompose,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    compose,
    gaussian_kernel,
    random_mask,
    rescaled,
)


@dataclass(frozen=True, eq=False)
class Square(Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return x.square()


def blur() -> CircularBlur:
    return CircularBlur(torch.outer(gaussian_kernel(0.6), gaussian_kernel(0.6)))


def test_composition_is_the_product_of_the_matrices(dense: Callable[..., np.ndarray]) -> None:
    shape = (1, 6, 6)
    operator = compose(BlockMean(2), blur(), random_mask((6, 6), 0.7, seed=0))
    factors = [dense(BlockMean(2), shape), dense(blur(), shape), dense(random_mask((6, 6), 0.7, seed=0), shape)]
    np.testing.assert_allclose(dense(operator, shape), factors[0] @ factors[1] @ factors[2], atol=1e-14)


def test_linear_composition_has_the_pinv_of_the_product(dense: Callable[..., np.ndarray]) -> None:
    operator = compose(BlockMean(2), blur())
    assert isinstance(operator, LinearCompose)
    y = torch.eye(9, dtype=torch.float64).unflatten(1, (1, 3, 3))
    # Conjugate gradients to a relative residual of 2e-15 on A^T A with condition below 1e2.
    want = np.linalg.pinv(dense(operator, (1, 6, 6)))
    np.testing.assert_allclose(operator.pinv(y).flatten(1).numpy().T, want, atol=1e-10)


def test_composition_is_linear_only_if_both_are() -> None:
    assert isinstance(compose(blur(), BlockMean(2)), LinearOperator)
    for operator in (compose(Square(), blur()), compose(blur(), Square())):
        assert type(operator) is Compose
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(compose(BlockMean(2), Square())(x), BlockMean(2)(x.square()))


def test_observations_selection_and_measured_entries_are_forwarded() -> None:
    mask = random_mask((6, 6), 0.5, seed=0, count=3)
    x = torch.randn(3, 2, 6, 6)
    operator = compose(mask, blur())
    assert operator.observations == compose(blur(), mask).observations == 3
    assert torch.equal(operator.measured(operator(x)), mask.measured(x))
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(operator.select(rows)(x[rows]), operator(x)[rows])


def test_moving_a_composition_moves_its_parts() -> None:
    operator = compose(Mask(torch.ones(4, dtype=torch.bool)), Matrix.create(torch.eye(4), (4,))).to(torch.float32)
    assert isinstance(operator, LinearCompose)
    assert isinstance(operator.inner, Matrix)
    assert operator.inner.matrix.dtype == torch.float32


def test_compositions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ShapeError, match="observations"):
        compose(random_mask((4,), 0.5, seed=0, count=2), random_mask((4,), 0.5, seed=0, count=3))
    with pytest.raises(ConfigError, match="at least one"):
        compose()
    with pytest.raises(ConfigError, match=r"values in \(-1.0, 1.0\), the inner for values in \(0.0, 1.0\)"):
        compose(HighDynamicRange(), rescaled(HighDynamicRange(), (0.0, 1.0)))
