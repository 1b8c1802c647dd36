"""A problem: one prior and the observations to explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from midguide.diffusion.schedules import Schedule
from midguide.errors import ShapeError, UnsupportedProblem
from midguide.likelihoods import GaussianLikelihood, Likelihood, observe
from midguide.operators.base import Operator, SVDOperator
from midguide.operators.blur import CircularBlur, ReflectBlur
from midguide.operators.mask import Mask
from midguide.operators.nonlinear_blur import NonlinearBlur
from midguide.operators.rescaling import Rescaled
from midguide.priors.base import Autoencoder, Denoiser
from midguide.priors.latent import Decoded
from midguide.storage.record import describe


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


@dataclass(frozen=True, eq=False)
class Problem:
    """Draw from `p(x | y)`, proportional to `p(y | x) p(x)`, with p(x) given by a denoiser.

    Row b of a batch belongs to observation b of the likelihood; `expand` and `select` make the rows.

    The prior may be one of latents. Then operator, observations and truth are still those of signals, and `to_latent`
    gives the problem that samplers work on. `sample` does so by itself and decodes the draws.

    Args:
        denoiser: the prior.
        likelihood: operator, observations and noise model.
        truth: the true signals where they are known, shape (N, *signal); only metrics look at them.
    """

    denoiser: Denoiser
    likelihood: Likelihood
    truth: Tensor | None = None

    def __post_init__(self) -> None:
        signals = self.likelihood.y.new_zeros((self.observations, *self.signal_shape))
        shape, given = self.signal_likelihood.operator(signals).shape, self.likelihood.y.shape
        if shape != given:
            raise ShapeError(
                f"the operator maps {self.signal_shape} to {tuple(shape[1:])}, y is {tuple(given[1:])}",
                hint="y needs one row per observation, also when there is only one",
            )
        self.signal_likelihood.check_range(self.denoiser.signal_range)

    @classmethod
    def simulate(
        cls, denoiser: Denoiser, operator: Operator, truth: Tensor, *, sigma_y: float, seed: int = 0
    ) -> Problem:
        """The problem of recovering `truth`, shape (N, *signal), from `A(truth) + sigma_y z`.

        Raises:
            ShapeError: the truth is not of the size of the prior.
        """
        if tuple(truth.shape[1:]) != denoiser.signal_shape:
            raise ShapeError(
                f"the prior is one of signals {denoiser.signal_shape}, the truth has signals {tuple(truth.shape[1:])}",
                hint="resize the truth, or take a prior of its size",
            )
        return cls(denoiser, observe(operator, truth, sigma_y, seed=seed), truth)

    @classmethod
    def unobserved(cls, denoiser: Denoiser) -> Problem:
        """The problem of an observation that says nothing (a mask hides every entry): its posterior is the prior."""
        nothing = Mask(torch.zeros(denoiser.signal_shape, dtype=torch.bool))
        return cls(denoiser, GaussianLikelihood(nothing, torch.zeros(1, *denoiser.signal_shape), sigma_y=1.0))

    def to_latent(self) -> Self:
        """The problem that samplers work on: for a prior of latents with `A(Dec(z))` as operator, else itself.

        The truth stays that of signals.

        Example:
            >>> from midguide.priors.gaussian import Gaussian
            >>> from midguide.priors.latent import LatentPrior, NetworkAutoencoder
            >>> from midguide.operators.matrix import Identity
            >>> codec = NetworkAutoencoder(lambda x: x[:, :2], lambda z: torch.cat([z, -z], 1), (4,), (2,))
            >>> prior = LatentPrior(Gaussian(torch.zeros(2), 1.0), codec)
            >>> problem = Problem.simulate(prior, Identity(), torch.zeros(1, 4), sigma_y=0.1)
            >>> problem.to_latent().likelihood.log_prob(torch.zeros(1, 2)).shape
            torch.Size([1])
        """
        autoencoder, operator = self.denoiser.autoencoder, self.likelihood.operator
        if autoencoder is None or isinstance(operator, Decoded):
            return self
        return replace(self, likelihood=replace(self.likelihood, operator=Decoded(operator, autoencoder)))

    @property
    def autoencoder(self) -> Autoencoder | None:
        """What the decoder of `to_latent` belongs to; None where the samples are signals."""
        operator = self.likelihood.operator
        return operator.autoencoder if isinstance(operator, Decoded) else self.denoiser.autoencoder

    @property
    def signal_likelihood(self) -> Likelihood:
        """The likelihood of signals, without the decoder that `to_latent` puts before the operator."""
        operator = self.likelihood.operator
        return (
            replace(self.likelihood, operator=operator.operator) if isinstance(operator, Decoded) else self.likelihood
        )

    @classmethod
    def stack(cls, problems: Sequence[Problem]) -> Problem:
        """The observations of problems that share prior, operator and noise model, as one problem.

        Masks, kernels and codes of one observation each may differ: they become one for each observation.

        Raises:
            ShapeError: they do not share them.
        """
        first = problems[0]

        def shared(problem: Problem) -> tuple[object, ...]:
            likelihood = problem.likelihood
            settings = {name: value for name, value in vars(likelihood).items() if name not in ("y", "operator")}
            return id(problem.denoiser), type(likelihood), settings, problem.truth is None

        operator = _stacked([problem.likelihood.operator for problem in problems])
        if operator is None or any(shared(problem) != shared(first) for problem in problems):
            raise ShapeError("only problems that share prior, operator and noise model can be stacked")
        y = torch.cat([problem.likelihood.y for problem in problems])
        truths = [problem.truth for problem in problems if problem.truth is not None]
        likelihood = replace(first.likelihood, operator=operator, y=y)
        return cls(first.denoiser, likelihood, torch.cat(truths) if truths else None)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the prior."""
        return self.denoiser.schedule

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample: of a latent where the prior is one of latents."""
        return self.denoiser.event_shape

    @property
    def signal_shape(self) -> tuple[int, ...]:
        """Shape of one signal, which is what is measured."""
        return self.event_shape if self.autoencoder is None else self.autoencoder.event_shape

    @property
    def observations(self) -> int:
        """Number of observations, or of rows after `select`."""
        return self.likelihood.observations

    @cached_property
    def spectral(self) -> Spectral:
        """The problem in the basis of its operator, which must have an SVD; the noise must be Gaussian."""
        likelihood, operator = self.likelihood, self.likelihood.operator
        if not (isinstance(likelihood, GaussianLikelihood) and isinstance(operator, SVDOperator)):
            raise UnsupportedProblem(f"{type(operator).__name__} has no SVD, or the noise is not Gaussian")
        values = operator.singular_values(self.zeros())
        seen = values > values.amax(dim=-1, keepdim=True) * torch.finfo(values.dtype).eps * 100
        inverse = torch.where(seen, 1 / values, 0.0)
        noise = torch.where(seen, likelihood.sigma_y * inverse, torch.inf)
        return Spectral(inverse * operator.ut(likelihood.y), noise, seen, operator.vt, operator.v)

    def zeros(self) -> Tensor:
        """Zeros of the shape of the rows, (B, *event), on the device and in the dtype of the observations."""
        return self.likelihood.y.new_zeros((self.observations, *self.event_shape))

    def select(self, rows: Tensor) -> Self:
        """The problem whose row b asks for observation `rows[b]`; rows may repeat."""
        truth = None if self.truth is None else self.truth[rows]
        return replace(self, likelihood=self.likelihood.select(rows), truth=truth)

    def to(self, device: str) -> Self:
        """The same problem on a device, whose denoiser has its weights moved there.

        Raises:
            UnsupportedProblem: the prior cannot leave the CPU.
        """
        truth = None if self.truth is None else self.truth.to(device)
        return replace(self, denoiser=self.denoiser.to(device), likelihood=self.likelihood.to(device), truth=truth)

    def expand(self, n: int) -> Self:
        """`n` consecutive rows for each observation."""
        return self.select(torch.arange(self.observations).repeat_interleave(n))


DRAWN: dict[type[Operator], str] = {
    Mask: "mask",
    CircularBlur: "kernel",
    ReflectBlur: "kernel",
    NonlinearBlur: "code",
}
"""The field of which an operator may have one for each observation, with `per_observation`."""


def _stacked(operators: Sequence[Operator]) -> Operator | None:
    """One operator for observations that have these; None where there is none."""
    first = operators[0]
    if all(operator is first for operator in operators):
        return first
    if isinstance(first, Rescaled):
        parts = [o.operator for o in operators if isinstance(o, Rescaled) and o.value_range == first.value_range]
        inner = _stacked(parts) if len(parts) == len(operators) else None
        return None if inner is None else replace(first, operator=inner)
    name = DRAWN.get(type(first))
    if name is None or first.observations is not None:
        return None

    def shared(operator: Operator) -> dict[str, object]:
        described = describe(operator)
        return {**described, name: described.get(name, {}).get("shape")}

    if any(shared(operator) != shared(first) for operator in operators):
        return None
    drawn = torch.stack([getattr(operator, name) for operator in operators])
    return replace(first, **{name: drawn, "per_observation": True})
