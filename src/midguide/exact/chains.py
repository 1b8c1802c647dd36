"""Whether Markov chains have converged: split R-hat and the effective number of draws.

References: Gelman, Carlin, Stern, Dunson, Vehtari, Rubin 2013, "Bayesian Data Analysis", Section 11.4 and 11.5; Geyer
1992 for the initial positive sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_rhat(chains: Tensor) -> Tensor:
    """Split R-hat of each quantity: 1 where all halves of all chains look alike.

    Args:
        chains: shape (chain, sweep, ...).

    Returns:
        Shape (...); 1 for a quantity that is constant.
    """
    halves = _halves(chains)
    n = halves.shape[1]
    within = halves.var(1).mean(0)
    between = halves.mean(1).var(0)
    return torch.where(within > 0, (((n - 1) / n * within + between) / within).sqrt(), 1.0)


def effective_draws(chains: Tensor) -> Tensor:
    """How many independent draws give means as precise, of each quantity, shape (...).

    It sums autocorrelations in pairs for as long as the sums of pairs are positive.

    Args:
        chains: shape (chain, sweep, ...).
    """
    halves = _halves(chains)
    m, n = halves.shape[:2]
    centered = halves - halves.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centered, n=2 * n, dim=1).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n, dim=1)[:, :n].mean(0) / n
    within, between = halves.var(1).mean(0), halves.mean(1).var(0)
    total = (n - 1) / n * within + between
    correlation = 1 - (within - covariance * n / (n - 1)) / total.clamp_min(1e-300)
    pairs = correlation[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0)
    sums = (2 * (pairs * positive).sum(0) - 1).clamp_min(1 / (m * n))
    return torch.where(within > 0, (m * n / sums).clamp_max(m * n), float(m * n))


def _halves(chains: Tensor) -> Tensor:
    """Each chain cut in two, shape (2 chain, sweep / 2, ...), float64."""
    half = chains.shape[1] // 2
    return torch.cat([chains[:, :half], chains[:, -half:]]).double()
