"""The covariance of a mixture whose components are many and share one isotropic covariance, without large tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.maths.covariance import DENSE, Covariance, Linear, LowRank, Pullback, Root, Solution, iterated
from midguide.maths.rng import Rng

PROBES = 16
"""Vectors of noise from which a covariance is condensed."""


@dataclass(frozen=True, eq=False)
class Spread(Covariance):
    """`C = v I + sum_k w_k (m_k - m) (m_k - m)^T`, m the weighted mean: centers that all rows share.

    No tensor has the size rows x centers x entries, so that there may be thousands of each.

    Args:
        variance: v, not negative.
        weights: w, shape (B, K), which sum to one.
        centers: m_k, shape (K, n).
        event_shape: shape of one event, with n entries.
    """

    variance: float
    weights: Tensor
    centers: Tensor
    event_shape: tuple[int, ...]

    @property
    def root_shape(self) -> tuple[int, ...]:
        """One number for each entry, and one for each center."""
        return (self.centers.shape[1] + self.centers.shape[0],)

    def __call__(self, v: Tensor) -> Tensor:
        flat = v.reshape(len(v), -1)
        along = flat @ self.centers.mT
        along = self.weights * (along - (self.weights * along).sum(1, keepdim=True))
        return torch.addmm(flat, along, self.centers, beta=self.variance).reshape(v.shape)

    def root(self, noise: Tensor) -> Root:
        first, second = noise.split([self.centers.shape[1], self.centers.shape[0]], 1)
        shares = self.weights.sqrt() * second
        shares = shares - self.weights * shares.sum(1, keepdim=True)
        value = torch.addmm(first, shares, self.centers, beta=math.sqrt(self.variance))
        exact = noise.new_zeros(len(noise))
        return Root(value.reshape(len(noise), *self.event_shape), exact, exact.bool())

    def condensed(self, operator: Linear, like: Tensor, rng: Rng) -> LowRank:
        """That of its products, with a few vectors of noise."""
        return Pullback(self, 1.0, self.event_shape, PROBES).condensed(operator, like, rng)

    def solve(self, operator: Linear, noise: float | Tensor, r: Tensor) -> Solution:
        """From the matrix of up to 64 measured values; else conjugate gradients until they converge."""
        if math.prod(r.shape[1:]) > DENSE:
            return iterated(self, operator, noise, r)
        return self.across(operator, r).solve(noise, r)

    def shrunk(self, v: Tensor, noise: float) -> Tensor:
        """By conjugate gradients: with A the identity it is what the solution moves the mean by."""
        return torch.stack([iterated(self, _Everything(), noise, u).gain for u in v.unbind(1)], 1)

    def diagonal(self, like: Tensor) -> Tensor:
        between = self.weights @ self.centers.square() - (self.weights @ self.centers).square()
        return (self.variance + between.clamp_min(0)).reshape(like.shape)


class _Everything:
    """The identity."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y
