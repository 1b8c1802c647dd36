"""Masses and products of Gaussian factors."""

import torch

from midguide.maths.gaussians import Factor


def test_mass_times_product_is_the_product_of_the_densities():
    """`N(x; m, v) N(x; c, w) = mass N(x; product)` at every x."""
    generator = torch.Generator().manual_seed(0)
    x, mean, center = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    factor = Factor(center, torch.tensor([0.3, 2.0, 1e-3, 5.0, 1.0], dtype=torch.float64))
    normal = torch.distributions.Normal
    both = normal(mean, 0.7**0.5).log_prob(x).sum(1) + factor.log_mass(x)
    new_mean, variance = factor.times(mean, 0.7)
    product = normal(new_mean, variance.sqrt()).log_prob(x).sum(1)
    torch.testing.assert_close(factor.log_mass(mean, 0.7) + product, both)


def test_a_variance_of_zero_fixes_a_value_and_one_of_infinity_says_nothing():
    factor = Factor(torch.tensor([[3.0, 7.0]]), torch.tensor([0.0, torch.inf], dtype=torch.float64))
    mean, variance = factor.times(torch.zeros(1, 2), 2.0)
    assert mean.tolist() == [[3.0, 0.0]]
    assert variance.flatten().tolist() == [0.0, 2.0]
    want = torch.distributions.Normal(0.0, 2.0**0.5).log_prob(torch.tensor(3.0))
    torch.testing.assert_close(factor.log_mass(torch.zeros(1, 2), 2.0), want.double()[None])
