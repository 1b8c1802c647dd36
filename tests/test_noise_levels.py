"""Noise of many levels: the same posterior as with the covariance written out, for every sampler that takes it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from midguide import Problem, make_sampler, sample
from midguide.errors import ConfigError, ShapeError
from midguide.exact.problems import random_gaussian
from midguide.likelihoods import GaussianLikelihood, observe
from midguide.operators import (
    BlockMean,
    Identity,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    SVDOperator,
    join,
    make_operator,
    random_mask,
    stack,
)
from midguide.priors import Gaussian
from midguide.samplers import SAMPLERS
from midguide.testing import check_operator


def levels(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(0.05, 2.0, shape))


CASES: dict[str, tuple[Operator, tuple[int, ...], Tensor]] = {
    "each value": (Matrix.create(torch.linspace(-1, 1, 18).reshape(3, 6), (6,)), (6,), levels(3)),
    "each observation": (Matrix.create(torch.linspace(-1, 1, 18).reshape(3, 6), (6,)), (6,), levels(2, 1)),
    "each value of each observation": (Identity(), (6,), levels(2, 6)),
    "each channel": (BlockMean(2), (3, 4, 2), levels(3, 1, 1)),
    "masked values": (random_mask((6,), 0.5, seed=0), (6,), levels(6)),
    "a mask for each observation": (random_mask((6,), 0.5, seed=0, count=2), (6,), levels(6)),
    "complex values": (make_operator("fourier", (2, 6), complex_signal=True), (2, 6), levels(6, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_posterior_and_density_are_those_of_the_diagonal_covariance(
    name: str, dense: Callable[..., np.ndarray]
) -> None:
    operator, shape, sigma = CASES[name]
    given = random_gaussian(math.prod(shape), 0)
    cov, mean = given.covariance_matrix(), given.mean.double().flatten()
    prior = Gaussian(mean.reshape(shape), cov)
    x = prior.sample(2)
    y = operator(x)
    y = torch.where(
        operator.measured(y), y + 0.1 * torch.from_numpy(np.random.default_rng(2).normal(size=y.shape)), 0.0
    )
    likelihood = GaussianLikelihood.of(operator, y, sigma)
    for i in range(2):
        row = torch.tensor([i])
        own = operator.select(row)
        seen = own.measured(y[row]).expand(y[row].shape).flatten().numpy()
        columns = operator.select(torch.full((math.prod(shape),), i))
        matrix, noise = dense(columns, shape)[seen], sigma.expand(y.shape)[i].flatten().numpy()[seen]
        residual = y[i].flatten().numpy()[seen] - matrix @ mean.numpy()
        gain = np.linalg.solve(matrix @ cov.numpy() @ matrix.T + np.diag(noise**2), matrix @ cov.numpy()).T
        posterior = prior.posterior(likelihood.select(row))
        # solves with condition numbers up to 1e4
        np.testing.assert_allclose(posterior.mean.flatten().numpy(), mean.numpy() + gain @ residual, atol=1e-8)
        np.testing.assert_allclose(
            posterior.covariance_matrix().numpy(), cov.numpy() - gain @ matrix @ cov.numpy(), atol=1e-8
        )
        standard = (y[i].flatten().numpy()[seen] - matrix @ x[i].flatten().numpy()) / noise
        exact = -0.5 * np.sum(standard**2 + np.log(2 * np.pi * noise**2))
        assert float(likelihood.log_density(x)[i]) == pytest.approx(exact, rel=1e-10)
        assert float(likelihood.chi_square(x)[i]) == pytest.approx(np.mean(standard**2), rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_operators_with_weights_satisfy_the_contract(name: str) -> None:
    operator, shape, sigma = CASES[name]
    likelihood = GaussianLikelihood.of(operator, operator(torch.zeros(2, *shape, dtype=torch.float64)), sigma)
    check_operator(likelihood.operator, shape)
    assert isinstance(likelihood.operator, LinearOperator)
    assert isinstance(likelihood.operator, SVDOperator) == isinstance(operator, Identity | Mask)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_equal_levels_are_one_level_for_every_sampler(name: str) -> None:
    few = {"steps": 4} if "steps" in SAMPLERS[name].defaults() else {}
    sampler, prior = SAMPLERS.make(name, few), Gaussian(torch.zeros(1, 4, 4, dtype=torch.float64), 1.0)
    if sampler.needs.autoencoder:
        return  # its operator acts on signals, as here
    operator = Identity() if issubclass(sampler.needs.operator, SVDOperator) else BlockMean(2)
    one = observe(operator, prior.sample(1), 0.3)
    many = GaussianLikelihood.of(operator, one.y, torch.full(one.y.shape[1:], 0.3))
    n = sampler.needs.group
    draws = [sample(sampler, Problem.of(prior, likelihood), n).draws for likelihood in (one, many)]
    torch.testing.assert_close(*draws, rtol=1e-6, atol=1e-6)  # conjugate gradients in place of an SVD


@pytest.mark.parametrize("name", ["mmps", "mgps", "dps", "pgdm"])
def test_an_answer_does_not_depend_on_the_noise_of_other_observations(name: str) -> None:
    prior, operator = Gaussian(torch.zeros(6, dtype=torch.float64), 1.0), Matrix.create(levels(3, 6), (6,))
    x, sigma = prior.sample(2), torch.tensor([[0.1], [3.0]])
    both = observe(operator, x, sigma)
    sampler, alone = make_sampler(name, {"steps": 6}), Problem(prior, both.select(torch.tensor([0])))
    pair = sample(sampler, Problem(prior, both), 2)
    torch.testing.assert_close(pair.draws[:1], sample(sampler, alone, 2).draws)
    one = observe(operator, x[:1], sigma[:1])
    torch.testing.assert_close(sample(sampler, Problem(prior, one), 2).draws, pair.draws[:1])


def test_noise_is_simulated_at_its_levels() -> None:
    sigma = torch.tensor([0.1, 3.0])
    likelihood = observe(Identity(), torch.zeros(4000, 2), sigma)
    # chi-square over 8,000 values: five standard deviations
    assert abs(float(likelihood.chi_square(torch.zeros(4000, 2)).mean()) - 1) < 5 * (2 / 8000) ** 0.5
    assert float(likelihood.sigma_y) == pytest.approx(0.3**0.5)


def test_measurements_of_one_signal_have_their_own_noise() -> None:
    operators, x = [BlockMean(2), Identity(), random_mask((4, 4), 0.5, seed=0)], torch.randn(3, 1, 4, 4)
    together = stack(operators, (1, 4, 4))
    parts = [
        observe(operator, x, sigma, seed=i)
        for i, (operator, sigma) in enumerate(zip(operators, (0.1, 1.0, 5.0), strict=True))
    ]
    sigma = together.spread((0.1, 1.0, 5.0))
    likelihood = GaussianLikelihood.of(together, join([part.y for part in parts]), sigma)
    want = sum(part.log_density(x) for part in parts)
    torch.testing.assert_close(likelihood.log_density(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sigma", "said"),
    [
        (torch.tensor([0.1, 0.0]), "sigma_y must be positive"),
        (torch.tensor([0.1, -1.0]), "sigma_y must be positive"),
        (torch.tensor([0.1, torch.nan]), "sigma_y must be positive"),
        (torch.ones(3), "noise levels of shape (3,) do not fit measurements of shape (1, 2)"),
        (torch.ones(2, 2), "noise levels of shape (2, 2) do not fit measurements of shape (1, 2)"),
    ],
)
def test_impossible_levels_are_refused(sigma: Tensor, said: str) -> None:
    with pytest.raises((ConfigError, ShapeError), match=re.escape(said)):
        GaussianLikelihood.of(Identity(), torch.zeros(1, 2), sigma)


def test_levels_of_what_is_not_measured_do_not_matter() -> None:
    mask = Mask(torch.tensor([True, False]))
    likelihood = GaussianLikelihood.of(mask, torch.tensor([[1.0, torch.nan]]), np.array([0.5, 0.0]))
    assert likelihood.chi_square(torch.zeros(1, 2)).tolist() == [4.0]
    assert isinstance(likelihood, GaussianLikelihood)
