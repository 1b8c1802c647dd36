"""Studies of weighted draws: metrics under their weights, the effective sample size in rows and tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from midguide.errors import ConfigError
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import LATER, Store
from midguide.studies.report.layout import tables
from midguide.studies.report.rows import make_report
from midguide.studies.runners.local import local_runner
from midguide.studies.spec.study import load_study

FILTER = Path(__file__).parents[1] / "accuracy" / "particles.py"
STUDY = f"""
[study]
name = "weighted"
samples = 400
metrics = ["mean_error", "sliced_wasserstein_1[slices=100]"]
keep_samples = true

[[problems]]
kind = "mixture"
dimension = 2
sigma_y = 0.5
seeds = [0, 1]

[[samplers]]
spec = "{FILTER}:TwistedFilter"
label = "islands"
settings = {{ steps = 20, particles = 4 }}

[[samplers]]
spec = "unconditional"
settings = {{ steps = 20 }}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "weighted.toml"
    path.write_text(STUDY)
    return load_study(path)


def run(study, folder: Path) -> Store:
    store = Store.create(folder, study.plain, [])
    run_units(study, store, study.units, runner=local_runner())
    return store


def test_rows_and_tables_have_the_effective_sample_size_of_weighted_draws(study, tmp_path):
    report = make_report(study, run(study, tmp_path / "out"))
    sizes = {row.sampler: row.effective_sample_size for row in report.rows}
    assert 20 < sizes["islands"] < 399
    assert sizes["unconditional"] is None
    (table, *_) = tables(report)
    assert table.header[-1] == "effective sample size"
    assert [line[-1] for line in table.cells] == [f"{sizes['islands']:.1f}", "-"]
    means = {row.sampler: row.mean for row in report.rows if row.metric == "mean_error"}
    assert means["islands"] < 0.5 * means["unconditional"]  # its weights make it the posterior's


def test_draws_that_make_no_whole_groups_are_refused_when_the_study_is_read(tmp_path):
    path = tmp_path / "weighted.toml"
    path.write_text(STUDY.replace("samples = 400", "samples = 402"))
    with pytest.raises(ConfigError, match="n=402 samples cannot be drawn in groups of 4") as caught:
        load_study(path)
    assert caught.value.hint == "take 400 or 404 samples"


def test_results_of_before_without_the_column_are_read(study, tmp_path):
    store = run(study, tmp_path / "out")
    for unit in study.units:
        path = store.path(unit)
        table = pq.ParquetFile(path).read().drop_columns(list(LATER))
        pq.write_table(table, path, write_page_checksum=True)
    assert isinstance(table, pa.Table)
    assert len(store.progress(study.units).stored) == 4
    assert {row.effective_sample_size for row in make_report(study, store).rows} == {None}
