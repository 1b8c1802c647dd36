"""First-order optimisers as pure functions: (state, parameter, gradient) -> (state, parameter), row by row.

Nothing is shared between rows, so a row's path does not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from midguide.errors import ConfigError
from midguide.linalg import per_row


class Optimiser(Protocol):
    """One update rule."""

    def init(self, parameter: Tensor) -> NamedTuple:
        """State before the first step."""
        ...

    def update(self, state: Any, parameter: Tensor, gradient: Tensor) -> tuple[NamedTuple, Tensor]:
        """State and parameter after the step."""
        ...


class AdamState(NamedTuple):
    count: int
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1), with the bias correction and the defaults of the paper."""

    rate: float
    beta_first: float = 0.9
    beta_second: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> AdamState:
        return AdamState(0, torch.zeros_like(parameter), torch.zeros_like(parameter))

    def update(self, state: AdamState, parameter: Tensor, gradient: Tensor) -> tuple[AdamState, Tensor]:
        count = state.count + 1
        first = torch.lerp(gradient, state.first, self.beta_first)
        second = (self.beta_second * state.second).addcmul_(gradient, gradient, value=1 - self.beta_second)
        # the bias correction of the second moment, taken out of the root
        unbias = math.sqrt(1 - self.beta_second**count)
        scale = second.sqrt().add_(unbias * self.epsilon)
        rate = self.rate * unbias / (1 - self.beta_first**count)
        return AdamState(count, first, second), torch.addcdiv(parameter, first, scale, value=-rate)


class NoState(NamedTuple):
    pass


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent, `-rate * gradient`."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> NoState:
        return NoState()

    def update(self, state: NoState, parameter: Tensor, gradient: Tensor) -> tuple[NoState, Tensor]:
        return state, torch.sub(parameter, gradient, alpha=self.rate)


@dataclass(frozen=True, kw_only=True)
class NormalisedSGD:
    """A step of Euclidean length `rate` down the gradient of each row."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> NoState:
        return NoState()

    def update(self, state: NoState, parameter: Tensor, gradient: Tensor) -> tuple[NoState, Tensor]:
        norm = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return state, parameter - per_row(self.rate / norm, gradient) * gradient


def _check_rate(rate: float) -> None:
    if not rate > 0.0:
        raise ConfigError(f"the learning rate must be positive, got {rate}")
