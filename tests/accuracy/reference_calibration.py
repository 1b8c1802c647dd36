"""Rank statistics, expected coverage and TARP a second time: NumPy, loop by loop, as the papers write them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sbc_ranks(truths: Array, draws: Array) -> NDArray[np.int64]:
    """Talts et al. 2018, Algorithm 1: of each truth (N,) the number of its draws (N, L) below it."""
    return np.array([sum(1 for draw in own if draw < truth) for truth, own in zip(truths, draws, strict=True)])


def tarp_coverage(truths: Array, draws: Array, references: Array, levels: Array) -> Array:
    """Lemos et al. 2023, Algorithm 2: truths (N, d), draws (N, L, d), references (N, d); expected coverage by level."""
    shares = []
    for truth, own, reference in zip(truths, draws, references, strict=True):
        distances = [np.linalg.norm(draw - reference) for draw in own]
        shares.append(np.mean([distance < np.linalg.norm(truth - reference) for distance in distances]))
    return np.array([np.mean([share <= level for share in shares]) for level in levels])


def highest_density_coverage(truth_density: Array, draw_density: Array, levels: Array) -> Array:
    """Hermans et al. 2022, Eq. (4): the truth is in the region that holds the densest share of its draws."""
    above = [np.mean(own > truth) for truth, own in zip(truth_density, draw_density, strict=True)]
    return np.array([np.mean([share <= level for share in above]) for level in levels])


def central_coverage(truths: Array, draws: Array, k: int) -> float:
    """How often the interval from the k-th smallest to the k-th largest draw holds the truth."""
    held = []
    for truth, own in zip(truths, draws, strict=True):
        ordered = sorted(own)
        held.append(ordered[k - 1] <= truth <= ordered[-k])
    return float(np.mean(held))
