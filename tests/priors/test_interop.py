"""Priors for the samplers of deepinv and azula, and plain functions as priors; the libraries come by `make interop`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow
from midguide.errors import ConfigError
from midguide.priors import Gaussian
from midguide.priors.interop import from_function, score_fn, to_azula, to_deepinv

SHAPE = (1, 4, 4)
MEAN, VARIANCE = torch.linspace(-1, 1, 16).reshape(SHAPE), 0.3
X = torch.linspace(-2, 2, 32).reshape(2, *SHAPE)


@pytest.fixture(params=[DiscreteVP.linear(), EDM(), RectifiedFlow()], ids=["vp", "edm", "flow"])
def prior(request: pytest.FixtureRequest) -> Gaussian:
    return Gaussian(MEAN, VARIANCE, schedule=request.param)


@pytest.mark.parametrize("convention", ["epsilon", "x0", "v", "flow", "score"])
def test_a_function_of_every_convention_is_the_prior_that_it_comes_from(convention: str, prior: Gaussian) -> None:
    schedule, time = prior.schedule, prior.schedule.times(5)[2]
    level = schedule.level(time)
    if convention == "flow" and not isinstance(schedule, RectifiedFlow):
        pytest.skip("a velocity is that of straight paths")
    if convention == "v" and not isinstance(schedule, DiscreteVP):
        pytest.skip("v is of variance preserving processes")

    def function(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        assert label.shape == (2,)
        assert float(label[0]) == pytest.approx(schedule.label(time), rel=1e-5)
        x0 = prior(x, time)
        eps = (x - level.alpha * x0) / level.sigma
        forms = {
            "epsilon": eps,
            "x0": x0,
            "v": level.alpha * eps - level.sigma * x0,
            "flow": eps - x0,
            "score": -eps / level.sigma,
        }
        return forms[convention]

    made = from_function(function, convention, SHAPE, schedule)
    assert torch.allclose(made(X, time), prior(X, time), atol=1e-4)


def test_functions_of_a_prior_are_score_noise_and_denoiser(prior: Gaussian) -> None:
    time = prior.schedule.times(5)[2]
    level = prior.schedule.level(time)
    marginal = level.alpha**2 * VARIANCE + level.sigma**2
    score = (level.alpha * MEAN - X) / marginal
    assert torch.allclose(score_fn(prior)(X, time), score, atol=1e-4)
    assert torch.allclose(score_fn(prior, "epsilon")(X, time), -level.sigma * score, atol=1e-4)
    assert torch.allclose(score_fn(prior, "x0")(X, time), prior(X, time))
    assert torch.allclose(score_fn(prior, "edm")(X / level.alpha, level.ratio), prior(X, time), atol=1e-4)
    for wrong in (lambda: score_fn(prior, "noise"), lambda: from_function(lambda x, t: x, "noise", SHAPE)):
        with pytest.raises(ConfigError, match="unknown convention `noise`"):
            wrong()
    with pytest.raises(ConfigError, match="`score` needs a schedule"):
        from_function(lambda x, t: x, "score", SHAPE)


def test_a_prior_denoises_in_deepinv(prior: Gaussian) -> None:
    """`E[x_0 | x_0 + sigma z]` of a Gaussian, at levels that its schedule has."""
    if not _has("deepinv"):
        pytest.skip("`make interop` has deepinv")
    denoiser = to_deepinv(prior)
    ratios = [prior.schedule.level(t).ratio for t in prior.schedule.times(5)[1:3]]
    for sigma in (ratios[0], torch.tensor(ratios)):
        spread = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1, 1, 1).square()
        assert torch.allclose(denoiser(X, sigma), (VARIANCE * X + spread * MEAN) / (VARIANCE + spread), atol=1e-4)


def test_samplers_of_azula_draw_from_a_prior(prior: Gaussian) -> None:
    """Mean of 4,000 draws within 5 standard errors in each of 16 pixels: false alarms below 1e-5; bias of 64 steps."""
    if not _has("azula"):
        pytest.skip("`make interop` has azula")
    denoiser: Any = to_azula(prior)
    from azula.sample import DDIMSampler  # pyright: ignore[reportMissingImports]

    alpha, sigma = denoiser.schedule(torch.tensor([0.0, 1.0]))
    ends = [prior.schedule.level(t) for t in (prior.schedule.cleanest, prior.schedule.noisiest)]
    assert torch.allclose(alpha, torch.tensor([level.alpha for level in ends]))
    assert torch.allclose(sigma, torch.tensor([level.sigma for level in ends]))
    sampler = DDIMSampler(denoiser, steps=64, silent=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = sampler(sampler.init((4000, *SHAPE)))
    assert float((draws.mean(0) - MEAN).abs().max()) < 5 * (VARIANCE / 4000) ** 0.5 + 0.02
    assert float(draws.var(0).mean()) == pytest.approx(VARIANCE, rel=0.1)


def _has(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None
