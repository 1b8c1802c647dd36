"""One operator after another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.operators.base import LinearOperator, Operator


@dataclass(frozen=True, eq=False)
class Compose(Operator):
    """`y = outer(inner(x))`. The outer operator says which entries are measured.

    Args:
        outer: applied last.
        inner: applied first.

    Raises:
        ShapeError: If both have operators for each observation, but for different numbers of observations.
        ConfigError: If they are made for different ranges of values.
    """

    outer: Operator
    inner: Operator
    per_observation_fields: ClassVar[tuple[str, ...]] = ("outer", "inner")

    def __post_init__(self) -> None:
        counts = {self.outer.observations, self.inner.observations} - {None}
        if len(counts) > 1:
            raise ShapeError(
                f"the outer operator has {self.outer.observations} observations, the inner {self.inner.observations}",
                hint="give both the same number, or one operator that serves all",
            )
        if len({self.outer.value_range, self.inner.value_range} - {None}) > 1:
            raise ConfigError(
                f"the outer operator is made for values in {self.outer.value_range}, the inner for values in "
                f"{self.inner.value_range}",
                hint="midguide.operators.rescaled(compose(...), value_range) rescales both",
            )

    @property
    def value_range(self) -> tuple[float, float] | None:
        """That of the inner operator, else that of the outer: linear operators pass values on."""
        return self.inner.value_range or self.outer.value_range

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


@dataclass(frozen=True, eq=False)
class LinearCompose(Compose, LinearOperator):
    """`A = A_outer A_inner`, with `A^T = A_inner^T A_outer^T`; pseudo-inverse and proximal step are iterative."""

    outer: LinearOperator
    inner: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


def compose(*operators: Operator) -> Operator:
    """Compose operators as functions are: `compose(f, g, h)(x) = f(g(h(x)))`; linear if all are.

    Raises:
        ConfigError: If no operator is given.

    Example:
        >>> from midguide.operators.matrix import Identity
        >>> isinstance(compose(Identity(), Identity()), LinearOperator)
        True
    """
    if not operators:
        raise ConfigError("compose needs at least one operator", hint="Identity() measures everything")
    return reduce(_pair, operators)


def _pair(outer: Operator, inner: Operator) -> Operator:
    if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
        return LinearCompose(outer, inner)
    return Compose(outer, inner)
