"""Results say by which code they were made, and other code is noticed: in units, stored draws, commands and reports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import midguide
from midguide.errors import CheckpointError
from midguide.exact.problems import mixture_problem
from midguide.inference import loop
from midguide.inference.loop import sample
from midguide.samplers.base import make_sampler
from midguide.samplers.ddrm import DDRM
from midguide.storage import code
from midguide.storage.code import Code, code_of
from midguide.studies.engine import units
from midguide.studies.engine.draws import stored_code
from midguide.studies.engine.store import Store
from midguide.studies.spec.study import load_study

OLD = Code("0.0.9", "0" * 64)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package whose sources are read in place of those that run."""
    root = tmp_path / "midguide"
    shutil.copytree(Path(midguide.__file__).parent, root, ignore=shutil.ignore_patterns("shipped", "__pycache__"))
    monkeypatch.setattr(code, "ROOT", root)
    code._digest_of.cache_clear()
    yield root
    code._digest_of.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    """Change a source file, as an editor does."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code._digest_of.cache_clear()
    code._read.cache_clear()


def test_a_changed_sampler_is_other_code_for_itself_only(package):
    before = {name: code_of(make_sampler(name)) for name in ("dps", "mgps")}
    assert before["dps"] != before["mgps"]
    edit(package / "samplers" / "dps.py", "def step", "def step_of_before(self): ...\n\n    def step")
    after = {name: code_of(make_sampler(name)) for name in ("dps", "mgps")}
    assert after["dps"] != before["dps"]
    assert after["mgps"] == before["mgps"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""', '"""New words. '),
        ("from __future__", "# a comment\nfrom __future__"),
        ("def step(self, ", "def step(\n        self, "),
    ],
    ids=["docstring", "comment", "line breaks"],
)
def test_words_and_line_breaks_are_no_code(package, old, new):
    before = code_of(make_sampler("dps"))
    edit(package / "samplers" / "dps.py", old, new)
    assert code_of(make_sampler("dps")) == before


def test_what_a_module_imports_is_part_of_its_code(package):
    before = code_of(make_sampler("dps"))
    edit(package / "maths" / "autodiff.py", "def frozen", "def thawed(): ...\n\n\ndef frozen")
    assert code_of(make_sampler("dps")) != before


def test_messages_and_the_version_are_no_code(package):
    before = code_of(make_sampler("dps"))
    edit(package / "_version.py", midguide.__version__, "9.9.9")
    edit(package / "errors.py", "class MidguideError", "NEW = 1\n\n\nclass MidguideError")
    assert code_of(make_sampler("dps")) == before


def test_code_of_a_prior_is_that_of_its_network_and_operator():
    problem = mixture_problem(4, 0)
    reached = code._reached(code._modules_of([problem]))
    assert {"midguide.priors.mixture", "midguide.operators.matrix", "midguide.maths.autodiff"} <= reached
    assert "midguide.samplers.mgps" not in reached


def test_a_progress_file_of_other_code_is_refused_with_a_hint(tmp_path, monkeypatch):
    problem, sampler, path = mixture_problem(4, 0), make_sampler("dps", {"steps": 3}), tmp_path / "progress"
    here = loop.code_of
    monkeypatch.setattr(loop, "code_of", lambda *things: OLD)
    sample(sampler, problem, checkpoint=path)
    monkeypatch.setattr(loop, "code_of", here)
    with pytest.raises(CheckpointError, match=r"was written by version 0\.0\.9") as caught:
        sample(sampler, problem, checkpoint=path)
    assert "remove the file" in caught.value.hint


def test_a_sampler_that_is_changed_in_memory_is_run_again_and_measured_anew(tiny, cli, monkeypatch):
    assert cli("study", "run", tiny, "--out", "out").code == 0
    counts = cli("study", "status", "out", "--json").json
    assert (counts["done"], counts["old"]) == (6, 0)
    with monkeypatch.context() as patch:
        finish = DDRM.finish
        patch.setattr(DDRM, "finish", lambda *given: finish(*given))
        counts = cli("study", "status", "out", "--json").json
        assert (counts["done"], counts["old"]) == (4, 2)  # those of the other sampler are as they were
        cli("study", "run", tiny, "--out", "out").assert_mistake("other code", "--rerun-old-code")
        refused = cli("study", "run", tiny, "--out", "out", "--rerun-old-code", "--workers", 2)
        assert refused.code == 2
        assert "changed in memory" in refused.err
        assert "2 units to run" in cli("study", "run", tiny, "--out", "out", "--rerun-old-code").err
    assert cli("study", "status", "out", "--json").json["old"] == 2


@pytest.fixture
def old_results(tiny, tmp_path, monkeypatch, cli) -> Path:
    """A complete study with stored draws, of which one sampler's results were made by other code."""
    tiny.write_text(tiny.read_text().replace("samples = 16", "samples = 16\nkeep_samples = true"))
    here = units._draws_code
    monkeypatch.setattr(units, "_draws_code", lambda unit: OLD if unit.sampler_label == "DPS" else here(unit))
    assert cli("study", "run", tiny, "--out", "out").code == 0
    monkeypatch.setattr(units, "_draws_code", here)
    return tmp_path / "out"


def numbers(study, store) -> list[float]:
    return [row["value"] for unit in study.units for row in store.read(unit)]


def test_results_of_other_code_are_refused_until_it_is_said_what_to_do(old_results, tiny, cli):
    study, store = load_study(tiny), Store.open(old_results)
    before, count = numbers(study, store), len(study.units)
    refused = cli("study", "run", tiny, "--out", "out")
    refused.assert_mistake(
        "2 results were made by other code (midguide 0.0.9)", "--accept-old-code", "--rerun-old-code"
    )
    assert cli("study", "status", "out", "--json").json | {"folder": ""} == {
        "study": "tiny", "folder": "", "done": count - 2, "failed": 0, "missing": 0, "damaged": 0, "old": 2,
    }  # fmt: skip
    assert "2 results were made by other code" in cli("study", "status", "out").err
    both = cli("study", "run", tiny, "--out", "out", "--accept-old-code", "--rerun-old-code")
    both.assert_mistake("exclude each other")
    accepted = cli("study", "run", tiny, "--out", "out", "--accept-old-code")
    assert "0 units to run" in accepted.err
    assert len(store.progress(study.units).old) == 2
    rerun = cli("study", "run", tiny, "--out", "out", "--rerun-old-code")
    assert "2 units to run" in rerun.err
    assert "2 units are drawn again: other code made their stored draws" in rerun.err
    assert store.progress(study.units).old == []
    assert numbers(study, store) == before
    assert {stored_code(u.draws_address, store.samples).version for u in study.units} == {midguide.__version__}


def test_a_report_has_results_of_other_code_and_says_so(old_results, tiny, cli):
    said = "2 results were made by other code (midguide 0.0.9)."
    assert said in cli("study", "report", "out").out
    assert said in cli("study", "report", "out", "--html").out
    assert len(cli("study", "report", "out", "--json").json) == 6


def test_draws_of_other_code_are_measured_again_only_where_accepted(old_results, tiny, cli):
    study, store = load_study(tiny), Store.open(old_results)
    more = ("--set", 'metrics=["mean_error"]')
    assert "drawn again" not in cli("study", "run", tiny, "--out", "out", *more, "--accept-old-code").err
    measured = load_study(tiny, [("metrics", ["mean_error"])])
    old = store.progress(measured.units).old
    assert {unit.sampler_label for unit in old} == {"DPS"}  # measured now, but drawn by other code
    assert len(old) == 2
    rescored = cli("study", "run", tiny, "--out", "out", "--rescore", "--rerun-old-code")
    assert rescored.err.count("draws of other code") == 2
    assert len(store.progress(study.units).old) == 2


OWN = """
from dataclasses import dataclass
from midguide.samplers.unconditional import Unconditional

@dataclass(frozen=True, kw_only=True)
class Mine(Unconditional):
    "The prior."
    share: float = 0.5
"""


def test_a_python_file_that_changes_between_two_runs_is_one_line(tiny, tmp_path, cli):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    study = tiny.read_text().replace('spec = "dps"', f'spec = "{own}:Mine"').replace(", guidance = 0.1", "")
    tiny.write_text(study)
    assert "2 of them failed" not in cli("study", "run", tiny, "--out", "out").err
    assert "0 units to run" in cli("study", "run", tiny, "--out", "out").err
    own.write_text(OWN.replace("0.5", "0.25"))
    changed = f"{own} has changed since the last run"
    assert cli("study", "status", "out").err.count(changed) == 1
    again = cli("study", "run", tiny, "--out", "out")
    assert again.err.count(changed) == 1
    assert "2 units to run" in again.err
    assert changed not in cli("study", "run", tiny, "--out", "out").err


def test_equal_files_in_two_places_make_equal_addresses(tiny, tmp_path):
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(OWN)
        text = tiny.read_text().replace('spec = "dps"', f'spec = "{tmp_path / folder / "own.py"}:Mine"')
        (tmp_path / f"{folder}.toml").write_text(text.replace(", guidance = 0.1", ""))
        found.append([unit.address for unit in load_study(tmp_path / f"{folder}.toml").units])
    assert found[0] == found[1]
