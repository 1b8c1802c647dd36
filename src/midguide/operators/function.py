"""Any differentiable function as an operator; its adjoint comes from automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator


@dataclass(frozen=True, eq=False)
class Function(Operator):
    """`y = f(x)` for each row; build it with `from_function`.

    Args:
        function: maps a batch (B, *event) to (B, *measurement), each row on its own; complex results become pairs
            (real, imaginary) along a last axis.
        event_shape: shape of one signal.
    """

    function: Callable[[Tensor], Tensor]
    event_shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        y = self.function(x)
        return torch.view_as_real(y) if y.is_complex() else y


@dataclass(frozen=True, eq=False)
class LinearFunction(Function, LinearOperator):
    """The same for a linear function; pseudo-inverse and proximal step are conjugate gradients."""

    def adjoint(self, y: Tensor) -> Tensor:
        return autodiff.vjp(self, y.new_zeros(len(y), *self.event_shape))[1](y)


def from_function(
    function: Callable[[Tensor], Tensor], event_shape: tuple[int, ...], *, linear: bool = False
) -> Function:
    """An operator from a function of batches that torch can differentiate.

    Args:
        function: maps a batch (B, *event) to (B, *measurement), each row on its own. Complex results become pairs.
        event_shape: shape of one signal.
        linear: whether `f(a x + b u) = a f(x) + b f(u)`; tested on random numbers. More samplers take linear operators.

    Raises:
        ConfigError: If the function mixes rows, is not differentiable, or is not linear although `linear` says so.
        ShapeError: If it does not return one row for each row.

    Example:
        >>> operator = from_function(lambda x: x.cumsum(-1), (4,), linear=True)
        >>> operator.adjoint(torch.ones(1, 4))
        tensor([[4., 3., 2., 1.]])
    """
    operator = (LinearFunction if linear else Function)(function, tuple(event_shape))
    x = Rng([(0, "from_function", row) for row in range(2)]).normal(torch.empty(2, *event_shape))
    y = operator(x)
    if not isinstance(y, Tensor) or y.ndim == 0 or len(y) != 2:
        raise ShapeError(
            f"the function maps a batch of shape {tuple(x.shape)} to {tuple(getattr(y, 'shape', ()))}",
            hint="it takes and gives one row for each signal of the batch",
        )
    size = y.abs().max().clamp_min(1e-30)
    if not torch.allclose(operator(x[:1]), y[:1], atol=1e-4 * float(size), rtol=0):
        raise ConfigError("a row of the function depends on the other rows", hint="reduce over all axes but the first")
    try:
        autodiff.vjp(operator, x)[1](torch.ones_like(y))
    except RuntimeError as error:
        raise ConfigError(f"torch cannot differentiate the function: {error}", hint="compute it with torch") from error
    if linear and not torch.allclose(operator(2 * x - 3 * x.flip(0)), 2 * y - 3 * y.flip(0), atol=1e-3 * float(size)):
        raise ConfigError("the function is not linear", hint="leave out linear=True")
    return operator
