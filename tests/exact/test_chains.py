"""Signs of convergence of chains, on chains whose correlation is known."""

import pytest
import torch

from midguide.exact.chains import effective_draws, split_rhat
from midguide.maths.rng import Rng


def autoregressive(rho, chains=8, sweeps=4000):
    noise = Rng([(0, "chain")], size=chains).normal(torch.empty(chains, sweeps, dtype=torch.float64))
    x = [noise[:, 0]]
    for i in range(1, sweeps):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * noise[:, i])
    return torch.stack(x, 1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_draws_of_an_autoregression_are_known(rho):
    """n (1 - rho) / (1 + rho); the estimate from 32,000 values is right to about a tenth."""
    got = float(effective_draws(autoregressive(rho)[:, :, None])[0])
    assert got == pytest.approx(32_000 * (1 - rho) / (1 + rho), rel=0.2)


def test_split_rhat_is_one_for_chains_of_one_law_and_sees_one_that_differs():
    same = autoregressive(0.5)
    assert float(split_rhat(same)) < 1.005
    moved = same.clone()
    moved[0] += 1
    assert float(split_rhat(moved)) > 1.05


def test_split_rhat_sees_a_drift_that_all_chains_share():
    drifting = autoregressive(0.5) + torch.linspace(0, 2, 4000)
    assert float(split_rhat(drifting)) > 1.1


def test_constant_quantities_have_converged():
    assert float(split_rhat(torch.ones(4, 10))) == 1.0
    assert float(effective_draws(torch.ones(4, 10))) == 40.0
