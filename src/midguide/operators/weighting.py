"""Operators with weights on their measured values, so that noise of many levels becomes noise of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.operators.base import LinearOperator, Operator, SVDOperator, check_rows
from midguide.operators.mask import Mask
from midguide.operators.matrix import Identity


@dataclass(frozen=True, eq=False)
class Weighted(Operator):
    """`y = w A(x)`: each measured value times its weight; build it with `weighted`.

    Args:
        operator: A.
        weight: positive, broadcastable to one measurement.
        per_observation: the weight has a leading axis with one entry for each observation.
    """

    operator: Operator
    weight: Tensor
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("operator", "weight")

    def __post_init__(self) -> None:
        owners = self.operator.observations
        if self.per_observation and owners not in (None, len(self.weight)):
            raise ShapeError(f"the operator has {owners} observations, the noise levels have {len(self.weight)}")

    @property
    def value_range(self) -> tuple[float, float] | None:
        return self.operator.value_range

    def measured(self, y: Tensor) -> Tensor:
        return self.operator.measured(y)

    def log_volume(self, y: Tensor) -> Tensor:
        weight = _rows(self.weight, self.per_observation, y).double()
        every = self.measured(y).expand(y.shape)
        inner = self.operator.log_volume(y)
        return inner + torch.where(every, weight.log().expand(y.shape), 0.0).flatten(1).sum(1)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.operator(x)
        return _rows(self.weight, self.per_observation, y) * y


@dataclass(frozen=True, eq=False)
class LinearWeighted(Weighted, LinearOperator):
    """The same for a linear operator: `A^T (w y)`."""

    operator: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(_rows(self.weight, self.per_observation, y) * y)


@dataclass(frozen=True, eq=False)
class Diagonal(SVDOperator):
    """`y = w x`: a mask whose measured entries have weights; entries of weight zero are hidden.

    Args:
        weight: not negative, broadcastable to one signal.
        per_observation: the weight has a leading axis with one entry for each observation.

    Example:
        >>> Diagonal(torch.tensor([0.0, 2.0]))(torch.ones(1, 2))
        tensor([[0., 2.]])
    """

    weight: Tensor
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("weight",)

    def measured(self, y: Tensor) -> Tensor:
        return _rows(self.weight, self.per_observation, y) > 0

    def log_volume(self, y: Tensor) -> Tensor:
        weight = _rows(self.weight, self.per_observation, y).double().expand(y.shape)
        return torch.where(weight > 0, weight, 1.0).log().flatten(1).sum(1)

    def __call__(self, x: Tensor) -> Tensor:
        check_rows(self, x)
        return _rows(self.weight, self.per_observation, x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def singular_values(self, x: Tensor) -> Tensor:
        weight = _rows(self.weight, self.per_observation, x)
        values = weight.expand(len(weight), *x.shape[1:]).flatten(1)
        return values if self.per_observation else values[0]

    def vt(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        return coefficients.unflatten(1, like.shape[1:])


def weighted(operator: Operator, weight: Tensor, y: Tensor) -> Operator:
    """`w A`, with an SVD where A is the identity or a mask, linear where A is.

    Args:
        operator: A.
        weight: positive, broadcastable to y; with as many axes as y, each observation has its own.
        y: measurements, shape (N, *measurement).

    Raises:
        ShapeError: If the weights do not broadcast to the measurements.
    """
    try:
        full = torch.broadcast_shapes(weight.shape, y.shape)
    except RuntimeError:
        full = ()
    if full != y.shape:
        raise ShapeError(
            f"noise levels of shape {tuple(weight.shape)} do not fit measurements of shape {tuple(y.shape)}",
            hint="one number, or an array that broadcasts to y: (channels, 1, 1), the shape of y, (N, 1, 1, 1)",
        )
    own = weight.ndim == y.ndim
    weight = weight if own else weight.reshape(*[1] * (y.ndim - weight.ndim), *weight.shape)
    if own:
        weight = weight.expand(len(y), *weight.shape[1:])
    if isinstance(operator, Mask | Identity):
        weight = torch.where(operator.measured(y), weight, 0.0)
        own = own or operator.observations is not None
        return Diagonal(weight if own else weight[0], own)
    made = LinearWeighted if isinstance(operator, LinearOperator) else Weighted
    return made(operator, weight if own else weight[0], own)  # pyright: ignore[reportArgumentType]


def _rows(weight: Tensor, per_observation: bool, y: Tensor) -> Tensor:
    """The weight, shaped to broadcast over rows y."""
    return (weight if per_observation else weight[None]).to(y)
