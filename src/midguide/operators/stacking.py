"""Several measurements of one signal as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import LinearOperator, Operator


@dataclass(frozen=True, eq=False)
class Stacked(Operator):
    """`y = (first(x), second(x))`, each flattened, in one vector for each row; build it with `stack`.

    Args:
        first: one measurement.
        second: another one of the same signal; may be a stack itself.
        shapes: shapes of the two measurements of one signal.

    Raises:
        ShapeError: If both have operators for each observation, but for different numbers of observations.
        ConfigError: If they are made for different ranges of values.
    """

    first: Operator
    second: Operator
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    per_observation_fields: ClassVar[tuple[str, ...]] = ("first", "second")

    def __post_init__(self) -> None:
        counts = {self.first.observations, self.second.observations} - {None}
        if len(counts) > 1:
            raise ShapeError(
                f"the operators have {' and '.join(map(str, sorted(counts, key=str)))} observations",
                hint="give both the same number, or one operator that serves all",
            )
        if len({self.first.value_range, self.second.value_range} - {None}) > 1:
            raise ConfigError(
                f"one operator is made for values in {self.first.value_range}, one for {self.second.value_range}",
                hint="midguide.operators.rescaled(operator, value_range) rescales each",
            )

    @property
    def value_range(self) -> tuple[float, float] | None:
        return self.first.value_range or self.second.value_range

    def measured(self, y: Tensor) -> Tensor:
        parts = zip((self.first, self.second), self.split(y), strict=True)
        return torch.cat([operator.measured(part).expand(part.shape).flatten(1) for operator, part in parts], 1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x).flatten(1), self.second(x).flatten(1)], 1)

    def split(self, y: Tensor) -> list[Tensor]:
        """The two measurements in their own shapes, shape (B, m) -> two of (B, *measurement)."""
        parts = y.split([math.prod(shape) for shape in self.shapes], 1)
        return [
            part.unflatten(1, shape) if shape else part[:, 0] for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def spread(self, levels: Sequence[float]) -> Tensor:
        """The noise level of each measured value from one for each operator of the stack, shape (m,)."""
        *first, last = levels
        one, other = (math.prod(shape) for shape in self.shapes)
        inner = self.first.spread(first) if isinstance(self.first, Stacked) else torch.full((one,), first[0])
        return torch.cat([inner, torch.full((other,), last)])


@dataclass(frozen=True, eq=False)
class LinearStacked(Stacked, LinearOperator):
    """The same for linear operators: `A^T y = first^T y_1 + second^T y_2`."""

    first: LinearOperator
    second: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        one, other = self.split(y)
        return self.first.adjoint(one) + self.second.adjoint(other)


def stack(operators: Sequence[Operator], event_shape: tuple[int, ...]) -> Operator:
    """Several measurements of one signal as one operator, linear if all are.

    Its measurements are vectors: those of the operators, flattened, one after another. `join` makes such a vector of
    observations.

    Args:
        operators: at least one.
        event_shape: shape of one signal.

    Raises:
        ConfigError: If no operator is given.

    Example:
        >>> from midguide.operators import Identity, Subsample
        >>> stack([Identity(), Subsample((2,))], (4,))(torch.arange(4.0)[None])
        tensor([[0., 1., 2., 3., 0., 2.]])
    """
    if not operators:
        raise ConfigError("stack needs at least one operator", hint="stack([blur, mask], (3, 64, 64))")

    def pair(first: Operator, second: Operator) -> Operator:
        shapes = _measurement(first, event_shape), _measurement(second, event_shape)
        linear = isinstance(first, LinearOperator) and isinstance(second, LinearOperator)
        return (LinearStacked if linear else Stacked)(first, second, shapes)  # pyright: ignore[reportArgumentType]

    return reduce(pair, operators)


def join(measurements: Sequence[Tensor]) -> Tensor:
    """Observations of several operators as one of their stack, each of shape (N, *measurement) -> (N, m).

    Args:
        measurements: in the order of the operators, each of shape (N, *measurement).

    Returns:
        Shape (N, m), m the number of all measured values of one observation.

    Example:
        >>> join([torch.zeros(2, 1, 4), torch.ones(2, 3)]).shape
        torch.Size([2, 7])
    """
    return torch.cat([y.flatten(1) for y in measurements], 1)


def _measurement(operator: Operator, event_shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(operator(torch.zeros(operator.observations or 1, *event_shape)).shape[1:])
