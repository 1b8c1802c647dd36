"""Gaussians of independent coefficients: masses and products in closed form, in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Factor(NamedTuple):
    """`prod_j N(x_j; center_j, variance_j)`, a factor of a density of coefficients x, shape (B, n).

    Args:
        center: shape (B, n).
        variance: float64, broadcasts to center; zero where x_j is known, infinite where nothing is known of it.

    Example:
        >>> seen = Factor(torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, torch.inf]]).double())
        >>> [part.tolist() for part in seen.times(torch.zeros(1, 2), 1.0)]
        [[[0.5, 0.0]], [[0.5, 1.0]]]
    """

    center: Tensor
    variance: Tensor

    def log_mass(self, mean: Tensor, variance: float | Tensor = 0.0) -> Tensor:
        """Log of its mean under `x ~ N(mean, variance)`, float64, shape (B,): its log density where variance is 0."""
        known = torch.isfinite(self.variance)
        total = torch.where(known, self.variance + variance, 1.0)
        error = (self.center - mean).double()
        terms = error.square() / total + total.log() + math.log(2 * math.pi)
        return -0.5 * torch.where(known, terms, 0.0).sum(1)

    def times(self, mean: Tensor, variance: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the normalized product with `N(mean, variance)`, shape (B, n) each."""
        gain = variance / (variance + self.variance)
        left = torch.where(torch.isfinite(self.variance), self.variance * gain, variance)
        return mean + (gain * (self.center - mean).double()).to(mean), left.to(mean)
