"""What the loop asks of a sampler's state and of what it finishes with: values that are numbers, weights that weigh."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.errors import NumericalError, ShapeError
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.rng import Layout, Rng
from midguide.maths.weights import log_mean_exp
from midguide.operators.base import LinearOperator
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Finished, Sampler

BEYOND = 2.0
"""Times the largest norm of a measurement of signals within the prior's range, from which on one is refused."""


def check_scale(problem: Problem) -> None:
    """Refuse observations that no signal within the prior's range can give, such as bytes for values up to 1.

    Of a linear operator that is certain: the norm of `A x` is at most that of A times that of x. For a nonlinear
    operator a few signals judge it.

    Raises:
        ShapeError: If an observation is far too large.
    """
    likelihood, limits = problem.signal_likelihood, problem.denoiser.signal_range
    if limits is None or not isinstance(likelihood, GaussianLikelihood):
        return
    operator, y = likelihood.operator, likelihood.y
    rms = y.double().flatten(1).square().sum(1).sqrt()
    largest = max(abs(limits[0]), abs(limits[1]))
    noise = likelihood.sigma_y * math.sqrt(math.prod(y.shape[1:]))
    x = Rng([(0, "scale", 0)]).uniform(y.new_empty((1, *problem.signal_shape), device="cpu")).to(y)
    x = (limits[0] + (limits[1] - limits[0]) * x).expand(operator.observations or 1, *problem.signal_shape)
    with torch.no_grad():
        if isinstance(operator, LinearOperator):
            bound = _norm(operator, x) * largest * math.sqrt(math.prod(problem.signal_shape))
        else:
            probes = [operator(probe) for probe in (x, torch.full_like(x, limits[0]), torch.full_like(x, limits[1]))]
            bound = 5 * max(float(probe.double().flatten(1).norm(dim=1).max()) for probe in probes)
    worst = int(rms.argmax())
    if float(rms[worst]) > BEYOND * (bound + noise):
        raise ShapeError(
            f"observation {worst} has values up to {float(y[worst].abs().max()):.3g}, far more than signals from "
            f"{limits[0]:g} to {limits[1]:g} can give",
            hint="bring it into the prior's range: bytes become y / 127.5 - 1 for a range from -1 to 1",
        )


def _norm(operator: LinearOperator, x: Tensor) -> float:
    """The norm of a linear operator, by a few steps of the power method: a little below it."""
    size = 1.0
    for _ in range(6):
        image = operator.adjoint(operator(x))
        size = float(image.double().flatten(1).norm(dim=1).max())
        if not size > 0.0:
            return 0.0
        x = image / size
    return math.sqrt(size)


def check_shapes(finished: Finished, sampler: Sampler, layout: Layout, event_shape: tuple[int, ...]) -> None:
    """Refuse what a sampler finished with where it does not have the shapes that `Finished` says.

    Raises:
        ShapeError: If it does not.
    """
    if not isinstance(finished, Finished):
        name = SAMPLERS.name_of(sampler)
        raise ShapeError(
            f"`{name}` finished with a {type(finished).__name__}", hint="return Finished(draws) from `finish`"
        )
    shapes = {"draws": (layout.rows, *event_shape), "log_weight": (layout.rows,), "log_evidence": (layout.groups,)}
    for name, value in finished._asdict().items():
        if value is None:
            continue
        if tuple(value.shape) != shapes[name]:
            raise ShapeError(
                f"`{SAMPLERS.name_of(sampler)}` finished with {name} of shape {tuple(value.shape)}, "
                f"expected {shapes[name]}"
            )


def comparable(finished: Finished, layout: Layout, failed: Tensor) -> Finished:
    """What a sampler finished with, its weights in float64, those of a group scaled to its evidence where it has one.

    Rows that failed, shape (rows,), have the weight zero, and so has the evidence of their group.
    """
    draws, log_weight, log_evidence = finished
    if bool(failed.any()):
        draws = torch.where(failed.reshape(-1, *[1] * (draws.ndim - 1)), 0.0, draws)
        log_weight = torch.where(failed, -math.inf, draws.new_zeros(len(draws)) if log_weight is None else log_weight)
        if log_evidence is not None:
            log_evidence = torch.where(layout.split(failed)[:, 0], -math.inf, log_evidence)
    log_evidence = None if log_evidence is None else log_evidence.double()
    return Finished(draws, _scaled(Finished(draws, log_weight, log_evidence), layout), log_evidence)


def _scaled(finished: Finished, layout: Layout) -> Tensor | None:
    """Log-weights that compare all draws of an observation: where there is evidence, a group's mean weight is it."""
    log_weight, log_evidence = finished.log_weight, finished.log_evidence
    if log_evidence is None:
        return None if log_weight is None else log_weight.double()
    evidence = layout.spread(log_evidence.double())
    if log_weight is None:
        return evidence
    mean = layout.spread(log_mean_exp(layout.split(log_weight)))
    return torch.where(mean == -math.inf, mean, log_weight.double() - mean + evidence)


def check_weights(log_weight: Tensor, failed: Tensor, sampler: Sampler) -> None:
    """Refuse an observation whose draws all have the weight zero although some are numbers, and a run without numbers.

    Args:
        log_weight: shape (observation, sample).
        failed: step at which a draw failed, or 0, shape (observation, sample).
        sampler: whose draws they are.

    Raises:
        NumericalError: If there is one; names the sampler.
    """
    lost = (failed > 0).all(1).to(log_weight.device)
    if bool(lost.all()):
        first = int(failed.min())
        raise NumericalError(
            f"`{SAMPLERS.name_of(sampler)}` produced NaN or infinity in every sample, first at step {first}",
            hint="take a smaller guidance or learning rate, more steps, or check the value range of y and sigma_y",
        )
    empty = ((log_weight == -math.inf).all(1) & ~lost).nonzero().flatten().tolist()
    if empty:
        raise NumericalError(
            f"`{SAMPLERS.name_of(sampler)}` gave every draw of observation {empty[0]} the weight zero",
            hint="check the value range of y and sigma_y, or take more particles",
        )
