"""`midguide benchmark`: a sampler of one's own beside all others, on known posteriors."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from midguide.errors import ConfigError, DataError
from midguide.known.base import KNOWN
from midguide.studies import benchmark as table
from midguide.studies.leaderboard import as_html, as_markdown, figure, means

OWN = '''
from dataclasses import dataclass

from midguide.samplers.base import NoisyState, Step, finish_denoised, one_vjp_a_step, schedule_times, start_from_noise
from midguide.samplers.unconditional import Unconditional


@dataclass(frozen=True, kw_only=True)
class Mine:
    """DDIM that ignores the observation."""

    steps: int = 20
    needs = Unconditional.needs
    times, calls, init, finish = schedule_times, one_vjp_a_step, start_from_noise, finish_denoised

    def step(self, problem, state, t, s, rng):
        clean = problem.denoiser(state.x_t, t)
        now, then = problem.schedule.level(t), problem.schedule.level(s)
        return Step(NoisyState(then.alpha * clean + then.sigma * (state.x_t - now.alpha * clean) / now.sigma), {})
'''


def line(**changes) -> table.Line:
    values = {"problem": "gaussian", "sampler": "dps", "budget": 25, "seeds": 3, "failures": 0, "forwards": 13.0}
    values |= {"vjps": 12.0, "error": 0.5, "error_ci95": 0.1, "sliced_wasserstein": 0.2, "gap": 0.3, "gap_ci95": 0.1}
    return table.Line(**{**values, "coverage": 0.8, "coverage_ci95": 0.1, **changes})


OURS = [
    line(problem=problem, sampler=sampler, budget=budget, error=error / (1 + budget / 50), forwards=float(budget))
    for problem in ("gaussian", "box", "glyphs-blocks", "saturation")
    for sampler, error in (("dps", 0.9), ("mmps", 0.4), ("ddrm", 0.6))
    for budget in (25, 100)
] + [line(sampler="exact", budget=0, error=0.01), line(sampler="prior", budget=0, error=1.0)]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "SEEDS", 2)
    monkeypatch.setattr(table, "DRAWS", 16)
    monkeypatch.setattr(table, "ours", lambda: OURS)
    return tmp_path


def test_an_own_sampler_has_a_row_beside_all_others_and_goes_on_where_it_stopped(here, cli):
    given = ["benchmark", "own.py:Mine", "--problems", "gaussian", "--budget", 25]
    stopped = cli(*given, "--limit", 2)
    assert stopped.code == 0
    assert "2 of 6 units to run" in stopped.err
    whole = cli(*given)
    assert "4 of 6 units to run" in whole.err
    rows = [row.split() for row in whole.out.splitlines()]
    assert {row[1] for row in rows[1:]} >= {"mmps", "ddrm", "dps", "exact", "prior"}
    (own,) = [row for row in rows if "<--" in row]
    assert own[1].endswith("own.py:Mine")
    # it ignores the observation: as far from the posterior as the prior, 16 draws of 2 problems
    assert float(own[3]) > 0.5
    again = cli(*given, "--json")
    assert "0 of 6 units to run" in again.err
    (record,) = again.json
    assert record["budget"] == 25
    assert record["forwards"] + record["vjps"] <= 25


def test_csv_reads_back_and_html_needs_no_other_file(here, cli):
    given = ["benchmark", "own.py:Mine", "--problems", "gaussian", "--budget", 25]
    lines = table.from_csv(cli(*given, "--csv").out)
    assert {line.sampler.rpartition("/")[2] for line in lines} == {"own.py:Mine", "exact", "prior"}
    page = cli(*given, "--html").out
    assert page.startswith("<!doctype html>")
    assert 'class="own"' in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["benchmark"], "give a sampler, or --all"),
        (["benchmark", "dps", "--all"], "give a sampler, or --all"),
        (["benchmark", "dpss"], "unknown sampler `dpss`"),
        (["benchmark", "dps", "--problems", "gausian"], "unknown known posterior `gausian`"),
        (["benchmark", "dps", "--problems", "finite-sample"], "needs the settings `data`, `operator`"),
        (["benchmark", "--all", "--set", "steps=3"], "--set is for one sampler"),
        (["benchmark", "dps", "--csv", "--html"], "exclude each other"),
        (["benchmark", "ddrm", "--problems", "photon-counts"], "has run on none of these problems"),
    ],
)
def test_mistakes_are_one_line(here, cli, arguments, words):
    got = cli(*arguments)
    assert got.code == 2
    assert words in got.err
    assert "Traceback" not in got.err


def test_plan_takes_patterns_and_every_problem_that_needs_nothing():
    problems = [row["problem"] for row in table.plan(["dps"], ["glyphs-*", "box"])["problems"]]
    assert problems == ["glyphs-blocks", "glyphs-pixels", "box"]
    assert set(table.every_problem()) == {name for name, entry in KNOWN.items() if not entry.required()}
    assert "psld" not in table.every_sampler()


def test_groups_that_do_not_divide_the_draws_get_more_of_them():
    plan = table.plan(["tds"], settings={"particles": 48})
    assert plan["overrides"] == [{"sampler": "tds, budget *", "samples": 96}]


def test_lines_read_back_from_csv_and_other_tables_are_refused():
    assert table.from_csv(table.as_csv(OURS)) == OURS
    with pytest.raises(DataError, match="not lines of the benchmark"):
        table.from_csv("a,b\n1,2\n")


def test_means_are_of_samplers_with_every_problem():
    found = means([*OURS, line(sampler="some", problem="gaussian")], ["gaussian", "box"])
    assert {mean.sampler for mean in found} == {"dps", "mmps", "ddrm"}
    best = found[0]
    assert (best.sampler, best.budget, best.problems) == ("mmps", 100, 2)
    assert math.isclose(best.error, 0.4 / 3)
    # two kinds of three seeds each, both with 0.1 = t(2) s / sqrt(3): t(4) / t(2) / sqrt(2) of it
    assert best.error_ci95 == pytest.approx(0.1 * 2.776 / 4.303 / 2**0.5, rel=0.01)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.links = 0, []

    def handle_starttag(self, tag, attributes):
        self.rows += tag == "tr"
        self.links += [value for name, value in attributes if name in ("src", "href") and value[:5] != "data:"]


def test_page_holds_every_line_escapes_names_and_asks_for_nothing_outside():
    page = as_html([*OURS, line(sampler="<script>alert(1)</script>")], marked="mmps")
    read = Page()
    read.feed(page)
    assert read.rows == len(OURS) + 2
    assert read.links == []
    assert "<script>alert" not in page
    assert "http" not in page


def test_figure_and_markdown_name_the_nearest_samplers():
    made = figure(OURS, marked="dps")
    assert len(made.axes) == 3
    assert {"dps", "mmps"} <= {text.get_text() for text in made.axes[0].texts}
    text = as_markdown(OURS)
    assert "| `mmps` | 0.267 " in text
    assert "### Images" in text


def test_unknown_own_problem_is_named():
    with pytest.raises(ConfigError, match="needs the settings `law`, `measured`"):
        table.plan(["dps"], ["levy"])
