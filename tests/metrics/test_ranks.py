"""Test quantities and ranks of the truth: uniform for exact draws, refused where they say nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from midguide.calibration import points_for, uniformity
from midguide.errors import ConfigError, NumericalError, ShapeError, UnsupportedProblem
from midguide.exact.problems import random_gaussian
from midguide.metrics.base import METRICS, Answer, Target
from midguide.metrics.ranks import QUANTITIES, inapplicable, metric_name, quantity
from midguide.operators import Matrix
from midguide.priors import GaussianMixture
from midguide.problem import Problem

N, L = 150, 31


def problems(count: int = N) -> list[Problem]:
    prior = random_gaussian(5, 0, dtype=torch.float64)
    matrix = Matrix.create(torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5))), (5,))
    return [Problem.simulate(prior, matrix, prior.sample(1, seed=10**6 + i), sigma_y=0.3, seed=i) for i in range(count)]


@pytest.fixture(scope="module")
def asked() -> list[Problem]:
    return problems()


@pytest.fixture(scope="module")
def exact(asked: list[Problem]) -> list[torch.Tensor]:
    return [p.denoiser.posterior(p.likelihood).sample(L, seed=i) for i, p in enumerate(asked)]


def ranks(name: str, asked: list[Problem], draws: list[torch.Tensor]) -> np.ndarray:
    compute = METRICS.make(metric_name(name)).compute
    return np.array([compute(Answer(x), Target(p)) for p, x in zip(asked, draws, strict=True)])


@pytest.mark.parametrize("name", sorted(QUANTITIES))
def test_ranks_of_exact_draws_are_uniform_and_those_of_halved_ones_are_not_by_the_spread(name, asked, exact) -> None:
    """p above 1e-3 for exact draws: sixteen quantities, a false alarm in 60 seeds."""
    assert uniformity(ranks(name, asked, exact), points_for(L)) > 1e-3
    mean = [p.denoiser.posterior(p.likelihood).mean for p in asked]
    narrow = [m + 0.5 * (x - m) for m, x in zip(mean, exact, strict=True)]
    seen = uniformity(ranks(name, asked, narrow), points_for(L))
    assert seen < (1e-20 if name in {"log-likelihood", "log-posterior", "depth", "misfit"} else 0.5)


def test_the_log_likelihood_sees_draws_that_fit_too_well_where_single_values_hardly_do(asked, exact) -> None:
    """Draws whose residual is halved along the measured directions: values have p above 1e-3, the likelihood 1e-9."""
    fitted = []
    for p, x in zip(asked, exact, strict=True):
        a = p.likelihood.operator
        fitted.append(x + 0.5 * a.pinv(p.expand(L).likelihood.y - a(x)))
    assert uniformity(ranks("log-likelihood", asked, fitted), points_for(L)) < 1e-9
    assert uniformity(ranks("value-1", asked, fitted), points_for(L)) > 1e-3


def test_weighted_draws_of_the_prior_have_uniform_ranks(asked) -> None:
    """Importance weights by the likelihood, 600 draws of an effective size about 60: p above 1e-3 (a seed in 250)."""
    compute = {name: METRICS.make(metric_name(name)).compute for name in ("log-likelihood", "value-1", "distance")}
    found: dict[str, list[float]] = {name: [] for name in compute}
    plain = []
    for i, p in enumerate(asked):
        x = p.denoiser.sample(600, seed=i)
        answer = Answer(x, None, p.expand(600).likelihood.log_prob(x))
        for name, rank in compute.items():
            found[name].append(rank(answer, Target(p)))
        plain.append(compute["log-likelihood"](Answer(x), Target(p)))
    assert all(uniformity(u, 15) > 1e-3 for u in found.values())
    assert uniformity(plain, 15) < 1e-20  # without the weights they are the prior


def test_a_quantity_that_compares_draws_refuses_weights(asked, exact) -> None:
    with pytest.raises(UnsupportedProblem, match="draws that count alike"):
        METRICS.make("rank[of=depth]").compute(Answer(exact[0], None, torch.zeros(L)), Target(asked[0]))


def test_depth_does_not_depend_on_the_order_of_rows_also_where_values_are_equal() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 3.0], [2.0, 1.0]])
    depth = QUANTITIES.make("depth").compute.__wrapped__
    there, back = depth(None, x), depth(None, x.flip(0)).flip(0)
    assert torch.equal(there, back)
    assert there[0] == there[1]


def test_a_quantity_of_a_file_is_a_metric_with_its_source(tmp_path, asked, exact) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from midguide.calibration import quantity\n"
        "@quantity\ndef brightness(problem, x):\n    return x.flatten(1).mean(1)\n"
        "plain = lambda problem, x: x\n"
    )
    spec = f"{file}:brightness"
    assert metric_name(spec) == spec
    assert len(METRICS.make(spec).source) == 64
    assert 0 < METRICS.make(spec).compute(Answer(exact[0]), Target(asked[0])) < 1
    with pytest.raises(ConfigError, match="it is not a test quantity"):
        metric_name(f"{file}:plain")
    with pytest.raises(ConfigError, match="unknown test quantity `typo`"):
        metric_name("typo")


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda p, x: x[:, 0] * torch.nan, NumericalError, "the test quantity is NaN"),
        (lambda p, x: x[:, 0] * 0, UnsupportedProblem, "the test quantity is constant"),
        (lambda p, x: x, ShapeError, "one number for each of 32 rows"),
        (lambda p, x: 1.0, ShapeError, "one number for each of 32 rows, got 1.0"),
    ],
)
def test_quantities_without_a_rank_are_refused(function, error, words, asked, exact) -> None:
    with pytest.raises(error, match=words):
        quantity(function).compute(Answer(exact[0]), Target(asked[0]))


def test_a_prior_without_a_density_has_no_ranks_by_it(asked) -> None:
    class Network(type(asked[0].denoiser).__mro__[1]):  # a denoiser that does not know its density
        def __init__(self) -> None:
            self.schedule, self.event_shape = asked[0].denoiser.schedule, (5,)

        def __call__(self, x, t):
            return asked[0].denoiser(x, t)

    problem = dataclasses.replace(asked[0], denoiser=Network())
    assert inapplicable("log-prior", problem) == "the density of the prior is not known"
    assert inapplicable("log-likelihood", problem) == inapplicable("distance", problem) == ""


def test_a_degenerate_prior_says_that_it_has_no_density() -> None:
    flat = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    problem = Problem.simulate(flat, Matrix.create(torch.eye(2), (2,)), torch.zeros(1, 2), sigma_y=1.0)
    assert "has no density" in inapplicable("log-posterior", problem)
