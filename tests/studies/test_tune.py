"""Tuning: candidates within a budget, the better one found and confirmed on fresh problems, a preset that is taken."""

from __future__ import annotations

import tomllib
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from midguide.errors import ConfigError
from midguide.samplers.base import SAMPLERS, make_sampler, tunable_of
from midguide.studies.calibrate.run import run
from midguide.studies.calibrate.tune import CRITERION, KEPT, Search, Tuned, as_preset, best_of, tune

OWN = """
from midguide.exact.problems import random_gaussian
from midguide.priors import Gaussian

def scaled():
    g = random_gaussian(4, 0)
    return Gaussian(10 * g.mean.float(), 100 * g.covariance_matrix())
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(OWN)
    return file


def search(own, *specs: str, **changes) -> Search:
    problem = {"prior": f"{own}:scaled", "operator": "identity", "sigma_y": 3.0}
    settings = {"calls": 60, "budget": 250_000, "draws": 7, "n": 20, "first": 4, **changes}
    return Search(problem=problem, specs=specs, **settings)


@pytest.fixture(scope="module")
def tuned(own, tmp_path_factory) -> Tuned:
    folder = tmp_path_factory.mktemp("tuned")
    return tune(search(own, "mmps", "dps"), lambda plan: run(plan, folder))


def test_a_prior_scaled_by_ten_gets_settings_whose_ranks_are_right(tuned) -> None:
    """mmps tends to the posterior of a Gaussian; DPS has no such setting. False alarm below 5 %."""
    assert tuned.winner.name == "mmps"
    assert not tuned.found.rejected
    assert 0.8 < tuned.found.scores["chi_square"].mean < 1.2


def test_each_round_keeps_the_best_third_on_three_times_the_problems(tuned) -> None:
    sizes = [len(rung.criterion) for rung in tuned.rungs]
    assert sizes[0] > sizes[1] >= sizes[-1]
    assert [rung.problems for rung in tuned.rungs][:-1] == [4 * KEPT**i for i in range(len(sizes) - 1)]
    assert tuned.rungs[-1].problems == max(4 * KEPT ** (len(sizes) - 1), 20)  # enough for ranks
    for before, after in zip(tuned.rungs, tuned.rungs[1:], strict=False):
        assert set(after.criterion) == set(list(before.criterion)[: len(after.criterion)])


def test_of_equally_good_finalists_the_better_calibrated_wins() -> None:
    """Scores of one unit of spread and a gap of a tenth over 20 problems: within two standard errors."""

    def each(label: str, gap: float, p: float) -> SimpleNamespace:
        values = np.random.default_rng(len(label)).normal(10 + gap, 1, 20)
        judged = (SimpleNamespace(p=p),)
        return SimpleNamespace(label=label, judged=judged, values=dict.fromkeys(CRITERION, values))

    near = SimpleNamespace(samplers=(each("a", 0.0, 1e-20), each("bb", 0.1, 0.4)))
    assert best_of(near) == "bb"
    far = SimpleNamespace(samplers=(each("a", 0.0, 1e-20), each("bb", 5.0, 0.4)))
    assert best_of(far) == "a"


def test_all_candidates_cost_the_same_up_to_the_budget_and_so_does_the_search(own, tuned) -> None:
    assert all(30 <= candidate.calls <= 60 for candidate in tuned.candidates)
    assert tuned.spent <= search(own, "mmps", "dps").cost(list(tuned.candidates)) <= 250_000


def test_the_problems_of_the_confirmation_are_fresh(own) -> None:
    asked = search(own, "mmps")
    seeds = [asked.plan([], 20, confirm=c).plain()["problems"][0]["seeds"]["first"] for c in (False, True)]
    assert seeds == [0, 100_000]


def test_a_search_that_is_repeated_draws_nothing_again(own, tmp_path) -> None:
    asked, drawn = search(own, "pgdm", n=20, budget=100_000), []

    def answer(plan):
        @contextmanager
        def watch(total):
            drawn.append(total)
            yield lambda unit, failures, seconds: None

        return run(plan, tmp_path / "out", watch=watch)

    first = tune(asked, answer)
    once, again = len(drawn), tune(asked, answer)
    assert len(drawn) == once
    assert (again.winner, again.rungs) == (first.winner, first.rungs)


@pytest.mark.parametrize("name", [name for name, entry in SAMPLERS.items() if tunable_of(entry.thing)])
def test_every_value_that_a_sampler_declares_as_tunable_makes_it(name: str) -> None:
    for key, values in tunable_of(SAMPLERS[name].thing).items():
        assert len(values) > 1
        for value in values:
            assert make_sampler(name, {key: value, "steps": 20}).steps == 20


@pytest.mark.parametrize("name", [name for name, entry in SAMPLERS.items() if not entry.required()])
def test_a_preset_that_is_written_makes_the_sampler_again(name: str, tmp_path) -> None:
    sampler = make_sampler(name)
    (tmp_path / "own.toml").write_text(as_preset(sampler, 'a "test" — ü'))
    assert make_sampler(f"{name}:{tmp_path / 'own.toml'}") == sampler
    assert tomllib.loads((tmp_path / "own.toml").read_text())["source"] == 'a "test" — ü'


@pytest.mark.parametrize(
    ("specs", "changes", "words"),
    [
        (("unconditional",), {}, "`unconditional` declares nothing to tune"),
        (("exact",), {}, "`exact` declares nothing to tune"),
        (("dps",), {"budget": 100}, "a budget of 100 network calls is too small"),
        (("dps",), {"n": 5}, "5 problems are too few for a claim"),
        (("dps",), {"draws": 2}, "2 draws of each problem are too few"),
        (("pgdm",), {"calls": 1}, "no settings of pgdm fit 1 network calls"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(own, specs, changes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        search(own, *specs, **changes).candidates()


def test_settings_that_are_given_stay(own) -> None:
    asked = search(own, "mmps", settings={"eta": 0.5})
    assert set(asked.grid("mmps")) == {"iterations"}
    assert {candidate.sampler.eta for candidate in asked.candidates()} == {0.5}
