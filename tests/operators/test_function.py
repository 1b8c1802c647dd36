from __future__ import annotations

import pytest
import torch

from midguide.errors import ConfigError, ShapeError
from midguide.operators import LinearOperator, Subsample, from_function, join, make_operator, stack
from midguide.operators.stacking import Stacked


def test_the_adjoint_of_a_linear_function_is_that_of_its_matrix() -> None:
    matrix = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operator = from_function(lambda x: x @ matrix.to(x).T, (3,), linear=True)
    assert isinstance(operator, LinearOperator)
    y = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(operator.adjoint(y), matrix)


@pytest.mark.parametrize(
    ("function", "settings", "said"),
    [
        (lambda x: x / x.norm(), {}, "depends on the other rows"),
        (lambda x: x.square(), {"linear": True}, "is not linear"),
        (lambda x: x.detach().round(), {}, "cannot differentiate"),
    ],
)
def test_functions_that_are_no_operators_are_refused(function, settings: dict[str, bool], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_function(function, (4,), **settings)


def test_a_function_that_loses_the_rows_is_refused() -> None:
    with pytest.raises(ShapeError, match="one row for each signal"):
        from_function(lambda x: x.sum(), (4,))


def test_a_stack_measures_what_its_operators_measure() -> None:
    mask, few = make_operator("random-inpainting", (1, 4, 4)), Subsample((2, 2))
    operator, x = stack([mask, few], (1, 4, 4)), torch.randn(2, 1, 4, 4)
    assert torch.equal(operator(x), join([mask(x), few(x)]))
    assert int(operator.measured(operator(x))[0].sum()) == 5 + 4
    assert isinstance(operator, Stacked)
    one, other = operator.split(operator(x))
    assert torch.equal(one, mask(x))
    assert torch.equal(other, few(x))


def test_an_empty_stack_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        stack([], (4,))


def test_sides_that_are_no_multiples_are_refused() -> None:
    with pytest.raises(ShapeError, match="do not tile"):
        make_operator("subsample", (1, 6, 6), factor=4)
    with pytest.raises(ConfigError, match="positive integers"):
        Subsample((0,))
