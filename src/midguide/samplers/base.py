"""What a sampler is: a frozen dataclass of hyper-parameters with `init`, `step` and `finish`, and no loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from midguide.denoisers.base import Autoencoder
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.likelihoods import GaussianLikelihood, Likelihood
from midguide.operators.base import LinearOperator, Operator, SVDOperator
from midguide.problem import Problem
from midguide.rng import Rng
from midguide.schedules import Time


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a sampler asks of a problem.

    Args:
        operator: the least class of operator it can use.
        likelihood: the class of likelihood it is made for.
        gradients: whether it differentiates through the network.
        couples_samples: whether the samples of one observation must stay together in a batch.
        autoencoder: whether it works on latents, with encoder and decoder; `operator` is then that on signals.
    """

    operator: type[Operator] = Operator
    likelihood: type[Likelihood] = Likelihood
    gradients: bool = False
    couples_samples: bool = False
    autoencoder: bool = False


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


def check_share(name: str, value: float) -> None:
    """Refuse a share that is not in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must be in [0, 1], got {value}")


def linear(problem: Problem) -> tuple[LinearOperator, Tensor]:
    """Operator and observations of a problem that must be linear."""
    operator = problem.likelihood.operator
    if not isinstance(operator, LinearOperator):
        raise UnsupportedProblem(f"{type(operator).__name__} is not linear")
    return operator, problem.likelihood.y


def linear_gaussian(problem: Problem) -> tuple[LinearOperator, Tensor, float]:
    """Operator, observations and noise level of a problem that must be linear with Gaussian noise."""
    likelihood = problem.likelihood
    if not isinstance(likelihood, GaussianLikelihood):
        raise UnsupportedProblem(f"{type(likelihood).__name__} is not Gaussian")
    return *linear(problem), likelihood.sigma_y


def autoencoder(problem: Problem) -> Autoencoder:
    """The autoencoder of a problem that must have a prior of latents."""
    if problem.autoencoder is None:
        raise UnsupportedProblem(f"{type(problem.denoiser).__name__} has no autoencoder")
    return problem.autoencoder


def signal_linear(problem: Problem) -> tuple[LinearOperator, Tensor]:
    """Operator on signals, which must be linear, and observations."""
    likelihood = problem.signal_likelihood
    if not isinstance(likelihood.operator, LinearOperator):
        raise UnsupportedProblem(f"{type(likelihood.operator).__name__} is not linear")
    return likelihood.operator, likelihood.y


class Spectral(NamedTuple):
    """A linear-Gaussian problem in the basis V of its operator `A = U diag(s) V^T`, coefficients of shape (B, n).

    Args:
        y: measured coefficients `(U^T y)_j / s_j`, zero on the null space.
        noise: their noise levels `sigma_y / s_j`, infinite on the null space.
        seen: which singular values are not zero.
        vt: `V^T x`, (B, *event) -> (B, n).
        v: `V c`, called as `v(c, like)` with `like` of the shape of the result.
    """

    y: Tensor
    noise: Tensor
    seen: Tensor
    vt: Callable[[Tensor], Tensor]
    v: Callable[[Tensor, Tensor], Tensor]


def spectral_gaussian(problem: Problem) -> Spectral:
    """The spectral form of a problem whose operator must have an SVD and whose noise must be Gaussian."""
    operator, y, sigma_y = linear_gaussian(problem)
    if not isinstance(operator, SVDOperator):
        raise UnsupportedProblem(f"{type(operator).__name__} has no SVD")
    values = operator.singular_values(problem.zeros())
    seen = values > values.amax(dim=-1, keepdim=True) * torch.finfo(values.dtype).eps * 100
    inverse = torch.where(seen, 1 / values, 0.0)
    noise = torch.where(seen, sigma_y * inverse, torch.inf)
    return Spectral(inverse * operator.ut(y), noise, seen, operator.vt, operator.v)


_KINDS = {Operator: "any operator", LinearOperator: "a linear operator", SVDOperator: "an operator with an SVD"}


def check_needs(sampler: Sampler, problem: Problem, others: dict[str, type[Sampler]]) -> None:
    """Refuse a problem that the sampler cannot handle, naming what is missing and the samplers of `others` that can."""
    problem = problem.to_latent()
    missing = _lacking(sampler.needs, problem)
    if missing:
        able = sorted(name for name, other in others.items() if not _lacking(other().needs, problem))
        raise UnsupportedProblem(
            f"{type(sampler).__name__} needs {missing}", hint=f"samplers that accept it: {', '.join(able)}"
        )


def _lacking(needs: Needs, problem: Problem) -> str:
    """Which of the `needs` a problem does not meet, in words; empty if it meets all."""
    if needs.autoencoder and problem.autoencoder is None:
        return f"a prior of latents, {type(problem.denoiser).__name__} is none"
    likelihood = problem.signal_likelihood if needs.autoencoder else problem.likelihood
    if not isinstance(likelihood.operator, needs.operator):
        operator = likelihood.operator
        return f"{_KINDS[needs.operator]}, {type(operator).__name__} is {_KINDS[_kind(operator)]}"
    if not isinstance(likelihood, needs.likelihood):
        return f"a {needs.likelihood.__name__}, this is a {type(likelihood).__name__}"
    return ""


def _kind(operator: Operator) -> type[Operator]:
    return next(kind for kind in (SVDOperator, LinearOperator, Operator) if isinstance(operator, kind))
