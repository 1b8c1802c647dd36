"""Operators made for [-1, 1] give signals of another range the same measurement, in the units of those signals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from midguide.diffusion.schedules import EDM
from midguide.errors import ConfigError, ShapeError
from midguide.inference.loop import sample
from midguide.likelihoods import GaussianLikelihood, PoissonLikelihood, observe_counts
from midguide.operators import (
    JPEG,
    HighDynamicRange,
    Operator,
    PhaseRetrieval,
    PseudoInvertibleOperator,
    Rescaled,
    compose,
    half_mask,
    make_operator,
    rescaled,
)
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.dps import DPS
from midguide.testing import check_operator

SHAPE = (3, 16, 16)
MADE_FOR_A_RANGE = ["high-dynamic-range", "jpeg", "nonlinear-blur", "phase-retrieval"]


def images(count: int = 2) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def prior_of(value_range: tuple[float, float] | None) -> Gaussian:
    prior = Gaussian(torch.zeros(SHAPE), 1.0)
    prior.value_range = value_range
    return prior


@pytest.mark.parametrize(
    "operator",
    [
        HighDynamicRange(),
        JPEG(rounding="exact"),
        PhaseRetrieval((2, 2)),
        make_operator("nonlinear-blur", SHAPE),
        compose(half_mask(16, 16), JPEG(rounding="exact")),
    ],
)
def test_the_contract_of_operators_holds(operator: Operator) -> None:
    check_operator(rescaled(operator, (0.0, 1.0)), SHAPE)


@pytest.mark.parametrize("name", MADE_FOR_A_RANGE)
def test_the_likelihood_is_that_of_the_same_signal_in_the_other_range(name: str) -> None:
    unit, plain = (make_operator(name, SHAPE, value_range=limits).to(torch.float64) for limits in ((0.0, 1.0), None))
    x, other = images().chunk(2)
    modulus = isinstance(plain, PhaseRetrieval)
    y = plain(2 * x - 1)
    torch.testing.assert_close(unit(x), y if modulus else (y + 1) / 2)
    torch.testing.assert_close(
        GaussianLikelihood(unit, unit(x), 0.05 if modulus else 0.025).log_prob(other),
        GaussianLikelihood(plain, y, 0.05).log_prob(2 * other - 1),
    )


def test_the_pseudo_inverse_stays() -> None:
    operator = rescaled(HighDynamicRange(2.0), (0.0, 1.0))
    assert isinstance(operator, PseudoInvertibleOperator)
    torch.testing.assert_close(operator.pinv(torch.tensor([[0.0, 0.5, 1.0]])), torch.tensor([[0.25, 0.5, 0.75]]))
    assert not isinstance(rescaled(PhaseRetrieval((2, 2)), (0.0, 1.0)), PseudoInvertibleOperator)


@pytest.mark.parametrize("limits", [None, (-1.0, 1.0)])
def test_an_operator_that_fits_is_left_as_it_is(limits: tuple[float, float] | None) -> None:
    operator = JPEG()
    assert rescaled(operator, limits) is operator
    mask = half_mask(16, 16)
    assert rescaled(mask, (0.0, 1.0)) is mask
    with pytest.raises(ConfigError, match="Mask takes values of any range"):
        Rescaled(mask, 0.0, 1.0)


@pytest.mark.parametrize("operator", [JPEG(), compose(JPEG(), half_mask(16, 16)), compose(half_mask(16, 16), JPEG())])
def test_a_prior_of_another_range_is_refused(operator: Operator) -> None:
    x = images().float()
    with pytest.raises(ConfigError, match=r"is made for values from -1 to 1, the prior's go from 0 to 1"):
        Problem.simulate(prior_of((0.0, 1.0)), operator, x, sigma_y=0.1)
    for limits in (None, (-1.0, 1.0)):
        Problem.simulate(prior_of(limits), operator, x, sigma_y=0.1)
    Problem.simulate(prior_of((0.0, 1.0)), rescaled(operator, (0.0, 1.0)), x, sigma_y=0.1)


@pytest.mark.parametrize("limits", [(-0.5, 0.5), (0.0, 1.0)])
def test_draws_are_those_of_the_same_prior_in_the_other_range(limits: tuple[float, float]) -> None:
    """x' = x / 2 + c diffuses as x does with half the noise: its schedule, sigma_y and the length of a step are halved.

    (Adam, which MGPS fits by, takes steps of one size for mean and log standard deviation, and has no such twin.)
    """
    middle = sum(limits) / 2

    def draws(value_range: tuple[float, float], scale: float, centre: float) -> Tensor:
        schedule = EDM(sigma_min=0.002 * scale, sigma_max=1e4 * scale)
        prior = Gaussian(0.3 * scale * torch.ones(SHAPE) + centre, (0.5 * scale) ** 2, schedule=schedule)
        prior.value_range = value_range
        operator = make_operator("high-dynamic-range", SHAPE, value_range=value_range)
        truth = 2 * scale * (images(1) - 0.5) + centre
        problem = Problem.simulate(prior, operator, truth, sigma_y=0.05 * scale)
        return sample(DPS(steps=40, guidance=0.5 * scale), problem, 2).draws

    # A chain begins around zero instead of c, which is 1e-4 of its noise; most of that is forgotten on the way.
    want = draws((-1.0, 1.0), 1.0, 0.0) / 2 + middle
    torch.testing.assert_close(draws(limits, 0.5, middle), want, rtol=0, atol=1e-6)


def test_counts_are_those_of_the_same_light() -> None:
    x, identity = images(), make_operator("identity", SHAPE)
    unit = observe_counts(identity, x, 20.0, value_range=(0.0, 1.0))
    plain = observe_counts(identity, 2 * x - 1, 20.0)
    assert torch.equal(unit.y, plain.y)
    torch.testing.assert_close(unit.log_prob(x), plain.log_prob(2 * x - 1))
    with pytest.raises(ConfigError, match=r"Poisson likelihood is made for values from -1 to 1.*\n.*value_range="):
        Problem(prior_of((0.0, 1.0)), PoissonLikelihood(identity, plain.y.float(), 20.0))


def test_codes_of_each_image_are_stacked() -> None:
    blurs = [make_operator("nonlinear-blur", SHAPE, seed=seed, value_range=(0.0, 1.0)) for seed in (0, 1)]
    x = images().float()
    prior = prior_of((0.0, 1.0))
    alone = [Problem.simulate(prior, blur, x[[i]], sigma_y=0.1) for i, blur in enumerate(blurs)]
    both = Problem.stack(alone)
    torch.testing.assert_close(both.likelihood.operator(x), torch.cat([b(x[[i]]) for i, b in enumerate(blurs)]))


def test_codes_of_different_ranges_are_not_stacked() -> None:
    blurs = [make_operator("nonlinear-blur", SHAPE, value_range=limits) for limits in ((0.0, 1.0), (-2.0, 2.0), None)]
    prior, x = prior_of(None), images(1).float()
    unit, *others = [Problem.simulate(prior, blur, x, sigma_y=0.1) for blur in blurs]
    for other in others:
        with pytest.raises(ShapeError, match="cannot be stacked"):
            Problem.stack([unit, other])
