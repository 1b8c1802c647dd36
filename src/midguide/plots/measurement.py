"""A measurement as a picture, also where it is not one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from midguide.likelihoods.poisson import PoissonLikelihood
from midguide.operators.base import LinearOperator
from midguide.problem import Problem


class Picture(NamedTuple):
    """Shape (C, H, W) in the value range of the prior; what was measured, broadcastable to it; how it is shown."""

    image: Tensor
    measured: Tensor
    caption: str = ""


def picture_of_measurement(problem: Problem, observation: int = 0) -> Picture | None:
    """What to show of one observation; None where it has no picture.

    - counts n are shown as `low + (high - low) (n - background) / rate`;
    - images whose values leave the value range by its width are not images: `log |y|`, scaled to the range (the modulus
      of a Fourier transform);
    - other images as they are;
    - measurements that are not images, of a linear operator: `A^T y`, scaled to the range.

    Args:
        problem: whose samples are images of shape (C, H, W).
        observation: which observation.
    """
    own = problem.select(torch.tensor([observation]))
    likelihood, (low, high) = own.signal_likelihood, problem.denoiser.signal_range or (-1.0, 1.0)
    y, everything = likelihood.y, torch.ones((), dtype=torch.bool)
    if y.ndim == 4 and y.shape[1] in (1, 3):
        if isinstance(likelihood, PoissonLikelihood):
            y = low + (high - low) * (likelihood.counts - likelihood.background) / likelihood.rate
        elif float(y.max()) > 2 * high - low or float(y.min()) < 2 * low - high:
            logs = y[0].abs().clamp_min(1e-3 * float(y.abs().max())).log()
            return Picture(_scaled(logs, low, high), everything, "log scale")
        return Picture(y[0], likelihood.operator.measured(y).expand_as(y)[0])
    if isinstance(likelihood.operator, LinearOperator):
        return Picture(_scaled(likelihood.operator.adjoint(y)[0], low, high), everything, "$A^T y$")
    return None


def _scaled(image: Tensor, low: float, high: float) -> Tensor:
    """Smallest value black, largest white."""
    spread = (image.max() - image.min()).clamp_min(torch.finfo(image.dtype).tiny)
    return low + (high - low) * (image - image.min()) / spread
