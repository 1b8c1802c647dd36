"""A problem: one prior and the observations to explain. `Problem` is one of signals, `LatentProblem` one of latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor

from midguide.catalogue.shown import Shown, brief
from midguide.diffusion.schedules import Schedule
from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.likelihoods.base import Likelihood, as_rows
from midguide.likelihoods.gaussian import GaussianLikelihood, observe
from midguide.operators.base import Operator, SVDOperator
from midguide.operators.mask import Mask
from midguide.priors.base import Autoencoder, Denoiser
from midguide.priors.latent import Decoded


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
class Problem(Shown):
    """Draw from `p(x | y)`, proportional to `p(y | x) p(x)`, with p(x) given by a denoiser of signals.

    Row b of a batch belongs to observation b of the likelihood; `expand` and `select` make the rows. `Problem.of`,
    `Problem.simulate` and `Problem.unobserved` take any prior: where it is one of latents they make a `LatentProblem`.

    Args:
        denoiser: the prior.
        likelihood: operator, observations and noise model, a function of the samples of the prior.
        truth: the true signals where they are known, shape (N, *signal); only metrics look at them.

    Raises:
        ConfigError: If the prior is one of latents, or the operator is made for values of another range.
        ShapeError: If the operator does not map signals to observations.

    Example:
        >>> from midguide.operators import Identity
        >>> from midguide.priors import Gaussian
        >>> prior = Gaussian(torch.zeros(1, 4, 4), 1.0)
        >>> problem = Problem.simulate(prior, Identity(), prior.sample(2), sigma_y=0.1)
        >>> problem.likelihood.y.shape
        torch.Size([2, 1, 4, 4])
    """

    denoiser: Denoiser
    likelihood: Likelihood
    truth: Tensor | None = None

    def __post_init__(self) -> None:
        if self.denoiser.autoencoder is not None:
            raise ConfigError(
                "the prior is one of latents, the likelihood one of signals",
                hint="Problem.of(prior, likelihood) puts the decoder before the operator",
            )
        _check(self)

    @staticmethod
    def of(denoiser: Denoiser, likelihood: Likelihood, truth: Tensor | None = None) -> Problem:
        """The problem of observations of signals, whether the prior is one of signals or of latents.

        Args:
            denoiser: the prior.
            likelihood: operator, observations and noise model, a function of signals.
            truth: as for `Problem`.

        Example:
            >>> from midguide.priors.gaussian import Gaussian
            >>> from midguide.priors.latent import LatentPrior, NetworkAutoencoder
            >>> from midguide.operators.matrix import Identity
            >>> codec = NetworkAutoencoder(lambda x: x[:, :2], lambda z: torch.cat([z, -z], 1), (4,), (2,))
            >>> prior = LatentPrior(Gaussian(torch.zeros(2), 1.0), codec)
            >>> problem = Problem.of(prior, observe(Identity(), torch.zeros(1, 4), 0.1))
            >>> problem.likelihood.log_prob(torch.zeros(1, 2)).shape
            torch.Size([1])
        """
        if denoiser.autoencoder is None:
            return Problem(denoiser, likelihood, truth)
        decoded = Decoded(likelihood.operator, denoiser.autoencoder)
        return LatentProblem(denoiser, replace(likelihood, operator=decoded), truth)

    @classmethod
    def simulate(
        cls, denoiser: Denoiser, operator: Operator, truth: Tensor, *, sigma_y: float | Tensor, seed: int = 0
    ) -> Problem:
        """The problem of recovering `truth`, shape (N, *signal), from `A(truth) + sigma_y z`.

        Raises:
            ShapeError: If the truth is not of the size of the prior, far outside its range, or not finite.
        """
        truth = as_rows(truth, "true signals")
        if tuple(truth.shape[1:]) != denoiser.signal_shape:
            raise ShapeError(
                f"the prior is one of signals {denoiser.signal_shape}, the truth has signals {tuple(truth.shape[1:])}",
                hint="resize the truth, or take a prior of its size",
            )
        check_truth(truth, denoiser.signal_range)
        return cls.of(denoiser, observe(operator, truth, sigma_y, seed=seed), truth)

    @classmethod
    def unobserved(cls, denoiser: Denoiser) -> Problem:
        """The problem of an observation that says nothing (a mask hides every entry): its posterior is the prior."""
        nothing = Mask(torch.zeros(denoiser.signal_shape, dtype=torch.bool, device="cpu"))
        zeros = torch.zeros(1, *denoiser.signal_shape, dtype=torch.float32, device="cpu")
        return cls.of(denoiser, GaussianLikelihood(nothing, zeros, sigma_y=1.0))

    @classmethod
    def stack(cls, problems: Sequence[Problem]) -> Problem:
        """The observations of problems that share prior, operator and noise model, as one problem.

        Masks, kernels and whatever else an operator may have for each observation may differ; see `Operator.stack`.

        Raises:
            ShapeError: If they do not share the rest.
        """
        first, *others = problems
        if any(p.denoiser is not first.denoiser or (p.truth is None) != (first.truth is None) for p in others):
            raise ShapeError("problems with different priors, or with and without a truth, cannot be stacked")
        truths = [problem.truth for problem in problems if problem.truth is not None]
        likelihood = first.likelihood.stack([problem.likelihood for problem in others])
        return replace(first, likelihood=likelihood, truth=torch.cat(truths) if truths else None)

    def shown(self) -> Mapping[str, Any]:
        """Prior, instrument, noise and what was measured."""
        likelihood = self.signal_likelihood
        noise = {name: value for name, value in likelihood.shown().items() if name not in ("operator", "y")}
        known = {} if self.truth is None else {"truth": self.truth}
        return {
            "observations": self.observations,
            "prior": self.denoiser,
            "operator": likelihood.operator,
            "noise": f"{type(likelihood).__name__.removesuffix('Likelihood').lower()}, {brief(noise)}",
            "y": likelihood.y,
            **known,
        }

    @property
    def schedule(self) -> Schedule:
        """The schedule of the prior."""
        return self.denoiser.schedule

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the prior, which is what samplers work on."""
        return self.denoiser.event_shape

    @property
    def signal_shape(self) -> tuple[int, ...]:
        """Shape of one signal, which is what is measured and looked at."""
        return self.event_shape

    @property
    def signal_likelihood(self) -> Likelihood:
        """The likelihood as a function of signals."""
        return self.likelihood

    def signals(self, samples: Tensor) -> Tensor:
        """The signals that samples of the prior stand for, shape (B, *event) -> (B, *signal)."""
        return samples

    def extras(self, samples: Tensor) -> dict[str, Tensor]:
        """What to keep of samples besides their signals, by name."""
        return {}

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
            UnsupportedProblem: If the prior cannot leave the CPU.
        """
        truth = None if self.truth is None else self.truth.to(device)
        return replace(self, denoiser=self.denoiser.to(device), likelihood=self.likelihood.to(device), truth=truth)

    def expand(self, n: int) -> Self:
        """`n` consecutive rows for each observation."""
        return self.select(torch.arange(self.observations).repeat_interleave(n))


@dataclass(frozen=True, eq=False)
class LatentProblem(Problem):
    """Draw latents from `p(z | y)`, proportional to `p(y | Dec(z)) p(z)`. The signals are `Dec(z)`.

    Build it with `Problem.of`. Samplers work on it as on any problem, with the decoder as part of the operator.

    Args:
        denoiser: the prior of latents.
        likelihood: a function of latents, whose operator is a `Decoded` one.
        truth: the true signals where they are known, shape (N, *signal); only metrics look at them.

    Raises:
        ConfigError: If the operator has no decoder in front, or is made for values of another range.
        ShapeError: If the operator does not map signals to observations.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.likelihood.operator, Decoded):
            raise ConfigError(
                "the likelihood of a problem over latents starts with a decoder",
                hint="Problem.of(prior, likelihood) puts the decoder before the operator",
            )
        _check(self)

    @property
    def autoencoder(self) -> Autoencoder:
        """What turns latents into signals and back."""
        return self._decoded.autoencoder

    @property
    def signal_shape(self) -> tuple[int, ...]:
        return self.autoencoder.event_shape

    @property
    def signal_likelihood(self) -> Likelihood:
        return replace(self.likelihood, operator=self._decoded.operator)

    def signals(self, samples: Tensor) -> Tensor:
        return self.autoencoder.decode(samples)

    def extras(self, samples: Tensor) -> dict[str, Tensor]:
        return {"latents": samples}

    @property
    def _decoded(self) -> Decoded:
        return cast(Decoded, self.likelihood.operator)


def check_truth(truth: Tensor, limits: tuple[float, float] | None) -> None:
    """Refuse signals that are not finite, or of another scale than these limits, such as bytes for values up to 1.

    Raises:
        ShapeError: If they are.
    """
    if not bool(truth.isfinite().all()):
        raise ShapeError("the true signals hold NaN or infinity", hint="give finite ones; operators hide values")
    low, high = limits or (-math.inf, math.inf)
    if float((truth - (low + high) / 2 if limits else truth).square().mean().sqrt()) > high - low:
        raise ShapeError(
            f"the true signals go from {float(truth.min()):g} to {float(truth.max()):g}, those of the prior from "
            f"{low:g} to {high:g}",
            hint="bring them into its range: bytes become x / 127.5 - 1 for a range from -1 to 1",
        )


def _check(problem: Problem) -> None:
    """Refuse observations that are not those of signals of the prior."""
    likelihood = problem.signal_likelihood
    signals = likelihood.y.new_zeros((problem.observations, *problem.signal_shape))
    shape, given = likelihood.operator(signals).shape, likelihood.y.shape
    if shape != given:
        raise ShapeError(
            f"the operator maps {problem.signal_shape} to {tuple(shape[1:])}, y is {tuple(given[1:])}",
            hint="y needs one row per observation, also when there is only one",
        )
    likelihood.check_range(problem.denoiser.signal_range)
