"""First-order optimizers, row by row. State and parameter change in place, which a fit over large states is made of.

Rows share nothing, so a row's path does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.optim.adam import adam

from midguide.errors import ConfigError
from midguide.maths.linalg import per_row


class AdamState(NamedTuple):
    """Steps taken, a float32 scalar, and the moving averages of the gradient and its square."""

    count: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba 2015, Algorithm 1), with the bias correction and the defaults of the paper."""

    rule: Literal["adam"] = field(default="adam", repr=False)

    rate: float
    beta_first: float = 0.9
    beta_second: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> AdamState:
        count = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return AdamState(count, torch.zeros_like(parameter), torch.zeros_like(parameter))

    def update_(self, state: AdamState, parameter: Tensor, gradient: Tensor) -> None:
        # torch's fused kernel goes through memory once, and blindly: it takes entries as they lie
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        if not parameter.stride() == state.first.stride() == state.second.stride() == gradient.stride():
            raise ValueError(f"a parameter with strides {parameter.stride()} shares memory between its entries or rows")
        adam(
            [parameter],
            [gradient],
            [state.first],
            [state.second],
            [],
            [state.count],
            fused=True,
            amsgrad=False,
            beta1=self.beta_first,
            beta2=self.beta_second,
            lr=self.rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )


class NoState(NamedTuple):
    pass


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent, `-rate * gradient`."""

    rule: Literal["sgd"] = field(default="sgd", repr=False)

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> NoState:
        return NoState()

    def update_(self, state: NoState, parameter: Tensor, gradient: Tensor) -> None:
        parameter.sub_(gradient, alpha=self.rate)


@dataclass(frozen=True, kw_only=True)
class NormalizedSGD:
    """A step of Euclidean length `rate` down the gradient of each row."""

    rule: Literal["normalized-sgd"] = field(default="normalized-sgd", repr=False)

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def init(self, parameter: Tensor) -> NoState:
        return NoState()

    def update_(self, state: NoState, parameter: Tensor, gradient: Tensor) -> None:
        norm = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        parameter.sub_(per_row(self.rate / norm, gradient) * gradient)


class UpdateRule(Protocol):
    """What every optimizer offers; its state is its own."""

    def init(self, parameter: Tensor) -> Any:
        """The state before the first step."""
        ...

    def update_(self, state: Any, parameter: Tensor, gradient: Tensor) -> None:
        """Take a step: overwrite state and parameter."""
        ...


Optimizer = Annotated[Adam | SGD | NormalizedSGD, Field(discriminator="rule")]
"""An update rule. `init(parameter)` is its state before the first step; `update_(state, parameter, gradient)` takes the
step and overwrites state and parameter. In plain settings a table whose `rule` says which."""


def _check_rate(rate: float) -> None:
    if not rate > 0.0:
        raise ConfigError(f"the learning rate must be positive, got {rate}")
