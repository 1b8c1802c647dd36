"""Operators for one range of values, applied to signals of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.operators.base import Operator, PseudoInvertibleOperator
from midguide.operators.phase_retrieval import PhaseRetrieval


@dataclass(frozen=True, eq=False)
class Rescaled(Operator):
    """`y = T^-1(h(T(x)))` with T affine, which takes the range of the signals to the one that h is made for.

    Measurements that are signals, too, stay in the range of the signals, so that a noise level has its unit. Entries
    that h hides stay zero. A modulus (`PhaseRetrieval`, not its compositions) has a scale of its own and is left as it
    is: `y = h(T(x))`.

    Args:
        operator: h, with a `value_range`.
        low: smallest value of the signals.
        high: largest value of the signals.

    Raises:
        ConfigError: If h takes any range, or low is not below high.
    """

    operator: Operator
    low: float
    high: float
    per_observation_fields: ClassVar[tuple[str, ...]] = ("operator",)

    def __post_init__(self) -> None:
        if self.operator.value_range is None:
            raise ConfigError(f"{type(self.operator).__name__} takes values of any range", hint="use it as it is")
        if not self.low < self.high:
            raise ConfigError(f"[{self.low}, {self.high}] is not a range", hint="for example low=0.0, high=1.0")

    @property
    def value_range(self) -> tuple[float, float]:
        return self.low, self.high

    def measured(self, y: Tensor) -> Tensor:
        return self.operator.measured(y)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.operator(self._into(x))
        if isinstance(self.operator, PhaseRetrieval):
            return y
        return torch.where(self.measured(y), self._back(y), 0.0)

    def _into(self, x: Tensor) -> Tensor:
        """T: from the range of the signals to that of h."""
        low, high = self.operator.value_range or self.value_range
        return low + (high - low) / (self.high - self.low) * (x - self.low)

    def _back(self, x: Tensor) -> Tensor:
        """T^-1."""
        low, high = self.operator.value_range or self.value_range
        return self.low + (self.high - self.low) / (high - low) * (x - low)


@dataclass(frozen=True, eq=False)
class PseudoInvertibleRescaled(Rescaled, PseudoInvertibleOperator):
    """The same for an operator with a pseudo-inverse: `T^-1(h^+(T(y)))`."""

    operator: PseudoInvertibleOperator

    def pinv(self, y: Tensor) -> Tensor:
        return self._back(self.operator.pinv(self._into(y)))


def rescaled(operator: Operator, value_range: tuple[float, float] | None) -> Operator:
    """The operator for signals of this range; itself where it takes them, or where the range is not known (None).

    Example:
        >>> import torch
        >>> from midguide.operators.high_dynamic_range import HighDynamicRange
        >>> rescaled(HighDynamicRange(2.0), (0.0, 1.0))(torch.tensor([[0.1, 0.5, 0.7]]))
        tensor([[0.0000, 0.5000, 0.9000]])
    """
    if value_range is None or operator.value_range in (None, tuple(value_range)):
        return operator
    made = PseudoInvertibleRescaled if isinstance(operator, PseudoInvertibleOperator) else Rescaled
    return made(operator, *value_range)  # pyright: ignore[reportArgumentType]
