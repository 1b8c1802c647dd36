"""What a glyph may be of which something is measured: the probability of each character, by brute force.

Pictures of the generator have weights by how well they explain the measurement. No network takes part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midguide.data.glyphs import CHARACTERS, glyph_classes, glyphs
from midguide.errors import ConfigError, NumericalError
from midguide.likelihoods.base import Likelihood

FIRST = 100_000
"""Number of the first picture that is tried."""
PART = 2048


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Probabilities of characters, and how far they are known.

    Args:
        probability: of each of `CHARACTERS`, shape (34,), float64.
        error: standard error of each, from the weights.
        pictures: effective number of pictures that explain the measurement.
    """

    probability: Tensor
    error: Tensor
    pictures: float


def glyph_readings(likelihood: Likelihood, *, count: int = 30_000, seed: int = 0) -> Readings:
    """The posterior probability of each character, by importance weights of pictures drawn from the generator.

    `p(c | y) = sum_k w_k 1[c_k = c]` with `w_k` in proportion to `p(y | x_k)`; its standard error is
    `sqrt(sum_k w_k^2 (1[c_k = c] - p)^2)`. Both are poor where few pictures explain the measurement: see `pictures`.

    Args:
        likelihood: of one observation of a picture in [-1, 1], shape (1, 32, 32).
        count: pictures to draw.
        seed: of the generator.

    Raises:
        ConfigError: If `count` is not positive.
        NumericalError: If a likelihood is not finite.
    """
    if count < 1:
        raise ConfigError(f"`count` must be positive, got {count}", hint="30,000 take three seconds")
    numbers = torch.arange(FIRST, FIRST + count)
    parts = numbers.split(PART)
    fit = torch.cat([_fit(likelihood, glyphs(part, seed=seed)) for part in parts])
    if not bool(torch.isfinite(fit).all()):
        raise NumericalError("the likelihood of a glyph is not finite", hint="is the noise positive?")
    weights, classes = fit.softmax(0), glyph_classes(numbers, seed=seed)
    probability = torch.zeros(len(CHARACTERS), dtype=torch.float64).index_add(0, classes, weights)
    # Those of a class miss it by 1 - p, the others by p.
    squared = torch.zeros_like(probability).index_add(0, classes, weights.square())
    total = float(squared.sum())
    error = (squared * (1 - probability).square() + (total - squared) * probability.square()).sqrt()
    return Readings(probability=probability, error=error, pictures=1 / total)


def _fit(likelihood: Likelihood, pictures: Tensor) -> Tensor:
    """Log-likelihood of each picture, shape (N,), float64."""
    rows = torch.zeros(len(pictures), dtype=torch.int64)
    return likelihood.select(rows).log_prob(pictures).double()
