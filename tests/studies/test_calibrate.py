"""Calibration as a study: the exact posterior passes, wrong samplers are rejected, and it goes on where it stopped."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError, DataError
from midguide.studies.calibrate.found import find
from midguide.studies.calibrate.page import as_html
from midguide.studies.calibrate.plan import Plan
from midguide.studies.calibrate.run import run
from midguide.studies.engine.store import Store
from midguide.studies.kinds.drawn import DrawnProblem
from midguide.studies.spec.study import parse_study

OWN = """
import torch
from midguide.calibration import quantity
from midguide.exact.problems import mixture25, random_gaussian
from midguide.priors import Gaussian
from midguide.diffusion.schedules import DiscreteVP

def mixture():
    return mixture25(4, 0)

def gaussian():
    return random_gaussian(4, 0)

class Lost(torch.nn.Module):
    def forward(self, x, t):
        return x * torch.nan

@quantity
def first(problem, x):
    return x[:, 0]

@quantity
def none(problem, x):
    return x[:, 0] * torch.nan

@quantity
def same(problem, x):
    return x[:, 0] * 0
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(OWN)
    return file


def plan(own, *specs: str, prior: str = "gaussian", **changes) -> Plan:
    problem = {"prior": f"{own}:{prior}", "operator": "identity", "sigma_y": 0.5}
    settings = {"steps": 50}
    tables = [{"spec": s, **({} if s in ("exact", "prior") else {"settings": settings})} for s in specs]
    return Plan(problem=problem, samplers=tables, **{"n": 60, "draws": 15, **changes})


def verdicts(found) -> dict[str, dict[str, str]]:
    return {s.label: {j.quantity: j.verdict for j in s.judged} for s in found.samplers}


def test_the_exact_posterior_passes_and_dps_and_pgdm_are_rejected_by_the_log_likelihood(own, tmp_path) -> None:
    found = run(plan(own, "exact", "dps", "pgdm", prior="mixture"), tmp_path / "out")
    said = verdicts(found)
    assert set(said["exact"].values()) == {"nothing found"}
    assert {label: said[label]["log-likelihood"] for label in ("dps", "pgdm")} == {
        "dps": "rejected",
        "pgdm": "rejected",
    }
    assert found.reference == "exact"
    assert all(each.behind["crps"].mean > 0 for each in found.samplers[1:])
    assert found.samplers[0].central[-1].level == 0.7  # 15 draws do not reach 0.9
    assert any("Coverage at 0.9 needs 19 draws" in note for note in found.notes())


def test_the_exact_posterior_passes_at_the_level_over_twenty_seeds(own, tmp_path) -> None:
    """Each is rejected with probability 0.05 at most: five or more of twenty once in 390 runs."""
    rejected = 0
    for seed in range(20):
        found = run(plan(own, "exact", n=20, seed=seed), tmp_path / "out")
        rejected += bool(found.samplers[0].rejected)
    assert rejected <= 4


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_the_exact_posterior_passes_at_the_level_over_twenty_seeds_of_200_problems(own, tmp_path, prior) -> None:
    """As above, on 200 problems of 31 draws; DPS, PGDM are rejected by the log-likelihood at each of three seeds."""
    rejected = 0
    for seed in range(20):
        found = run(plan(own, "exact", prior=prior, n=200, draws=31, seed=seed), tmp_path / "out")
        rejected += bool(found.samplers[0].rejected)
    assert rejected <= 4
    for seed in range(3):
        found = run(plan(own, "dps", "pgdm", prior=prior, n=200, draws=31, seed=seed), tmp_path / "out")
        assert all(said["log-likelihood"] == "rejected" for said in verdicts(found).values())


def test_draws_of_the_prior_are_rejected_by_the_likelihood_and_not_by_values(own, tmp_path) -> None:
    """The known blind spot of ranks by quantities that do not depend on y."""
    said = verdicts(run(plan(own, "prior", n=40), tmp_path / "out"))["prior"]
    assert said["log-likelihood"] == "rejected"
    assert {said[f"value-{i}"] for i in range(1, 5)} == {"nothing found"}


def test_an_interrupted_run_goes_on_and_finds_the_same(own, tmp_path) -> None:
    asked = plan(own, "exact", n=20)
    whole = run(asked, tmp_path / "whole")
    study = parse_study(asked.plain())
    store = Store.create(tmp_path / "halves", study.plain, [])
    with pytest.raises(DataError, match="holds no results of this calibration"):
        find(asked, study, store)

    class Stop(Exception):
        pass

    def stop(unit, failures, seconds):
        raise Stop

    @contextmanager
    def stopping(total):
        yield stop

    with pytest.raises(Stop):
        run(asked, tmp_path / "halves", watch=stopping)
    again = run(asked, tmp_path / "halves")
    forget = {"cost": 0}
    for one, other in zip(whole.as_dict()["samplers"], again.as_dict()["samplers"], strict=True):
        assert one | forget == other | forget


def test_truths_of_a_prior_do_not_depend_on_their_batch(own) -> None:
    kind = DrawnProblem(prior=f"{own}:mixture", operator="identity", sigma_y=0.5)
    together = kind.build_all([3, 4, 5])
    assert torch.equal(together[1].truth, kind.build(4).truth)
    assert torch.equal(together[1].likelihood.y, kind.build(4).likelihood.y)


def test_own_quantities_are_judged_and_those_without_ranks_left_out_in_words(own, tmp_path) -> None:
    quantities = tuple(f"{own}:{name}" for name in ("first", "none", "same"))
    (found,) = run(plan(own, "exact", quantities=quantities, n=20), tmp_path / "out").samplers
    assert "own.py:first" in found.ranks
    assert re.search("20 of 20 problems: NumericalError: the test quantity is NaN", found.left_out["own.py:none"])
    assert "the test quantity is constant" in found.left_out["own.py:same"]


def test_the_page_needs_no_other_file_and_escapes_what_it_is_given(own, tmp_path) -> None:
    found = run(plan(own, "exact", n=20), tmp_path / "out")
    page = as_html(found, "midguide calibrate --prior '<b>'", "A <script> of mine")
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert page.count("data:image/png;base64,") == 2
    assert "nothing found by 16 test quantities" in page
    json.dumps(found.as_dict(), allow_nan=False)


def test_one_draw_of_each_group_is_independent_and_costs_a_group(own, tmp_path) -> None:
    table = {"spec": "tds", "settings": {"particles": 4, "steps": 20}, "source": "one-of-each-group"}
    problem = {"prior": f"{own}:gaussian", "operator": "identity", "sigma_y": 0.5}
    (found,) = run(Plan(problem=problem, samplers=[table], n=20, draws=7), tmp_path / "out").samplers
    assert "depth" in found.ranks  # draws count alike
    assert found.cost["network_forwards"] == pytest.approx(4 * 22)  # 20 steps, and two to measure the prior's spread


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 5}, "5 problems are too few for a claim"),
        ({"draws": 2}, "2 draws of each problem are too few for a claim"),
        ({"level": 1.5}, "level must be in"),
    ],
)
def test_too_little_for_a_claim_is_refused_before_anything_is_drawn(own, changes, words) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(own, "exact", **changes)


def test_held_out_truths_must_be_enough_and_fit(own, tmp_path) -> None:
    np.save(tmp_path / "two.npy", np.zeros((2, 4)))
    np.save(tmp_path / "other.npy", np.zeros((30, 5)))
    np.save(tmp_path / "nan.npy", np.full((30, 4), np.nan))
    (tmp_path / "text.npy").write_text("no array")
    problem = {"prior": f"{own}:gaussian", "operator": "identity", "sigma_y": 0.5}
    for name, words in {
        "two.npy": "20 problems need as many truths, there are 2",
        "other.npy": r"holds signals of shape \(5,\), the prior has \(4,\)",
        "nan.npy": "holds NaN or infinite values",
        "text.npy": "cannot be read",
        "missing": "a prior of images|there is no",
    }.items():
        with pytest.raises((ConfigError, DataError), match=words):
            Plan(problem={**problem, "truths": str(tmp_path / name)}, samplers=[{"spec": "exact"}], n=20, draws=7)


def test_held_out_truths_are_taken_in_their_order(own, tmp_path) -> None:
    truths = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
    np.save(tmp_path / "truths.npy", truths)
    kind = DrawnProblem(prior=f"{own}:gaussian", operator="identity", sigma_y=0.5, truths=str(tmp_path / "truths.npy"))
    assert np.array_equal(kind.build(7).truth[0].numpy(), truths[7])
    assert kind.count() == 25
    with pytest.raises(DataError, match="holds 25 signals, number 25 is asked for"):
        kind.build(25)
