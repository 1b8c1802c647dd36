"""Rows whose values stop being numbers: the run names them and sets them aside, and the others go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from midguide.errors import ConfigError, NumericalError, suggestion
from midguide.maths.rng import Layout
from midguide.samplers.base import SAMPLERS, Sampler

OnNan = Literal["aside", "stop"]
"""What to do with rows that are not numbers any more: set them aside, or stop the run."""

FAILED = "failed"
"""Among the signs of a chunk: the step at which a row failed, 0 for rows that did not."""


def check_choice(on_nan: str) -> None:
    """Refuse a choice that does not exist."""
    if on_nan not in ("aside", "stop"):
        raise ConfigError(f"unknown choice on_nan=`{on_nan}`", hint=suggestion(str(on_nan), ("aside", "stop")))


def broken(values: Mapping[str, Any], layout: Layout) -> dict[str, Tensor]:
    """Which rows hold NaN or infinity, by the name of the value; empty where none does.

    `-inf` is a number in values whose name begins with `log_`. What belongs to a group counts for all its rows.
    """
    found = {}
    for name, value in values.items():
        if not isinstance(value, Tensor) or math.isfinite(value.sum()):  # quick, finite only if all entries are
            continue
        fine = torch.isfinite(value) | (value == -math.inf if name.startswith("log_") else False)
        bad = (~fine).reshape(len(value), -1).any(1)
        if bool(bad.any()):
            found[name] = bad if len(bad) == layout.rows else layout.spread(bad)
    return found


def failure(found: Mapping[str, Tensor], sampler: Sampler, where: str) -> NumericalError:
    """The error that names sampler, value, rows, step and time."""
    name, bad = next(iter(found.items()))
    return NumericalError(
        f"`{SAMPLERS.name_of(sampler)}` produced NaN or infinity in {name} of {int(bad.sum())} of {len(bad)} samples "
        f"{where}",
        hint="take a smaller guidance or learning rate, more steps, or check the value range of y and sigma_y",
    )


def whole_groups(found: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """The rows of all groups with a broken row, boolean, shape (rows,)."""
    bad = torch.stack(list(found.values())).any(0)
    return layout.spread(layout.split(bad).any(1))


def restored(before: Any, after: Any, bad: Tensor, layout: Layout) -> Any:
    """The state after a step, with the rows that broke as they were before it."""

    def mixed(old: Any, new: Any) -> Any:
        if not isinstance(new, Tensor):
            return new
        rows = bad if len(new) == layout.rows else layout.split(bad)[:, 0]
        return torch.where(rows.reshape(-1, *[1] * (new.ndim - 1)), old, new)

    old, new = before._asdict(), after._asdict()
    return type(after)(**{name: mixed(old[name], value) for name, value in new.items()})


def filled(draws: Tensor, failed: Tensor) -> Tensor:
    """The draws with those that failed replaced by the first good one of their observation.

    Args:
        draws: of all observations, shape (rows, ...).
        failed: step at which each failed or 0, shape (observation, sample).
    """
    if not bool(failed.any()):
        return draws
    observations, n = failed.shape
    good = (failed == 0).int().argmax(1)[:, None]
    picks = torch.where(failed > 0, good, torch.arange(n)) + n * torch.arange(observations)[:, None]
    return draws[picks.flatten().to(draws.device)]


def places(failed: Tensor) -> list[list[int]]:
    """Observation, sample and step of what failed, from steps of shape (observation, sample)."""
    return [[i, j, int(failed[i, j])] for i, j in failed.nonzero().tolist()]


def failures(record: Mapping[str, Any], observation: int | None = None) -> list[str]:
    """What must be said of the draws that a record calls failed, one line for each observation."""
    lines = []
    for i in sorted({place[0] for place in record.get(FAILED, [])}):
        if observation in (None, i):
            found = [f"{j} (step {step})" for of, j, step in record[FAILED] if of == i]
            named = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            lines.append(
                f"{len(found)} draws of observation {i} became NaN or infinite and were set aside: {named}; "
                "they have the weight zero; take a smaller guidance or learning rate, or more steps"
            )
    return lines
