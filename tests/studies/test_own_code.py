"""A study whose sampler, operator, metric, kind of problems and schedule are those of a Python file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from midguide.errors import ConfigError
from midguide.studies.engine.store import Store
from midguide.studies.runners.base import RUNNERS, Job
from midguide.studies.spec.study import load_study

OWN = '''
from dataclasses import dataclass

import torch

from midguide.diffusion.schedules import DiscreteVP
from midguide.exact.problems import random_gaussian_problem
from midguide.likelihoods import observe
from midguide.metrics.base import Metric
from midguide.operators.factory import make_operator
from midguide.operators.matrix import Identity
from midguide.problem import Problem
from midguide.samplers.base import NoisyState, Step, finish_denoised, one_vjp_a_step, schedule_times, start_from_noise
from midguide.samplers.unconditional import Unconditional


@dataclass(frozen=True, kw_only=True)
class MySampler:
    """DDIM without an observation."""

    steps: int = 4
    needs = Unconditional.needs
    times, calls, init, finish = schedule_times, one_vjp_a_step, start_from_noise, finish_denoised

    def step(self, problem, state, t, s, rng):
        clean = problem.denoiser(state.x_t, t)
        now, then = problem.schedule.level(t), problem.schedule.level(s)
        noise = (state.x_t - now.alpha * clean) / now.sigma
        return Step(NoisyState(then.alpha * clean + then.sigma * noise), {})


def my_operator(event_shape: tuple[int, ...], *, seed: int = 0, wide: bool = True) -> Identity:
    """Everything is measured."""
    return Identity()


my_metric = Metric(compute=lambda answer, target: SCALE * float(answer.draws.mean()), exact=False)
SCALE = 1.0


def my_schedule(*, steps: int = 50) -> DiscreteVP:
    """Few levels."""
    return DiscreteVP.linear(steps, 1e-3, 0.2)


@dataclass(frozen=True, kw_only=True)
class MyKind:
    """A Gaussian that is seen through any operator."""

    operator: str
    stacks = False
    simulated = False
    prior = "mine"

    def prior_digest(self):
        return ""

    def data_digest(self, seed):
        return ""

    def build(self, seed):
        exact = random_gaussian_problem(3, 2, seed, 0.3, dtype=torch.float64)
        truth = exact.truth
        return Problem(exact.denoiser, observe(make_operator(self.operator, (3,)), truth, 0.3, seed=seed), truth)

    probe = build


@dataclass(frozen=True)
class MySource:
    """Zeros."""

    def check(self, problem):
        pass

    def draw(self, problem, n, seeds):
        raise NotImplementedError
'''

STUDY = """
[study]
name = "own"
samples = 8
metrics = ["truth_rmse", "own.py:my_metric"]

[[problems]]
kind = "own.py:MyKind"
operator = "own.py:my_operator"
seeds = [0, 1]

[[problems]]
kind = "gaussian"
dimension = 3
measurements = 2
sigma_y = 0.3
schedule = "own.py:my_schedule"
seeds = [0, 1]

[[samplers]]
spec = "own.py:MySampler"
settings = { steps = 5 }

[[samplers]]
spec = "exact"
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """The folder of a study and of the file that it takes its pieces from, which is that of the call, too."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(folder):
    study, store = load_study("study.toml"), Store.open(folder)
    return {(unit.address, row["metric"]): row["value"] for unit in study.units for row in store.read(unit) or []}


def test_study_of_own_pieces_runs_in_processes_resumes_and_reports_elsewhere(own, cli, monkeypatch):
    assert cli("study", "run", "study.toml", "--limit", 3, "--workers", 2, "--out", "two").code == 0
    went_on = cli("study", "run", "study.toml", "--workers", 2, "--out", "two")
    assert went_on.code == 0
    assert went_on.err.count(f"runs the code of {own / 'own.py'}") == 1
    assert "5 units to run, 3 done, 0 failed before" in went_on.err
    assert cli("study", "run", "study.toml", "--out", "one").code == 0
    assert values("one") == values("two")
    (own / "elsewhere").mkdir()
    monkeypatch.chdir(own / "elsewhere")
    told = cli("study", "report", own / "two", "--json")
    assert f"runs the code of {own / 'own.py'}" in told.err
    assert {row["sampler"] for row in told.json} == {"own.py:MySampler", "exact"}
    assert {row["problem"] for row in told.json} == {"own.py:MyKind", "gaussian"}
    assert {row["metric"] for row in told.json} == {"truth_rmse", "own.py:my_metric"}
    assert all(row["failures"] == 0 for row in told.json)
    assert cli("study", "status", own / "two", "--json").json["done"] == 8


def test_rows_name_the_source_of_their_metric(own, cli):
    cli("study", "run", "study.toml", "--out", "out")
    unit = load_study("study.toml").units[0]
    recorded = {row["metric"]: json.loads(row["configuration"]) for row in Store.open("out").read(unit) or []}
    assert len(recorded["own.py:my_metric"]["metric_source"]) == 64
    assert "metric_source" not in recorded["truth_rmse"]


def test_results_of_another_source_are_not_those_of_the_study(own, cli):
    cli("study", "run", "study.toml", "--out", "out")
    (own / "own.py").write_text(OWN.replace("SCALE = 1.0", "SCALE = 2.0"))
    assert cli("study", "status", "out", "--json").json["missing"] == 8
    ran = cli("study", "run", "study.toml", "--out", "out")
    assert "8 results" in ran.err
    assert "8 units to run" in ran.err


def test_file_that_moves_keeps_its_results(own, cli, monkeypatch):
    cli("study", "run", "study.toml", "--out", "out")
    shutil.copytree(own, own / "copy")
    monkeypatch.chdir(own / "copy")
    ran = cli("study", "run", "study.toml", "--out", own / "out")
    assert "0 units to run, 8 done" in ran.err


@pytest.mark.parametrize("workers", [1, 2])
def test_file_that_changes_while_the_study_runs_ends_it_with_one_line(own, workers):
    study = load_study("study.toml")
    runner = RUNNERS.make("local", {"workers": workers})
    for unit in study.units:
        runner.submit(Job(units=[unit], code=study.code))
    (own / "own.py").write_text(OWN + "# changed\n")
    with pytest.raises(ConfigError, match=r"own.py has changed while the study ran"):
        list(runner.collect())
    runner.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("own.py:MyKind", "own.py:MyKnd"), ("has no `MyKnd`", "did you mean `MyKind`?")),
        (("own.py:MyKind", "own.py:MySampler"), ("kind of problems", "it lacks stacks")),
        (("own.py:MySampler", "own.py:MyKind"), ("sampler", "it lacks needs")),
        (("own.py:my_metric", "own.py:my_operator"), ("metric", "it is not a Metric")),
        (("own.py:my_operator", "own.py:my_metric"), ("it makes no operator",)),
        (("own.py:my_schedule", "absent.py:my_schedule"), ("there is no file", "absent.py")),
        (("steps = 5", "stepps = 5"), ("MySampler has no setting `stepps`",)),
    ],
)
def test_piece_that_is_none_of_its_kind_is_one_line(own, cli, change, words):
    (own / "study.toml").write_text(STUDY.replace(*change))
    said = cli("study", "run", "study.toml")
    assert said.code == 2
    assert not said.out
    lines = [line for line in said.err.splitlines() if not line.startswith("runs the code of")]
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    for word in words:
        assert word in said.err


def test_file_that_fails_or_prints_is_one_line_on_standard_error(own, cli):
    (own / "own.py").write_text(f"print('hello')\n{OWN}")
    assert cli("study", "run", "study.toml", "--out", "out", "--limit", 1).out == f"{own / 'out'}\n"
    (own / "own.py").write_text("import nowhere_to_be_found\n")
    failed = cli("study", "run", "study.toml", "--out", "out")
    assert failed.code == 2
    assert "own.py fails: ModuleNotFoundError: No module named 'nowhere_to_be_found'" in failed.err


def test_own_source_of_draws_is_told_from_a_sampler(own, cli):
    (own / "study.toml").write_text(STUDY.replace('spec = "exact"', 'spec = "own.py:MySource"'))
    assert cli("study", "run", "study.toml", "--limit", 1).code == 0


RUNNER = '''
from collections import deque

from midguide.studies.runners.base import Finished


class Slow:
    """One job after another, the last first."""

    def __init__(self, marks):
        self.jobs, self.marks = deque(), marks

    def submit(self, job):
        self.jobs.appendleft(job)

    def collect(self):
        for job in self.jobs:
            yield from map(Finished, job.units, job.run())

    def close(self):
        print(self.marks, "closed")


def slow(*, marks: int = 1) -> Slow:
    """Backwards."""
    return Slow(marks)
'''


def test_own_engine_runs_a_study(own, cli):
    (own / "engine.py").write_text(RUNNER)
    ran = cli("study", "run", "study.toml", "--out", "mine", "--runner", "engine.py:slow", "--runner-set", "marks=3")
    assert ran.code == 0
    assert "3 closed" in ran.out
    cli("study", "run", "study.toml", "--out", "usual")
    assert values("mine") == values("usual")
    refused = cli("study", "run", "study.toml", "--out", "mine", "--runner", "engine.py:slow", "--workers", 2)
    assert "has no setting `workers`" in refused.err
    assert "did you mean `local`" in cli("study", "run", "study.toml", "--runner", "locl").err


NOISE = '''
from dataclasses import dataclass
from typing import ClassVar

from midguide.likelihoods.gaussian import GaussianLikelihood, observe


@dataclass(frozen=True, kw_only=True)
class MyNoise:
    """Gaussian noise whose level is a share of the value range."""

    likelihood: ClassVar = GaussianLikelihood
    in_range: ClassVar = True
    share: float = 0.1

    def given(self, operator, y, value_range):
        return GaussianLikelihood(operator, y, self.share * (value_range[1] - value_range[0]))

    def observe(self, operator, x, value_range, *, seed):
        return observe(operator, x, self.share * (value_range[1] - value_range[0]), seed=seed)
'''


def test_own_noise_is_that_of_commands_and_studies(own, cli, prior, image):
    (own / "noise.py").write_text(NOISE)
    words = (
        "reconstruct",
        image,
        "--operator",
        "identity",
        "--prior",
        prior,
        "--sampler",
        "dps",
        "--steps",
        3,
        "--json",
    )
    mine = cli(*words, "--noise", "noise.py:MyNoise", "--noise-set", "share=0.2", "--out", "mine").json
    usual = cli(*words, "--sigma", 0.4, "--out", "usual").json
    assert (mine["chi2"], mine["share"], usual["sigma"]) == (usual["chi2"], 0.2, 0.4)
    refused = cli(*words, "--noise", "noise.py:MyNoise", "--rate", 3)
    assert "MyNoise has no setting `rate`" in refused.err
    table = f'[[problems]]\nkind = "images"\noperator = "identity"\nprior = "{prior}"\nseeds = [0]\n'
    noises = ('noise = "noise.py:MyNoise"\nnoise_settings = { share = 0.2 }\nlabel = "mine"\n', "sigma_y = 0.4\n")
    head = '[study]\nname = "noise"\nsamples = 2\nmetrics = ["chi_square"]\n[[samplers]]\nspec = "unconditional"\n'
    (own / "noise.toml").write_text(head + "settings = { steps = 2 }\n" + "".join(table + noise for noise in noises))
    assert cli("study", "run", "noise.toml", "--out", "noise").code == 0
    one, other = cli("study", "report", "noise", "--json").json
    assert one["mean"] == other["mean"]
