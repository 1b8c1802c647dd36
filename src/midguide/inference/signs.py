"""Signs of convergence: their largest values over the steps of a run, and what a record says of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from midguide.maths.rng import Layout
from midguide.samplers.base import Sign


def risen(
    signs: Mapping[str, Tensor], info: Mapping[str, Tensor], names: Collection[str], layout: Layout
) -> dict[str, Tensor]:
    """The largest values so far, one more step included; NaN stays.

    Args:
        signs: of the steps before, by name, float64, shape (rows,).
        info: of a step, tensors of shape (rows,), or (groups,) for what belongs to a group.
        names: of the entries that are signs; one that a step lacks stays as it is.
        layout: which rows form a group.
    """
    found = dict(signs)
    for name in names:
        if name in info:
            value = info[name].double()
            value = value if len(value) == layout.rows else layout.spread(value)
            found[name] = torch.maximum(found[name], value) if name in found else value
    return found


def described(declared: Mapping[str, Sign]) -> dict[str, Any]:
    """What a record says of the signs of a sampler; nothing where it has none."""
    return {"signs": {name: sign._asdict() for name, sign in declared.items()}} if declared else {}


def suspects(signs: Mapping[str, Tensor], record: Mapping[str, Any], observation: int | None = None) -> list[str]:
    """What must be said of signs, shape (observation, sample), above the values that the record calls high.

    Args:
        signs: of all observations, by name.
        record: holds the entry of `described`, if any sampler was asked.
        observation: look at this one only.
    """
    lines = []
    for name, value in signs.items():  # a run of one step has none
        sign = Sign(**record["signs"][name])
        above = ~(value <= sign.high)  # NaN counts
        for i, count in enumerate(above.sum(1).tolist()):
            if count and observation in (None, i):
                largest = float(value[i][above[i]].max())
                lines.append(
                    f"{sign.meaning} in {count} of {value.shape[1]} draws of observation {i} "
                    f"(`{name}` up to {largest:.2g}, at most {sign.high:g} is fine); {sign.advice}"
                )
    return lines
