"""`midguide check`: what a stranger's piece is, what holds, what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLER = """
from dataclasses import dataclass
from midguide.samplers.dps import DPS
from midguide.samplers.base import Step

@dataclass(frozen=True, kw_only=True)
class Mine(DPS):
    "DPS by another name."

@dataclass(frozen=True, kw_only=True)
class Coupled(DPS):
    "Steps towards the mean of the batch."

    def step(self, problem, state, t, s, rng):
        moved = DPS.step(self, problem, state, t, s, rng)
        x = moved.state.x_t
        return Step(type(moved.state)(x - 0.1 * x.mean(0)), moved.info)

@dataclass(frozen=True, kw_only=True)
class Failing(DPS):
    "Fails."

    def step(self, problem, state, t, s, rng):
        raise KeyError("oh")

class Half:
    needs = None
"""

OTHERS = """
from midguide.metrics.base import Metric
from midguide.studies.kinds.closed_form import GaussianProblem

first = Metric(compute=lambda answer, target: float(answer.draws[0].mean()), exact=False)
nothing = Metric(compute=lambda answer, target: float("nan"), exact=False)

@dataclass(frozen=True, kw_only=True)
class Small(GaussianProblem):
    "Three numbers, two of them measured."
    dimension: int = 3
    measurements: int = 2
    sigma_y: float = 0.1

@dataclass(frozen=True, kw_only=True)
class Same(Small):
    def build(self, seed):
        return Small.build(self, 0)
"""

OPERATOR = """
from dataclasses import dataclass
from torch import Tensor
from midguide.operators.base import LinearOperator

@dataclass(frozen=True, eq=False)
class Twice(LinearOperator):
    factor: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.factor * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * y

@dataclass(frozen=True, eq=False)
class Wrong(Twice):
    def adjoint(self, y: Tensor) -> Tensor:
        return 3.0 * y

def twice(event_shape: tuple[int, ...], *, seed: int = 0, factor: float = 2.0) -> Twice:
    "Everything twice."
    return Twice(factor)

def wrong(event_shape: tuple[int, ...], *, seed: int = 0) -> Wrong:
    return Wrong(2.0)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(SAMPLER + OPERATOR + OTHERS)
    return path


@pytest.mark.parametrize(
    ("name", "kind"), [("Mine", "sampler"), ("twice", "operator"), ("first", "metric"), ("Small", "kind of problems")]
)
def test_a_good_piece_is_named_with_what_holds(cli, file, name, kind):
    done = cli("check", f"{file}:{name}", "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["kind"] == kind
    assert done.json["held"]
    assert done.json["broken"] == []
    assert "settings" in cli("check", f"{file}:{name}").out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Coupled", ("depend on", "vectors")),
        ("Failing", ("KeyError", "oh")),
        ("wrong", ("A^T", "(3, 16, 16)")),
        ("nothing", ("gives nan",)),
        ("Same", ("the same problem for every seed",)),
    ],
)
def test_a_broken_fact_is_named_and_the_exit_code_is_1(cli, file, name, words):
    done = cli("check", f"{file}:{name}")
    assert done.code == 1
    assert "BROKEN" in done.out
    for word in words:
        assert word in done.out
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["Half"], ("of no kind", "no sampler: it lacks steps", "no operator")),
        (["Half", "--kind", "sampler"], ("it lacks steps, times",)),
        (["Mine", "--kind", "smapler"], ("unknown kind `smapler`", "did you mean `sampler`")),
        (["Mine", "--set", "guidence=1"], ("no setting `guidence`", "did you mean `guidance`")),
        (["Nothing"], ("has no `Nothing`",)),
    ],
)
def test_what_is_no_piece_is_one_line(cli, file, argv, words):
    cli("check", f"{file}:{argv[0]}", *argv[1:]).assert_mistake(*words)


def test_a_registered_name_is_checked_too(cli):
    done = cli("check", "edm", "--json")
    assert (done.code, done.json["kind"], done.json["broken"]) == (0, "schedule", [])
    cli("check", "nothing").assert_mistake("nothing is called `nothing`")


def test_auto_is_a_rule_that_cannot_be_checked(cli):
    cli("check", "auto").assert_mistake("`auto` is a rule and no sampler", "midguide list auto")
