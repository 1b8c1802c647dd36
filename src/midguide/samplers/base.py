"""What a sampler is: a frozen dataclass of hyper-parameters with `init`, `step` and `finish`, and no loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from midguide.errors import UnsupportedProblem
from midguide.operators.base import LinearOperator, Operator, SVDOperator
from midguide.problem import Problem
from midguide.rng import Rng
from midguide.schedules import Time


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a sampler asks of a problem.

    Args:
        operator: the least class of operator it can use.
        gradients: whether it differentiates through the network.
        couples_samples: whether the samples of one observation must stay together in a batch.
    """

    operator: type[Operator] = Operator
    gradients: bool = False
    couples_samples: bool = False


class Step(NamedTuple):
    """State after a step, and what a diagnostic may want to know: a dictionary of tensors of shape (B,)."""

    state: Any
    info: dict[str, Tensor]


class Calls(NamedTuple):
    """Network calls that one sample costs."""

    forwards: int
    vjps: int


class Sampler(Protocol):
    """One method of one paper."""

    needs: ClassVar[Needs]

    @property
    def steps(self) -> int:
        """Noise levels visited."""
        ...

    def times(self, problem: Problem) -> list[Time]:
        """The times visited, strictly decreasing."""
        ...

    def calls(self, problem: Problem) -> Calls:
        """What one sample will cost."""
        ...

    def init(self, problem: Problem, rng: Rng) -> Any:
        """The state at the noisiest time: a NamedTuple of tensors and numbers."""
        ...

    def step(self, problem: Problem, state: Any, t: Time, s: Time, rng: Rng) -> Step:
        """One move from time `t` down to `s`."""
        ...

    def finish(self, problem: Problem, state: Any, t: Time) -> Tensor:
        """The samples, shape (B, *event), from the state at the last time `t`."""
        ...


def initial_noise(problem: Problem, t: Time, rng: Rng) -> Tensor:
    """`x_T ~ N(0, sigma_T^2 I)` at the noisiest time, shape (B, *event)."""
    return problem.schedule.level(t).sigma * rng.normal(problem.zeros())


_KINDS = {Operator: "any operator", LinearOperator: "a linear operator", SVDOperator: "an operator with an SVD"}


def check_needs(sampler: Sampler, problem: Problem, others: dict[str, type]) -> None:
    """Refuse a problem that the sampler cannot handle, naming what is missing and the samplers of `others` that can."""
    operator = problem.likelihood.operator
    if isinstance(operator, sampler.needs.operator):
        return
    able = sorted(name for name, other in others.items() if isinstance(operator, other.needs.operator))
    raise UnsupportedProblem(
        f"{type(sampler).__name__} needs {_KINDS[sampler.needs.operator]}, "
        f"{type(operator).__name__} is {_KINDS[_kind(operator)]}",
        hint=f"samplers that accept it: {', '.join(able)}",
    )


def _kind(operator: Operator) -> type[Operator]:
    return next(kind for kind in (SVDOperator, LinearOperator, Operator) if isinstance(operator, kind))
