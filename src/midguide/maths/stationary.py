"""Stationary covariances on a torus: diagonal in the Fourier domain, so that products, roots and solves are FFTs.

The basis is that of the Hartley transform, `cas = cos + sin`: real, orthonormal, symmetric and its own inverse. A
covariance that depends on distance alone is diagonal in it, since its spectrum is even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.maths.covariance import Covariance, Linear, Root, Solution, iterated
from midguide.maths.rng import Rng


def hartley(x: Tensor, dimensions: int) -> Tensor:
    """Orthonormal Hartley transform along the last axes, shape of x.

    Example:
        >>> x = torch.randn(2, 3, 5)
        >>> bool(torch.allclose(hartley(hartley(x, 2), 2), x, atol=1e-6))
        True
    """
    spectrum = torch.fft.fftn(x, dim=tuple(range(-dimensions, 0)), norm="ortho")
    return spectrum.real - spectrum.imag


@dataclass(frozen=True, eq=False)
class Stationary(Covariance):
    """`C = H diag(s) H` with H the Hartley transform along the last axes; the same for all rows.

    Args:
        spectrum: s, not negative and even, shape of one event.
        dimensions: how many of the last axes are space.
    """

    spectrum: Tensor
    dimensions: int

    @property
    def root_shape(self) -> tuple[int, ...]:
        return tuple(self.spectrum.shape)

    def __call__(self, v: Tensor) -> Tensor:
        return self._along(v, self.spectrum)

    def root(self, noise: Tensor) -> Root:
        exact = noise.new_zeros(len(noise))
        return Root(hartley(self.spectrum.sqrt() * noise, self.dimensions), exact, exact.bool())

    def condensed(self, operator: Linear, like: Tensor, rng: Rng) -> Covariance:
        """Itself."""
        return self

    def solve(self, operator: Linear, noise: float | Tensor, r: Tensor) -> Solution:
        """By conjugate gradients until they converge."""
        return iterated(self, operator, noise, r)

    def shrunk(self, v: Tensor, noise: float) -> Tensor:
        return self._along(v, self.spectrum / (self.spectrum + noise))

    def diagonal(self, like: Tensor) -> Tensor:
        axes = tuple(range(-self.dimensions, 0))
        return self.spectrum.mean(axes, keepdim=True).expand(like.shape)

    def _along(self, v: Tensor, factor: Tensor) -> Tensor:
        return hartley(factor * hartley(v, self.dimensions), self.dimensions)
