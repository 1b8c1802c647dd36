"""Reports of image studies: a grid of problems and samplers, numbers of sets, pictures from stored draws."""

from __future__ import annotations

import json
import os

import pytest
import torch

from midguide.errors import NumericalError, PluginWarning
from midguide.metrics.base import SET_METRICS
from midguide.samplers.dps import DPS
from midguide.studies.engine.execute import check_device, run_units
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import stored
from midguide.studies.pictures.base import PICTURES
from midguide.studies.report import layout
from midguide.studies.report.expected import Expected
from midguide.studies.report.html import as_html
from midguide.studies.report.pictures import panels
from midguide.studies.report.rows import make_report
from midguide.studies.spec.study import load_study


class MeanDifference:
    """A set metric: the difference of all means."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, draws, truths, value_range):
        self.calls += 1
        if self.fails:
            raise NumericalError("too few")
        assert draws.shape == (4, 3, 16, 16)  # the first of two draws of each of 4 images
        assert truths.shape == (4, 3, 16, 16)
        return float(draws.mean() - truths.mean())

    def check(self, event_shape):
        """It takes all."""

    def record(self):
        return {}


@pytest.fixture
def ran(faces, tmp_path):
    study = load_study(faces)
    expected = [Expected("faces", "box", "DPS", "lpips[net=alexnet]", 0.19, None, "paper, FFHQ 256, other prior")]
    store = Store.create(tmp_path / "out", study.plain, expected)
    assert run_units(study, store, list(study.units)) == 0
    return study, store


def test_grid_has_a_table_for_each_metric_one_of_costs_and_the_numbers_of_others(ran):
    tables = {table.heading: table for table in layout.tables(make_report(*ran))}
    grid = tables["truth_rmse"]
    assert grid.header == ["problem", "DPS", "DDNM", "n"]
    assert [line[0] for line in grid.cells] == ["box", "x4", "phase"]
    assert [line[2] == "left out" for line in grid.cells] == [False, False, True]
    assert {line[3] for line in grid.cells} == {"4"}
    costs = {line[0]: line[1:3] for line in tables["Cost, mean over problems"].cells}
    assert costs == {"DPS": ["3", "2"], "DDNM": ["3", "0"]}
    others = tables["Not ours: lpips[net=alexnet]. paper, FFHQ 256, other prior"]
    assert others.cells == [["box", "0.190", "-"]]
    assert "needs a linear operator" in tables["Left out"].cells[0][2]
    assert "| left out |" in layout.as_markdown(make_report(*ran))


def test_number_of_a_set_is_that_of_the_first_draw_of_each_image_and_computed_once(ran, faces, enter):
    _, store = ran
    metric = MeanDifference()
    enter(SET_METRICS, "mean_difference", metric)
    study = load_study(faces, [("set_metrics", ["mean_difference"])])
    row = next(r for r in make_report(study, store).rows if (r.metric, r.problem) == ("mean_difference", "box"))
    kept = [stored(u, store.samples) for u in study.units if (u.problem_label, u.sampler_label) == ("box", "DPS")]
    draws = torch.cat([samples.draws[0, :1] for samples in kept if samples is not None])
    truths = torch.cat([samples.tensors["truth"] for samples in kept if samples is not None])
    assert row.mean == pytest.approx(float(draws.mean() - truths.mean()))
    assert (row.n, row.ci95, row.network_forwards) == (4, None, 3)
    assert metric.calls == 5  # cells
    make_report(study, store)
    assert metric.calls == 5
    first, second, *others = sorted((store.folder / "sets").iterdir())
    first.write_text(first.read_text().replace('"value": ', '"value": 1'))
    second.unlink()
    os.mkfifo(second)
    plain = json.loads(others[0].read_text())
    others[0].write_text(json.dumps({"metric": plain["metric"], "value": plain["value"]}))  # of an earlier version
    assert row in make_report(study, store).rows
    assert metric.calls == 7


def test_number_of_a_set_that_fails_says_why_in_the_report(ran, faces, enter):
    enter(SET_METRICS, "mean_difference", MeanDifference(fails=True))
    report = make_report(load_study(faces, [("set_metrics", ["mean_difference"])]), ran[1])
    assert len(report.notes) == 5
    assert "Failed: mean_difference, box, DPS: too few." in layout.as_markdown(report)


def test_panels_show_stored_draws_without_sampling(ran, monkeypatch):
    monkeypatch.setattr(DPS, "step", None)  # calling it would be a TypeError
    study, store = ran
    made = panels(study, store, images=2)
    assert list(made) == ["box", "x4", "phase"]
    assert len(made["box"].axes) == 2 * 3 * (1 + 2)
    assert len(made["phase"].axes) == 2 * 3 * (1 + 1)  # where one sampler is left out
    shown = made["box"].axes[3].images[0].get_array()
    samples = stored(study.units[0], store.samples)
    assert samples is not None
    expected = ((samples.draws[0, 0].clamp(-1, 1) + 1) / 2).permute(1, 2, 0)
    assert float((torch.as_tensor(shown) - expected).abs().max()) < 1e-5
    page = as_html(make_report(study, store), made)
    assert page.count("data:image/png;base64,") == 1 + 3  # 2 metrics on 3 problems still have their figure
    assert "http" not in page


def test_a_picture_from_outside_that_fails_is_one_line_and_the_others_are_there(ran, enter):
    def broken(label, cases):
        print("drawing")
        return 1 / 0

    enter(PICTURES, "mine", broken)
    with pytest.warns(PluginWarning, match="picture `mine` of .*ZeroDivisionError.*: left out"):
        made = panels(*ran, images=1)
    assert list(made) == ["box", "x4", "phase"]


def test_sampler_without_draws_leaves_its_place_empty(ran):
    study, store = ran
    import shutil

    for unit in study.units:
        if unit.sampler_label == "DDNM":
            shutil.rmtree(store.samples / unit.draws_address)
    words = [text.get_text() for axes in panels(study, store)["box"].axes for text in axes.texts]
    assert words.count("no draws") == 2


def test_priors_in_closed_form_stay_on_the_cpu(tiny, faces):
    check_device(load_study(faces), "cpu")
    with pytest.raises(Exception, match="GaussianMixture computes on the CPU only"):
        check_device(load_study(tiny), "meta")
