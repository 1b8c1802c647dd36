"""The covariance of a mixture of many components equals the one with a factor for each of them."""

import pytest
import torch

from midguide.maths.covariance import LowRank
from midguide.maths.rng import Rng
from midguide.maths.spread import Spread
from midguide.operators.matrix import Matrix

G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=G, dtype=torch.float64)


@pytest.fixture(scope="module")
def both():
    """Three rows, 7 centers, 5 entries."""
    weights, centers = torch.softmax(normal(3, 7), 1), normal(7, 5)
    factors = weights.sqrt()[..., None] * (centers - (weights @ centers)[:, None])
    spread = Spread(0.3, weights, centers, (5,))
    return spread, LowRank(torch.full((1, 1, 5), 0.3, dtype=torch.float64), None, factors, (5,))


def test_products_roots_and_diagonals_are_those_of_the_factors(both):
    spread, factored = both
    v, noise = normal(3, 5), normal(3, 12)
    torch.testing.assert_close(spread(v), factored(v))
    torch.testing.assert_close(spread.root(noise).value, factored.root(noise).value)
    torch.testing.assert_close(spread.diagonal(v), factored.diagonal(v))
    assert spread.root_shape == factored.root_shape


def test_solves_are_those_of_the_factors(both):
    spread, factored = both
    operator, r, v = Matrix.create(normal(2, 5), (5,)), normal(3, 2), normal(3, 4, 5)
    for got, want in zip(spread.solve(operator, 0.1, r)[:2], factored.solve(operator, 0.1, r)[:2], strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(spread.shrunk(v, 0.2), factored.shrunk(v, 0.2))


def test_condensed_covariance_is_the_covariance_where_the_vectors_span_everything(both):
    spread, factored = both
    operator, v = Matrix.create(normal(2, 5), (5,)), normal(3, 5)
    near = spread.condensed(operator, normal(3, 2), Rng([(0, i) for i in range(3)]))
    torch.testing.assert_close(near(v), factored(v))
