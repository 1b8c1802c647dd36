"""Is y one that the model makes? Its prior predictive law, by simulation, for priors that can be sampled exactly.

The check draws signals from the prior and measures them. It compares y with these measurements along the principal axes
of what the operator makes of signals. There the mean square along axes of like variance, scaled, is about 1. Axes that
signals hardly reach hold noise only. The statistic is the largest deviation of a group of axes, of the level, the
contrast and the roughness. Its rank among simulated measurements gives an exact test.

The check names a fault by undoing it. It maps the values of y to the prior's range, or takes another noise level: if y
is then plausible, that is what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.inference.verdict.looks import RANGES, Suspicion, of_draws, range_in_words
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.chances import chi_square_band, upper_limit
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator

DRAWS = 2000
"""Signals drawn from the prior: half of them give the axes, half the law of the statistic."""
ENTRIES = 2**22
"""Most values of all these signals; a prior of larger ones is not simulated."""
AXES = 600
"""Most measured values whose principal axes are computed."""
GROUPS = 6
UNUSUAL = 0.05
"""The level at which a fault that can be undone explains other findings, and below which undoing it must bring y."""
RARE = 0.005
"""The level at which the prior is named, which nothing undoes."""
UNREACHED = 0.5
"""Axes along which independent values of the prior's contrast stay below this share of the noise hold noise only."""
FACTORS = (0.1, 1 / 3, 0.5, 2.0, 3.0, 10.0)
"""Other noise levels that are tried, beside one that the data suggest."""
FAR = 20.0
"""What makes y less unusual by this factor explains most of it."""
OTHER = 1.4
"""A noise level that differs by a smaller factor explains nothing."""


@dataclass(frozen=True, eq=False)
class Predictive:
    """Measurements of simulated signals, without noise.

    Args:
        axes: those from which the principal axes are taken, shape (n, m).
        law: those from which the law is taken, shape (n, m).
        noise: standard normal values, shape of `law`.
        sigma: the noise level.
        reached: makes measurements of signals of the same level and contrast with independent values, shape (n, m):
            along their axes of least variance the operator measures nothing of any signal.
    """

    axes: Tensor
    law: Tensor
    noise: Tensor
    sigma: float
    reached: Callable[[], Tensor]

    @cached_property
    def basis(self) -> tuple[Tensor, Tensor]:
        """Variances, ascending, and principal axes of noiseless measurements."""
        return principal(self.axes)

    def features(self, y: Tensor, sigma: float) -> Tensor:
        """Numbers of measurements, shape (n, m), that are nearly normal under the model, shape (n, k)."""
        simple = [y.mean(1)]
        if y.shape[1] > 2:
            simple += [y.std(1).clamp_min(1e-12).log(), y.diff(dim=1).square().mean(1).clamp_min(1e-24).log()]
        if y.shape[1] > AXES:
            return torch.stack(simple, 1)
        values, vectors = self.basis
        scaled = ((y - self.axes.mean(0)) @ vectors).square() / (values + sigma**2)
        groups = scaled.tensor_split(min(GROUPS, y.shape[1]), dim=1)
        return torch.stack([*(group.mean(1) ** (1 / 3) for group in (scaled, *groups)), *simple], 1)

    def deviations(self, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Standardized features of y, shape (k,), and the law of the largest, shape (n,)."""
        made = self.features(self.law + sigma * self.noise, sigma)
        mean, std = made.mean(0), made.std(0).clamp_min(1e-12)
        return ((self.features(y, sigma) - mean) / std)[0], ((made - mean) / std).abs().amax(1)

    def plausible(self, y: Tensor, sigma: float, far: float) -> bool:
        """Whether y, shape (1, m), is usual under the model with this noise, or far less unusual than `far`."""
        z, law = self.deviations(y, sigma)
        return float(z.abs().max()) <= max(upper_limit(law, UNUSUAL), far / FAR)


def principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, ascending, and principal axes of rows, shape (n, m)."""
    centered = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centered.mT @ centered / (len(centered) - 1))
    return values.clamp_min(0.0), vectors


def suspicion(evidence: Evidence, level: float | None = None) -> Suspicion | None:
    """What is wrong with y under the model; None where nothing is, or where that is not known.

    The first call says at which level.
    """
    if "suspicion" not in evidence.kept:
        try:
            of_y = _suspicion if evidence.closed_form is not None else of_draws
            evidence.kept["suspicion"] = of_y(evidence, level or 0.001)
        except LeftOut as why:
            evidence.kept["suspicion"] = why
    found = evidence.kept["suspicion"]
    if isinstance(found, LeftOut):
        if level is not None:
            raise found
        return None
    return found if found.advice or level is not None else None


def _suspicion(evidence: Evidence, level: float) -> Suspicion:
    likelihood = evidence.likelihood
    if not isinstance(likelihood, GaussianLikelihood):
        raise LeftOut("only measurements with Gaussian noise are simulated")
    seen, model = evidence.measured[0], _predictive(evidence, likelihood)
    y, sigma = likelihood.y.cpu().double()[:, seen], likelihood.sigma_y
    z, law = model.deviations(y, sigma)
    value, high = float(z.abs().max()), upper_limit(law, level)
    if not math.isfinite(high):
        raise LeftOut(f"{len(law)} simulated measurements do not reach the level {level:.1g}")
    if value <= upper_limit(law, UNUSUAL):
        return Suspicion("", value, high)
    found = [*_ranges(evidence, likelihood, model, y, value), *_levels(model, y)]
    rest = _rest(model, y, level) if value > upper_limit(law, RARE) else ""
    return Suspicion("; or ".join(found) or rest, value, high)


def _predictive(evidence: Evidence, likelihood: GaussianLikelihood) -> Predictive:
    prior = evidence.closed_form
    if prior is None:
        raise LeftOut("the prior cannot be sampled without network calls")
    if DRAWS * prior.dimension > ENTRIES:
        raise LeftOut(f"signals of {prior.dimension} values are too large to simulate")
    if not evidence.values:
        raise LeftOut("nothing was measured")
    signals, seen = prior.sample(DRAWS, seed=0).to(likelihood.y), evidence.measured[0]
    rng = Rng([(0, "verdict")], size=DRAWS // 2)

    def measured(x: Tensor) -> Tensor:
        operator = likelihood.operator.select(torch.zeros(len(x), dtype=torch.long, device=x.device))
        return operator(x).cpu().double()[:, seen]

    def reached() -> Tensor:
        return measured(signals.mean() + signals.std(0).square().mean().sqrt() * rng.normal(signals[: DRAWS // 2]))

    axes, law = measured(signals).tensor_split(2)
    return Predictive(axes, law, rng.normal(law), likelihood.sigma_y, reached)


def _ranges(evidence: Evidence, likelihood: GaussianLikelihood, model: Predictive, y: Tensor, far: float) -> list[str]:
    """Value ranges in which y is plausible once it is mapped to that of the prior."""
    if not isinstance(likelihood.operator, LinearOperator):
        return []
    low, high = evidence.prior.signal_range or (-1.0, 1.0)
    ones = likelihood.operator(torch.ones(1, *evidence.draws.shape[1:]).to(likelihood.y)).cpu().double()
    ones = ones[:, evidence.measured[0]]
    found = []
    for start, end in RANGES:
        if (start, end) == (low, high):
            continue
        scale = (end - start) / (high - low)
        mapped = (y - (start - scale * low) * ones) / scale
        if any(model.plausible(mapped, sigma, far) for sigma in (model.sigma, model.sigma / scale)):
            found.append(range_in_words((start, end), (low, high)))
    return found


def _levels(model: Predictive, y: Tensor) -> list[str]:
    """The noise level under which y is most plausible, if it is."""
    values, vectors = model.basis if y.shape[1] <= AXES else (torch.zeros(0), torch.zeros(0))
    factors = list(FACTORS)
    quiet = values < model.sigma**2
    if bool(quiet.any()):
        along = ((y - model.axes.mean(0)) @ vectors)[0, quiet].square().mean()
        factors.append(max(math.sqrt(max(float(along - values[quiet].mean()), 0.0)) / model.sigma, 0.01))
    factors = [factor for factor in factors if abs(math.log(factor)) > math.log(OTHER)]
    tried = {factor: model.deviations(y, model.sigma * factor) for factor in factors}
    sizes = {factor: (float(z.abs().max()), upper_limit(law, UNUSUAL)) for factor, (z, law) in tried.items()}
    fits = {factor: size for factor, (size, usual) in sizes.items() if size <= usual}
    if not fits:
        return []
    best = min(fits, key=fits.__getitem__)
    size = "small" if best > 1 else "large"
    return [f"sigma_y is too {size}: y fits {best * model.sigma:.2g}, not {model.sigma:.2g}"]


def _rest(model: Predictive, y: Tensor, level: float) -> str:
    """The operator, where y holds what it measures of no signal; else the prior."""
    if y.shape[1] <= AXES:
        reached = model.reached()
        values, vectors = principal(reached)
        quiet = values < (UNREACHED * model.sigma) ** 2
        along = ((y - reached.mean(0)) @ vectors)[0, quiet] / model.sigma
        if len(along) and float(along.square().mean()) > (chi_square_band(len(along), level).high or 1.0):
            return (
                "operator: y holds what this one makes of no signal: check kernel, mask and alignment; "
                "or the noise is not Gaussian of this level"
            )
    return "prior: it makes no such signals: y is one of another kind, crop or value range; or the operator is another"
