"""First-order optimisers as pure functions: (state, gradient) -> (state, update), row by row.

An update is what to add to the parameter. Nothing is shared between rows, so a row's path does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from midguide.errors import ConfigError


class Optimiser(Protocol):
    """One update rule."""

    def init(self, parameter: Tensor) -> NamedTuple:
        """State before the first step."""
        ...

    def update(self, state: Any, gradient: Tensor) -> tuple[NamedTuple, Tensor]:
        """New state and the update to add, shape of the parameter."""
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

    def update(self, state: AdamState, gradient: Tensor) -> tuple[AdamState, Tensor]:
        count = state.count + 1
        first = torch.lerp(gradient, state.first, self.beta_first)
        second = torch.lerp(gradient.square(), state.second, self.beta_second)
        scale = (second / (1 - self.beta_second**count)).sqrt_().add_(self.epsilon)
        update = (first / scale).mul_(-self.rate / (1 - self.beta_first**count))
        return AdamState(count, first, second), update


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

    def update(self, state: NoState, gradient: Tensor) -> tuple[NoState, Tensor]:
        return state, -self.rate * gradient


@dataclass(frozen=True, kw_only=True)
class NormalisedSGD:
    """A step of Euclidean length `rate` down the gradient of each row."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> NoState:
        return NoState()

    def update(self, state: NoState, gradient: Tensor) -> tuple[NoState, Tensor]:
        norm = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return state, gradient * (-self.rate / norm).reshape(-1, *[1] * (gradient.ndim - 1))


def _check_rate(rate: float) -> None:
    if not rate > 0.0:
        raise ConfigError(f"the learning rate must be positive, got {rate}")
