"""Pullbacks that are called again, and what they hold on to."""

import gc
import weakref

import torch
from torch import nn

from midguide.maths import autodiff
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture


def generator():
    return torch.Generator().manual_seed(0)


def network():
    body = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 5), nn.Tanh()).double()
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.4, generator=generator())
    return autodiff.frozen(body)


def jacobians(f, x):
    """Of each row on its own, shape (B, out, in)."""
    return torch.stack([torch.autograd.functional.jacobian(lambda u: f(u[None])[0], row) for row in x])


def check_ten_calls(f, x):
    matrices = jacobians(f, x)
    value, pullback = autodiff.vjp(f, x)
    assert torch.allclose(value, f(x))
    vectors = torch.randn(10, *value.shape, generator=generator(), dtype=x.dtype)
    for vector in vectors:
        assert torch.allclose(pullback(vector), torch.einsum("bo,boi->bi", vector, matrices), atol=1e-12)
        ahead, behind = (f(x + sign * 1e-6 * vectors[0]) for sign in (1, -1))
        slope = ((ahead - behind) / 2e-6 * vector).sum(1)  # finite differences: error 1e-12 / 2e-6
        assert torch.allclose((pullback(vector) * vectors[0]).sum(1), slope, atol=1e-6)
    assert not any(t.requires_grad for t in (x, value, pullback(vectors[0])))


def test_a_pullback_called_ten_times_is_the_jacobian_each_time():
    check_ten_calls(network(), torch.randn(3, 5, generator=generator(), dtype=torch.float64))


def test_blocks_that_are_recomputed_are_so_at_each_call():
    check_ten_calls(autodiff.checkpointed(network()), torch.randn(3, 5, generator=generator(), dtype=torch.float64))


def test_a_function_that_knows_its_derivative_gives_it_again():
    prior = GaussianMixture(torch.ones(3), torch.randn(3, 5, generator=generator(), dtype=torch.float64), 0.5)
    check_ten_calls(lambda u: prior(u, 300), torch.randn(2, 5, generator=generator(), dtype=torch.float64))


def test_what_a_pullback_needs_is_freed_with_it():
    held = []

    def f(u):
        inside = u.exp()
        held.append(weakref.ref(inside))
        return inside * inside

    value, pullback = autodiff.vjp(f, torch.ones(2, 3))
    pullback(value)
    gc.collect()
    assert held[0]() is not None
    del pullback
    gc.collect()
    assert held[0]() is None


def test_pullbacks_and_jvps_of_a_prior_agree():
    prior = Gaussian(torch.zeros(4), torch.linspace(0.1, 2, 4))
    x, a, b = torch.randn(3, 2, 4, generator=generator())
    _, pullback = autodiff.vjp(lambda u: prior(u, 200), x)
    pushed = autodiff.jvp(lambda u: prior(u, 200), x, a)[1]
    assert torch.allclose((pushed * b).sum(), (a * pullback(b)).sum())
