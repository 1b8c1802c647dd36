"""Metrics that need a user's weights: asked for before anything runs, and recorded with their rows."""

import json
from dataclasses import replace

import pytest

from midguide.errors import CheckpointError
from midguide.metrics.base import METRICS, Metric
from midguide.studies.engine.execute import check_metrics, run_units
from midguide.studies.engine.store import Store
from midguide.studies.spec.study import load_study

LPIPS = "lpips_sample[net=alexnet,v=0.1,resize=none]"


def test_rows_name_the_weights_of_their_metric_and_no_others(tiny, tmp_path, enter):
    enter(METRICS, "constant", Metric(compute=lambda *_: 1.0, files=lambda: {"net.pth": "abc"}))
    study = load_study(tiny, [("metrics", ["constant", "mode_weight_tv"])])
    store = Store.create(tmp_path / "out", study.plain, [])
    unit = study.units[0]
    assert run_units(study, store, [unit]) == 0
    recorded = {row["metric"]: json.loads(row["configuration"]) for row in store.read(unit) or []}
    assert recorded["constant"] == unit.configuration | {
        "weights": {"net.pth": "abc"},
        "metric_source": METRICS.make("constant").source,
    }
    assert recorded["mode_weight_tv"] == unit.configuration


def test_the_metric_and_the_file_are_named(tiny, tmp_path, monkeypatch, enter):
    monkeypatch.setenv("MIDGUIDE_WEIGHTS", str(tmp_path))
    enter(METRICS, "lpips", replace(METRICS.make(LPIPS), image=0, channels=None, truth=False))  # of any signal
    with pytest.raises(CheckpointError, match=r"metric `lpips`.*alexnet-owt-7be5be79.pth"):
        check_metrics(load_study(tiny, [("metrics", ["chi_square", "lpips"])]))
