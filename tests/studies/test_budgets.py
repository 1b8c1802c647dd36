"""Studies with budgets of network calls."""

from __future__ import annotations

import pytest

from midguide.catalogue.settings import build
from midguide.errors import ConfigError
from midguide.samplers.base import make_sampler
from midguide.samplers.budget import total_calls
from midguide.storage.record import describe
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.kinds.closed_form import MixtureProblem
from midguide.studies.report.layout import as_markdown
from midguide.studies.report.rows import make_report
from midguide.studies.runners.local import local_runner
from midguide.studies.sources.sampled import Sampled
from midguide.studies.spec.study import load_study

STUDY = """
[study]
name = "budgets"
samples = 4
metrics = ["mean_error"]
budgets = [4, 12]

[[problems]]
kind = "mixture"
dimension = 4
measurements = 2
seeds = [0]

[[samplers]]
spec = "exact"

[[samplers]]
spec = "dps"

[[samplers]]
spec = "tds"

[[samplers]]
spec = "ddrm"
settings = { steps = 7 }

[[samplers]]
spec = "mmps"
budgets = [6]
sweep = { eta = [0.0, 1.0] }
"""


def study(tmp_path, text: str = STUDY):
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    return load_study(path)


def test_each_sampler_is_one_at_each_budget(tmp_path):
    read = study(tmp_path)
    units = {unit.sampler_label: unit for unit in read.units}
    steps = {label: unit.source.sampler.steps for label, unit in units.items() if isinstance(unit.source, Sampled)}
    assert steps == {
        "dps, budget 4": 2,
        "dps, budget 12": 6,
        "tds, budget 4": 2,
        "tds, budget 12": 10,
        "ddrm": 7,
        "mmps, budget 6, eta 0": 6,
        "mmps, budget 6, eta 1": 6,
    }
    assert dict(units["mmps, budget 6, eta 1"].swept) == {"budget": 6, "eta": 1.0}
    for unit in read.units:
        if isinstance(unit.source, Sampled) and "budget" in dict(unit.swept):
            probe = unit.problem.probe(0)
            assert total_calls(unit.source.sampler, probe) <= dict(unit.swept)["budget"]


def test_a_sampler_that_cannot_go_that_low_is_left_out_with_what_it_takes(tmp_path):
    read = study(tmp_path, STUDY.replace("[4, 12]", "[3, 12]"))
    (cell,) = read.left_out
    assert (cell.sampler, cell.reason) == ("tds, budget 3", "`tds` takes at least 4 network calls, the budget is 3")
    store = Store.create(tmp_path / "out", read.plain, [])
    run_units(read, store, read.units, runner=local_runner())
    report = make_report(read, store)
    assert "`tds` takes at least 4 network calls" in as_markdown(report)
    assert {(p.curve, p.setting) for row in report.rows if (p := report.place(row.sampler))} == {
        ("dps", "budget"),
        ("tds", "budget"),
        ("mmps, eta 0", "budget"),
        ("mmps, eta 1", "budget"),
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[4, 12]", "[0]", "budgets must be positive"),
        ("[4, 12]", "[4, 4]", "budgets must be positive and differ"),
        ('"exact"', '"exact"\nbudgets = [4]', "`exact` is not a sampler, so that it has no budgets"),
        ("steps = 7 }", "steps = 7 }\nbudgets = [4]", "budgets set the steps"),
    ],
)
def test_impossible_budgets_are_refused_when_the_study_is_read(tmp_path, old, new, words):
    with pytest.raises(ConfigError, match=words):
        study(tmp_path, STUDY.replace(old, new))


def test_a_mixture_of_which_one_number_is_measured_has_the_address_that_it_had():
    record = describe(build(MixtureProblem, {"dimension": 4}, "mixture"))
    assert record == {"type": "MixtureProblem", "dimension": 4, "sigma_y": 0.05}
    assert describe(MixtureProblem(dimension=4, measurements=2))["measurements"] == 2
    assert MixtureProblem(dimension=4, measurements=2).build(0).likelihood.y.shape == (1, 2)


def test_auto_chooses_by_the_problem_and_its_budget(tmp_path):
    text = STUDY[: STUDY.index("[[samplers]]")] + '[[samplers]]\nspec = "auto"\n'
    units = study(tmp_path, text).units
    assert [unit.sampler_label for unit in units] == ["auto, budget 4", "auto, budget 12"]
    assert [unit.source.sampler for unit in units] == [make_sampler("matheron:weighted", {"steps": n}) for n in (4, 12)]
