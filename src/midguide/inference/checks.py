"""What the loop asks of a sampler's state and of what it finishes with: values that are numbers, weights that weigh."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.errors import NumericalError, ShapeError
from midguide.maths.rng import Layout
from midguide.maths.weights import log_mean_exp
from midguide.samplers.base import SAMPLERS, Finished, Sampler


def check_state(state: Any, sampler: Sampler, layout: Layout, step: int, s: Time) -> None:
    """Refuse a state with NaN or infinity; `-inf` is allowed in fields whose name begins with `log_`.

    Raises:
        NumericalError: If there are some; names sampler, field, step and time.
    """
    for name, value in state._asdict().items():
        if isinstance(value, Tensor):
            _check_numbers(name, value, sampler, layout, f"at step {step} (time {s})")


def checked(finished: Finished, sampler: Sampler, layout: Layout, event_shape: tuple[int, ...], steps: int) -> Finished:
    """What a sampler finished with, its weights in float64, those of a group scaled to its evidence where it has one.

    Raises:
        NumericalError: If there is NaN or infinity; names sampler, part and the number of steps before.
        ShapeError: If something does not have the shape that `Finished` says.
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
        _check_numbers(name, value, sampler, layout, f"at the end, after step {steps}")
    evidence = None if finished.log_evidence is None else finished.log_evidence.double()
    return Finished(finished.draws, _scaled(finished, layout), evidence)


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


def check_weights(log_weight: Tensor, sampler: Sampler) -> None:
    """Refuse an observation whose draws all have the weight zero; `log_weight` has shape (observation, sample).

    Raises:
        NumericalError: If there is one; names the sampler.
    """
    empty = (log_weight == -math.inf).all(1).nonzero().flatten().tolist()
    if empty:
        raise NumericalError(
            f"`{SAMPLERS.name_of(sampler)}` gave every draw of observation {empty[0]} the weight zero",
            hint="check the value range of y and sigma_y, or take more particles",
        )


def _check_numbers(name: str, value: Tensor, sampler: Sampler, layout: Layout, where: str) -> None:
    if math.isfinite(value.sum()):  # quick, and finite only if all entries are
        return
    fine = torch.isfinite(value)
    if name.startswith("log_"):
        fine |= value == -math.inf
    bad = int((~fine).reshape(len(value), -1).any(1).sum())
    if bad:
        things = "samples" if len(value) == layout.rows else "groups"
        raise NumericalError(
            f"`{SAMPLERS.name_of(sampler)}` produced NaN or infinity in {name} of {bad} of {len(value)} {things} "
            f"{where}",
            hint="take a smaller guidance or learning rate, more steps, or check the value range of y and sigma_y",
        )
