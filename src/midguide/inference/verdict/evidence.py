"""What checks look at: the draws of one observation, their weights and residuals, and what is known of the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from midguide.errors import MidguideError
from midguide.likelihoods.base import Likelihood
from midguide.maths.weights import effective_size, pairs_share
from midguide.priors.base import Denoiser
from midguide.priors.field import GaussianField
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS

if TYPE_CHECKING:
    from midguide.inference.samples import Samples


WIDE = 1.2
"""A larger spread, in units of the noise's, is not one of a posterior."""


class LeftOut(MidguideError):
    """A check whose assumptions fail: says why."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One observation and its draws.

    Args:
        draws: shape (n, *signal).
        weights: of the draws, normalized, float64, shape (n,).
        problem: of this observation alone; None where it is not known.
        record: of the samples.
        signs: of convergence, by name, shape (n,).
        group: consecutive draws that were made together.
        weighted: whether the method weighs its draws.
        effective: effective sample size, also of draws that were resampled since.
    """

    draws: Tensor
    weights: Tensor
    problem: Problem | None
    record: Mapping[str, Any] = field(default_factory=dict)
    signs: Mapping[str, Tensor] = field(default_factory=dict)
    group: int = 1
    weighted: bool = False
    effective: float = 0.0
    kept: dict[str, Any] = field(default_factory=dict, repr=False)
    """What one check found and another asks for."""
    omitted: dict[str, str] = field(default_factory=dict, repr=False)
    """Parts of checks that did not apply, with the reason."""

    @classmethod
    def of(cls, samples: Samples, problem: Problem | None) -> list[Evidence]:
        """The evidence of each observation of a result."""
        n, weights = samples.draws.shape[1], samples.weights()
        sizes = samples.effective_sample_size()
        return [
            cls(
                draws,
                torch.full((n,), 1.0 / n, dtype=torch.float64) if weights is None else weights[i].cpu(),
                None if problem is None else problem.select(torch.tensor([i], device=problem.likelihood.y.device)),
                samples.record,
                {name: value[i].cpu() for name, value in samples.signs.items()},
                samples.group,
                weights is not None or "resampled" in samples.record,
                float(sizes[i]),
            )
            for i, draws in enumerate(samples.draws)
        ]

    @property
    def n(self) -> int:
        """Draws."""
        return len(self.draws)

    @property
    def asked(self) -> Problem:
        """The problem.

        Raises:
            LeftOut: If it is not known.
        """
        if self.problem is None:
            raise LeftOut("the problem is not at hand", hint="samples.check(problem)")
        return self.problem

    @property
    def likelihood(self) -> Likelihood:
        """Of signals, with this one observation."""
        return self.asked.signal_likelihood

    @property
    def prior(self) -> Denoiser:
        """The prior."""
        return self.asked.denoiser

    @property
    def closed_form(self) -> Gaussian | GaussianField | GaussianMixture | None:
        """The prior where it is known exactly."""
        prior = self.prior
        return prior if isinstance(prior, Gaussian | GaussianField | GaussianMixture) else None

    @cached_property
    def distinct(self) -> float:
        """Draws as far as they count: the effective sample size, or the different ones where those are fewer."""
        different = len(torch.unique(self.draws.flatten(1), dim=0)) if self.weighted or self.group > 1 else self.n
        return min(float(different), self.effective if self.weighted else float(self.n), self._equal_size)

    @cached_property
    def residuals(self) -> Tensor:
        """Standardized residuals of the draws, shape (n, *measurement); those of values not measured are zero."""
        like, rows = self.likelihood.y, self.asked.expand(self.n).signal_likelihood
        with torch.no_grad():
            found = rows.residual(self.draws.to(like.device))
        return torch.where(self.measured, found.cpu(), 0.0)

    @cached_property
    def measured(self) -> Tensor:
        """Which values were measured, shape (1, *measurement)."""
        y = self.likelihood.y
        return self.likelihood.operator.measured(y).expand(y.shape).cpu()

    @property
    def values(self) -> int:
        """How many values were measured.

        Raises:
            LeftOut: If none was.
        """
        count = int(self.measured.sum())
        if not count:
            raise LeftOut("nothing was measured")
        return count

    @cached_property
    def mean(self) -> Tensor:
        """The weighted mean of the draws, shape (1, *signal)."""
        return torch.tensordot(self.weights.to(self.draws), self.draws, 1)[None]

    @cached_property
    def chi_square(self) -> Tensor:
        """Mean squared residual per measured value of each draw, float64, shape (n,)."""
        return self.residuals.flatten(1).double().square().sum(1) / self.values

    @cached_property
    def correlation(self) -> tuple[float, int]:
        """Correlation of residuals of values that are neighbors along one of the last two axes, and how many pairs."""
        residuals, measured, total, pairs = self.residuals.double(), self.measured[0], 0.0, 0
        for axis in range(max(measured.ndim - 2, 0), measured.ndim):
            last = measured.shape[axis] - 1
            products = residuals.narrow(axis + 1, 0, last) * residuals.narrow(axis + 1, 1, last)
            total += self.average(products.flatten(1).sum(1))
            pairs += int((measured.narrow(axis, 0, last) & measured.narrow(axis, 1, last)).sum())
        square = self.average(self.chi_square)
        return (total / pairs / square if pairs and square > 0 else 0.0), pairs

    @cached_property
    def centered(self) -> Tensor:
        """Residuals of the draws less their mean, float64, shape (n, values)."""
        residuals = self.residuals.flatten(1).double()
        return residuals - self.weights @ residuals

    @cached_property
    def spread(self) -> float:
        """Standard deviation over draws of what is measured, in units of the noise's; 0 where one draw has all weight.

        The root of the mean variance over measured values.
        """
        share = pairs_share(self.weights)
        square = float(self.weights @ self.centered.square().sum(1)) / self.values
        return math.sqrt(square / share) if share > 0 else 0.0

    @property
    def too_wide(self) -> bool:
        """Whether draws differ more than the data let them, so that the sampler has not converged."""
        return self.n > 1 and self.spread > WIDE

    @cached_property
    def common(self) -> float:
        """Share of the squared residuals that is the same in all draws."""
        whole = self.average(self.residuals.flatten(1).double().square().mean(1))
        mean = self.weights @ self.residuals.flatten(1).double()
        return float(mean.square().mean()) / whole if whole > 0 else 0.0

    def average(self, values: Tensor) -> float:
        """The weighted mean over draws of numbers, shape (n,)."""
        return float((self.weights * values.double()).sum())

    @cached_property
    def setting(self) -> Mapping[str, Any]:
        """The settings of the sampler, as plain values."""
        return self.record.get("sampler", {}).get("settings", {})

    @cached_property
    def default(self) -> Mapping[str, Any]:
        """Their defaults; empty where the sampler is not known here."""
        try:
            return SAMPLERS[self.record["sampler"]["name"]].defaults()
        except (MidguideError, KeyError):
            return {}

    @property
    def sampler(self) -> str:
        """The name of the sampler; empty where it is not known."""
        return self.record.get("sampler", {}).get("name", "")

    @property
    def _equal_size(self) -> float:
        return float(effective_size(self.weights))
