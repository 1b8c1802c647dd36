"""Reports: the numbers of the rows, their intervals, and what stands beside them."""

from __future__ import annotations

import base64
import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from midguide.errors import ConfigError, DataError
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.report import layout
from midguide.studies.report import rows as reports
from midguide.studies.report.expected import Expected, load_expected
from midguide.studies.report.html import as_html, figure
from midguide.studies.spec.study import load_study

SW = "sliced_wasserstein_1[slices=100]"


@pytest.fixture
def study(tiny):
    return load_study(tiny, [("problems.seeds", [0, 1, 2])])


@pytest.fixture
def store(study, tmp_path):
    expected = [Expected("tiny", "dx = 2", "DDRM", SW, 4.5, 0.5, "a paper")]
    return Store.create(tmp_path / "out", study.plain, expected)


@pytest.fixture
def report(study, store):
    run_units(study, store, list(study.units))
    return reports.make_report(study, store)


def per_problem(study, store, sampler):
    return np.array([store.read(u)[0]["value"] for u in study.units if u.sampler_label == sampler])


def test_row_has_the_mean_and_the_interval_over_problems(study, store, report):
    values = per_problem(study, store, "DDRM")
    row = next(r for r in report.rows if (r.sampler, r.metric) == ("DDRM", SW))
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert row.mean == pytest.approx(values.mean())
    assert row.ci95 == pytest.approx(half, rel=0.02)  # the expansion of the quantile
    assert (row.n, row.failures, row.network_forwards, row.network_vjps) == (3, 0, 5, 0)
    assert (row.preset, row.prior, row.expected) == ("paper", "mixture25", 4.5)


def test_difference_is_paired_by_problem_with_the_first_sampler(study, store, report):
    gaps = per_problem(study, store, "DPS") - per_problem(study, store, "DDRM")
    found = next(d for d in report.differences if (d.sampler, d.metric) == ("DPS", SW))
    assert report.baseline == "DDRM"
    assert found.mean == pytest.approx(gaps.mean())
    assert found.ci95 == pytest.approx(stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / np.sqrt(3), rel=0.02)


def test_any_row_can_be_the_baseline_and_the_pairs_are_those_of_its_problems(study, store, report):
    against = reports.make_report(study, store, baseline="DPS")
    assert {d.sampler for d in against.differences} == {"exact", "DDRM"}
    found = next(d for d in against.differences if (d.sampler, d.metric) == ("exact", SW))
    gaps = per_problem(study, store, "exact") - per_problem(study, store, "DPS")
    assert (found.mean, found.n) == (pytest.approx(gaps.mean()), 3)
    assert "Difference from DPS" in layout.as_markdown(against)
    assert against.rows == report.rows


def test_baseline_that_is_no_row_is_refused_with_the_labels(study, store, report):
    with pytest.raises(ConfigError, match="'MGPS'") as caught:
        reports.make_report(study, store, baseline="MGPS")
    assert caught.value.hint == "labels are: 'exact', 'DDRM', 'DPS'"


def test_seeds_of_one_problem_are_averaged_before_the_interval(tiny, tmp_path):
    study = load_study(tiny, [("seeds", [0, 1])])
    store = Store.create(tmp_path / "out", study.plain, [])
    run_units(study, store, list(study.units))
    assert {row.n for row in reports.make_report(study, store).rows} == {2}


def test_quantile_is_that_of_student_within_two_percent():
    for freedom in range(1, 60):
        assert reports.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.02)


def test_order_is_that_of_the_file(study, report):
    assert report.metrics == list(study.head.metrics)
    assert [row.sampler for row in report.cell("dx = 2", SW)] == ["exact", "DDRM", "DPS"]


def test_csv_has_the_keys_and_the_rows(report):
    lines = list(csv.DictReader(io.StringIO(reports.as_csv(report))))
    assert list(lines[0]) == list(reports.KEYS)
    assert float(lines[1]["mean"]) == report.rows[1].mean


def test_markdown_shows_value_expected_source_and_what_is_missing(study, store):
    run_units(study, store, list(study.units[:4]))
    text = layout.as_markdown(reports.make_report(study, store))
    assert "5 units are missing" in text
    assert "| 4.5 |" in text
    assert "a paper" in text


def test_verdicts_of_results_are_counted_and_shown(study, report):
    found = {v.sampler: v for v in report.verdicts}
    assert set(found) == set(report.samplers)
    assert all(v.judged == 3 and 0 <= v.found <= 3 and bool(v.most) == bool(v.found) for v in found.values())
    assert "Verdicts: results in which checks found something" in layout.as_markdown(report)
    assert "Verdicts" in as_html(report)
    assert "Verdicts" not in layout.as_markdown(replace(report, verdicts=()))


def test_html_holds_its_figure_and_refers_to_nothing_else(report):
    page = as_html(report)
    (image,) = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert base64.b64decode(image).startswith(b"\x89PNG")
    assert "http" not in page


SWEEPS = """
[[samplers]]
spec = "mgps"
sweep = { steps = [3, 4], midpoint = [0.5, 1.0] }

[[samplers]]
spec = "ddnm"
sweep = { eta = [0.5, 1.0] }
"""


@pytest.fixture
def swept(tiny, tmp_path):
    """The results of a study of two sweeps that asks where they are least."""
    tiny.write_text(tiny.read_text() + SWEEPS)
    study = load_study(tiny, [("metrics", [SW]), ("problems.seeds", [0, 1, 2]), ("minimizers", True)])
    store = Store.create(tmp_path / "swept", study.plain, [])
    run_units(study, store, list(study.units))
    return study, store


def names(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_varied_settings_are_drawn_as_curves_and_what_does_not_vary_as_lines(swept):
    report = replace(reports.make_report(*swept), minimizers=[])
    first, second = figure(report).axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("steps", "eta")
    assert names(first) == ["exact", "DDRM", "DPS", "mgps, midpoint 0.5", "mgps, midpoint 1"]
    assert names(second) == ["exact", "DDRM", "DPS", "ddnm"]


def test_minimizers_are_counted_problem_by_problem_and_drawn_beside_their_curves(swept):
    study, store = swept
    report = reports.make_report(study, store)
    at = np.array([per_problem(study, store, f"ddnm, eta {eta:g}") for eta in (0.5, 1.0)])
    want = {0.5: int((at[0] < at[1]).sum()), 1.0: int((at[1] < at[0]).sum())}
    found = {m.curve: m for m in report.minimizers}
    assert list(found) == ["mgps, midpoint 0.5", "mgps, midpoint 1", "ddnm"]
    assert found["ddnm"] == ("dx = 2", SW, "ddnm", "eta", want)
    assert all(sum(m.counts.values()) == 3 for m in report.minimizers)
    assert f"| dx = 2 | ddnm | {want[0.5]} | {want[1.0]} |" in layout.as_markdown(report)
    curves, bars, *_ = figure(report).axes
    assert (curves.get_xlabel(), bars.get_xlabel(), bars.get_ylabel()) == ("steps", "steps", "problems")
    assert sum(bar.get_height() for bar in bars.patches) == 6


def test_quartiles_are_those_of_the_problems(swept):
    report = reports.make_report(*swept)
    row = next(row for row in report.rows if row.sampler == "ddnm, eta 1")
    want = np.quantile(per_problem(*swept, row.sampler), [0.25, 0.5, 0.75])
    assert (row.quartile1, row.median, row.quartile3) == pytest.approx(tuple(want))


def test_minimizers_without_a_sweep_are_refused(tiny):
    with pytest.raises(ConfigError, match="no sampler has one"):
        load_study(tiny, [("minimizers", True)])


def test_study_of_more_panels_than_a_figure_takes_has_its_tables_only(report):
    few, many = (replace(report, rows=[replace(report.rows[0], problem=str(i)) for i in range(n)]) for n in (8, 9))
    assert "data:image" in as_html(few)
    assert "data:image" not in as_html(many)
    assert figure(many) is None


def test_study_without_results_has_no_report(study, store):
    with pytest.raises(DataError, match="no results yet"):
        reports.make_report(study, store)


def test_expected_numbers_with_other_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("experiment,value\ngmm,1\n")
    with pytest.raises(DataError, match="columns"):
        load_expected(tmp_path, "gmm")


def test_closed_form_law_is_measured_by_its_moments_not_by_its_draws(tmp_path):
    """10 steps of MGPS on a Gaussian: W2 of the law, whatever the number of draws; that of the posterior is zero."""
    path = tmp_path / "law.toml"
    path.write_text(
        '[study]\nname = "law"\nsamples = 2\nmetrics = ["gaussian_w2"]\n'
        '[[problems]]\nkind = "gaussian"\ndimension = 4\nmeasurements = 2\nsigma_y = 0.3\nseeds = [0]\n'
        '[[samplers]]\nspec = "mgps:paper"\nsource = "law"\nsettings = { steps = 10 }\n'
        '[[samplers]]\nspec = "exact-law"\n'
    )
    found = []
    for n in (2, 50):
        study = load_study(path, [("samples", n)])
        store = Store.create(tmp_path / f"out{n}", study.plain, [])
        run_units(study, store, list(study.units))
        found.append([row.mean for row in reports.make_report(study, store).rows])
    assert found[0] == found[1]
    assert found[0][0] > 0.01
    assert found[0][1] < 1e-6  # the root of a rounding error in float64
