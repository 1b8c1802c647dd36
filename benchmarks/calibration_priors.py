"""Priors of the calibration page: a mixture, a Gaussian scaled by ten, a field of one channel with values up to 9."""

from __future__ import annotations

import torch

from midguide.exact.problems import mixture25, random_gaussian
from midguide.priors import Gaussian, GaussianMixture


def mixture() -> GaussianMixture:
    """25 Gaussians in 20 dimensions."""
    return mixture25(20, 0)


def scaled() -> Gaussian:
    """A random Gaussian in 20 dimensions, ten times as large."""
    prior = random_gaussian(20, 0)
    return Gaussian(10 * prior.mean.float(), 100 * prior.covariance_matrix())


def field() -> Gaussian:
    """One channel of 16x16: a center of height 6 and a smooth field of standard deviation 1.2; values up to 9."""
    rows = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1).reshape(-1, 2)
    squared = (rows[:, None] - rows).square().sum(-1)
    covariance = 1.2**2 * torch.exp(-squared.double() / (2 * 2.0**2)) + 1e-2 * torch.eye(256, dtype=torch.float64)
    center = 6 * torch.exp(-(rows - 7.5).square().sum(-1) / (2 * 3.0**2))
    return Gaussian(center.reshape(1, 16, 16), covariance)
