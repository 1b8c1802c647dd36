"""Quantiles of more values than fit into memory: a t-digest of each entry, all entries at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Digest:
    """Summarizes weighted values of many entries by a fixed number of centroids each.

    A centroid at level p holds at most about a share `pi sqrt(p (1 - p)) / size` of the weight, so that tails stay
    fine. The rank of a quantile is off by less than that; by a few thousandths for the default size. Up to `size`
    values are kept as they are.

    Args:
        size: centroids of each entry.

    Example:
        >>> digest = Digest()
        >>> for block in torch.arange(10_000.0).reshape(100, 100, 1):
        ...     digest.add(block)
        >>> bool((digest.quantiles([0.5]) - 4999.5).abs() < 50)
        True

    References: Dunning and Ertl 2019, "Computing extremely accurate quantiles using t-digests", scale function k1.
    """

    def __init__(self, size: int = 200) -> None:
        self.size = size
        self.means = self.weights = torch.empty(0, 0, dtype=torch.float64)
        self.low = self.high = torch.empty(0, dtype=torch.float64)

    def add(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Take in a block.

        Args:
            values: shape (n, *entries).
            weights: of each row, not negative, shape (n,); ones by default.
        """
        x = values.double().flatten(1)
        w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double().cpu()
        x, w = x[w > 0], w[w > 0]
        if not len(x):
            return
        if not self.means.numel():
            self.means = self.weights = x.new_zeros(0, x.shape[1])
            self.low, self.high = x.amin(0), x.amax(0)
        self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))
        means = torch.cat([self.means, x])
        self.means, self.weights = self._merged(means, torch.cat([self.weights, w[:, None].expand_as(x)]))

    def _merged(self, means: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """At most `size` centroids of each entry, in order."""
        means, order = means.sort(0)
        weights = weights.gather(0, order)
        if len(means) <= self.size:
            return means, weights
        reached = weights.cumsum(0)
        middle = ((reached - weights / 2) / reached[-1:]).clamp(0, 1)
        scale = (2 * middle - 1).asin() / math.pi + 0.5
        place = (scale * self.size).long().clamp(0, self.size - 1)
        total = means.new_zeros(self.size, means.shape[1]).scatter_add_(0, place, weights)
        sums = torch.zeros_like(total).scatter_add_(0, place, weights * means)
        # an empty centroid takes the mean of the next lower one and no weight
        found = torch.where(total > 0, sums / total.clamp_min(torch.finfo(torch.float64).tiny), -math.inf)
        return found.cummax(0).values.clamp_min(means[0]), total

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles at these levels, linear between the middles of centroids, shape (level, entries)."""
        weights = self.weights / self.weights.sum(0)
        means = torch.cat([self.low[None], self.means, self.high[None]]).T.contiguous()
        zero = torch.zeros_like(weights[:1])
        middles = torch.cat([zero, weights.cumsum(0) - weights / 2, zero + 1]).T.contiguous()
        asked = middles.new_tensor(list(levels)).expand(len(means), -1).contiguous()
        upper = torch.searchsorted(middles, asked).clamp(1, means.shape[1] - 1)
        (left, right), (a, b) = ((of.gather(1, upper - 1), of.gather(1, upper)) for of in (middles, means))
        share = torch.where(right > left, (asked - left) / (right - left).clamp_min(1e-300), 0.5)
        return torch.lerp(a, b, share.clamp(0, 1)).T
