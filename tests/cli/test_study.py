"""`midguide study`: runs that go on after a kill, reports, and mistakes."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from midguide.cli import main, watch
from midguide.cli.commands.study import WEIGHTS
from midguide.metrics.base import METRICS, Metric
from midguide.metrics.weights import VARIABLE, read_weights
from midguide.samplers.ddrm import DDRM

KEYS = "problem prior sampler preset metric mean ci95 n failures network_forwards network_vjps seconds".split()
KEYS += ["expected", "effective_sample_size", "quartile1", "median", "quartile3"]
STUDY = """
[study]
name = "tiny"
samples = 16
metrics = ["sliced_wasserstein_1[slices=100]"]

[[problems]]
kind = "mixture"
label = "dx = 2"
dimension = 2
seeds = { first = 0, count = 3 }

[[samplers]]
spec = "exact"

[[samplers]]
spec = "ddrm:paper"
label = "DDRM"
settings = { steps = 4 }
"""
SW = "sliced_wasserstein_1[slices=100]"


@pytest.fixture
def study(tmp_path) -> Path:
    """A study of 6 units with one expected number."""
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "expected").mkdir()
    header = "experiment,problem,sampler,metric,value,ci95,source\n"
    (tmp_path / "expected" / "tiny.csv").write_text(f"{header}tiny,dx = 2,DDRM,{SW},4.5,,a paper\n")
    return tmp_path / "study.toml"


def test_weights_are_looked_for_in_the_folder_that_is_named(cli, study, tmp_path, monkeypatch, enter):
    def files():
        return {"net.safetensors": read_weights("net.safetensors", "nowhere")[1]}

    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))  # and put back at the end
    enter(METRICS, SW, Metric(compute=lambda *_: 1.0, files=files))
    cli("study", "run", study, "--weights", tmp_path / "mine").assert_mistake(SW, "net.safetensors", "mine", VARIABLE)
    assert not (tmp_path / "midguide-out").exists()
    (tmp_path / "mine").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "mine" / "net.safetensors")
    assert cli("study", "run", study, "--weights", tmp_path / "mine").code == 0
    assert WEIGHTS == VARIABLE


def test_run_status_and_report_belong_together(cli, study):
    result = cli("study", "run", study)
    assert result.code == 0
    folder = result.out.strip()
    assert folder.endswith("midguide-out/study-tiny")
    assert cli("study", "status", study, "--json").json["done"] == 6
    assert "done" in cli("study", "status", folder).out
    rows = cli("study", "report", folder, "--json").json
    assert [list(row) for row in rows] == [KEYS] * 2
    assert [row["expected"] for row in rows] == [None, 4.5]
    assert [row["preset"] for row in rows] == [None, "paper"]
    assert "± 95 %" in cli("study", "report", folder).out
    assert len(list(csv.DictReader(io.StringIO(cli("study", "report", folder, "--csv").out)))) == 2
    assert "data:image/png;base64," in cli("study", "report", folder, "--html").out


def test_figure_of_the_report_is_written_in_the_format_of_its_name(cli, study, tmp_path):
    cli("study", "run", study, "--out", "out")
    plain = cli("study", "report", "out").out
    for name, start in (("figure.png", b"\x89PNG"), ("a/figure.svg", b"<?xml"), ("figure.pdf", b"%PDF")):
        result = cli("study", "report", "out", "--figure", name)
        assert (result.out, result.err) == (plain, f"picture: {name}\n")
        assert (tmp_path / name).read_bytes().startswith(start)
    page = cli("study", "report", "out", "--html").out
    assert base64.b64encode((tmp_path / "figure.png").read_bytes()).decode() in page
    cli("study", "report", "out", "--figure", "figure.gif").assert_mistake("figure.gif", ".png")


def test_report_without_a_figure_says_why_in_one_line(cli, study, tmp_path):
    tables = "".join(
        STUDY[STUDY.index("[[problems]]") : STUDY.index("[[samplers]]")].replace("dx = 2", f"p{i}") for i in range(9)
    )
    study.write_text(study.read_text() + tables)
    cli("study", "run", study, "--out", "out", "--limit", 1, "--set", "problems.seeds=[0]")
    cli("study", "report", "out", "--figure", "figure.png").assert_mistake("no figure", "10 problems", "8 panels")
    assert not (tmp_path / "figure.png").exists()


def test_baseline_of_the_differences_is_named_on_the_command_line(cli, study):
    cli("study", "run", study, "--out", "out")
    assert "## Difference from DDRM," in cli("study", "report", "out").out
    assert "## Difference from exact," in cli("study", "report", "out", "--baseline", "exact").out
    cli("study", "report", "out", "--baseline", "ddrm").assert_mistake("'ddrm'", "'exact', 'DDRM'")
    cli("study", "report", "out", "--baseline", "exact", "--json").assert_mistake("no differences")


def test_limit_and_second_run_do_what_is_missing_only(cli, study):
    assert "4 units to run" in cli("study", "run", study, "--out", "out", "--limit", 4).err
    assert "2 units to run, 4 done" in cli("study", "run", study, "--out", "out").err
    assert "0 units to run, 6 done" in cli("study", "run", study, "--out", "out").err


def test_log_has_a_line_of_progress_at_most_every_so_often(cli, study, monkeypatch):
    result = cli("study", "run", study, "--out", "seldom")
    assert "left" not in result.err
    monkeypatch.setattr(watch, "SECONDS", 0.0)
    result = cli("study", "run", study, "--out", "often")
    lines = [line for line in result.err.splitlines() if line.endswith("left")]
    assert [line.split(",")[0] for line in lines] == [f"{i} of 6 units" for i in range(1, 7)]
    assert lines[-1] == "6 of 6 units, 0 s left"
    assert result.out.splitlines() == [str(Path("often").resolve())]


def test_setting_of_the_command_line_makes_other_units(cli, study):
    cli("study", "run", study, "--out", "out")
    result = cli("study", "run", study, "--out", "out", "--set", "samplers.steps=5", "--set", "problems.seeds=[0]")
    assert "1 units to run, 1 done" in result.err
    assert "5 results in" in result.err
    rows = cli("study", "report", "out", "--json").json
    assert [row["network_forwards"] for row in rows] == [0, 5]


def test_expected_numbers_that_do_not_exist_are_refused_before_anything_is_written(cli, study, tmp_path):
    cli("study", "run", study, "--out", "wrong", "--set", "expected=tyni").assert_mistake("no number of 'tyni'")
    assert not (tmp_path / "wrong").exists()


def test_damaged_unit_is_named_and_made_anew(cli, study, tmp_path):
    cli("study", "run", study, "--out", "out")
    file = sorted((tmp_path / "out" / "units").iterdir())[0]
    damaged = file.read_bytes()[:-20]
    file.write_bytes(damaged)
    assert cli("study", "status", "out", "--json").json["damaged"] == 1
    result = cli("study", "run", study, "--out", "out", "--limit", 1)
    assert f"damaged, kept as {file.stem}.damaged when recreated: {file}" in result.err
    assert "1 units to run, 5 done" in result.err
    assert file.with_suffix(".damaged").read_bytes() == damaged
    assert cli("study", "status", "out", "--json").json["done"] == 6


@pytest.mark.usefixtures("same_code")
def test_failing_unit_is_reported_and_counted(cli, study, monkeypatch):
    def fail(*arguments):
        raise ArithmeticError("no such number")

    with monkeypatch.context() as patch:
        patch.setattr(DDRM, "step", fail)
        result = cli("study", "run", study, "--out", "out")
    assert result.code == 0
    assert result.err.count("failed: DDRM on dx = 2") == 3
    rows = cli("study", "report", "out", "--json").json
    assert [(row["n"], row["failures"], row["mean"] is None) for row in rows] == [(3, 0, False), (0, 3, True)]
    assert "0 units to run" in cli("study", "run", study, "--out", "out").err
    assert "3 units to run" in cli("study", "run", study, "--out", "out", "--retry-failed").err
    assert cli("study", "report", "out", "--json").json[1]["failures"] == 0


@pytest.mark.usefixtures("same_code")
def test_kept_draws_are_measured_again_without_sampling(cli, study, monkeypatch):
    cli("study", "run", study, "--out", "out", "--set", "keep_samples=true")

    def sampling(*arguments):
        raise AssertionError("sampling has started")

    monkeypatch.setattr(DDRM, "step", sampling)
    assert "6 units to run" in cli("study", "run", study, "--out", "out", "--rescore").err
    result = cli("study", "run", study, "--out", "out", "--set", 'metrics=["mean_error", "gaussian_w2"]')
    assert "6 units to run, 0 done" in result.err
    assert {row["metric"] for row in cli("study", "report", "out", "--json").json} == {"mean_error", "gaussian_w2"}


@pytest.mark.usefixtures("same_code")
def test_rescoring_names_damaged_draws_and_never_samples(cli, study, tmp_path, monkeypatch):
    cli("study", "run", study, "--out", "out", "--limit", 5, "--set", "keep_samples=true")
    before = cli("study", "report", "out", "--json").json
    kept = next(p.parent for p in sorted((tmp_path / "out" / "samples").glob("*/*.json")) if cost_of(p) == 4)
    (kept / "samples.safetensors").write_bytes(b"text")

    def sampling(*arguments):
        raise AssertionError("sampling has started")

    monkeypatch.setattr(DDRM, "step", sampling)
    result = cli("study", "run", study, "--out", "out", "--rescore")
    assert result.code == 0
    (line,) = [line for line in result.err.splitlines() if line.startswith("not measured: ")]
    assert line.startswith("not measured: DDRM on dx = 2, problem ")
    assert line.endswith(f"damaged draws in {kept}")
    assert "4 units to run" in result.err
    assert (kept / "samples.safetensors").read_bytes() == b"text"
    assert cli("study", "report", "out", "--json").json == before


def test_damaged_draws_are_named_set_aside_and_drawn_again(cli, study, tmp_path):
    cli("study", "run", study, "--out", "out", "--set", "keep_samples=true")
    before = cli("study", "report", "out", "--json").json
    kept = next(p.parent for p in sorted((tmp_path / "out" / "samples").glob("*/*.json")) if cost_of(p) == 4)
    file = kept / "samples.safetensors"
    file.write_bytes(damaged := file.read_bytes()[:-1] + b"!")
    next_metrics = 'metrics=["sliced_wasserstein_1[slices=100]", "mean_error"]'
    result = cli("study", "run", study, "--out", "out", "--set", next_metrics)
    assert f"damaged, kept as {kept.name}.damaged when recreated: {kept}" in result.err
    assert (kept.with_suffix(".damaged") / file.name).read_bytes() == damaged
    after = [row for row in cli("study", "report", "out", "--json").json if row["metric"].startswith("sliced")]
    assert [row["mean"] for row in after] == [row["mean"] for row in before]


def cost_of(path: Path) -> float:
    return json.loads(path.read_text())["cost"]["network_forwards"]


def test_rescoring_without_stored_draws_is_a_mistake(cli, study):
    cli("study", "run", study, "--out", "out")
    cli("study", "run", study, "--out", "out", "--rescore").assert_mistake("no draws to measure", "keep_samples")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), ("missing command",)),
        (("run", "nowhere.toml"), ("nowhere.toml",)),
        (("run", "study.toml", "--workers", 0), ("--workers", "at least 1")),
        (("run", "study.toml", "--set", "sampels=3"), ("study.toml", "sampels", "samples")),
        (("run", "study.toml", "--set", "samplers.stepz=3"), ("stepz", "steps")),
        (("run", "study.toml", "--set", "samples"), ("key=value",)),
        (("status", "nowhere"), ("nowhere", "no results of a study")),
        (("report", "expected"), ("no results of a study",)),
        (("report", "nowhere", "--json", "--csv"), ("exclude",)),
    ],
)
def test_mistakes_are_refused_in_one_line(cli, study, argv, words):
    cli("study", *argv).assert_mistake(*words)


def test_results_of_another_study_are_not_mixed_in(cli, study, tmp_path):
    cli("study", "run", study, "--out", "out")
    cli("study", "run", study, "--out", "out", "--set", "name=other").assert_mistake("'tiny'", "--out")
    cli("study", "run", study, "--out", "expected").assert_mistake("no results of a study")
    assert [path.name for path in (tmp_path / "expected").iterdir()] == ["tiny.csv"]


IMAGES = """
study.name = "pictures"
study.samples = 2
study.keep_samples = true
study.metrics = ["chi_square"]
samplers = [{{ spec = "dps:linear", settings = {{ steps = 2 }} }}]

[[problems]]
label = "box / 1"
kind = "images"
operator = "box-inpainting"
prior = "{prior}"
seeds = [0]
"""


def test_images_are_given_by_path_and_found_again_where_they_have_moved(cli, prior, image, tmp_path):
    (tmp_path / "pictures.toml").write_text(IMAGES.format(prior=prior))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.png").write_bytes(image.read_bytes())
    assert cli("study", "run", "pictures.toml", "--out", "out", "--set", "problems.data=./data").code == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    cli("study", "report", "out").assert_mistake("there is no", "--set problems.data=PATH")
    result = cli("study", "report", "out", "--set", "problems.data=moved", "--panels", "panels", "--images", 1)
    assert result.code == 0
    assert "chi_square, box / 1" in result.out
    assert [path.name for path in (tmp_path / "panels").iterdir()] == ["box-1.png"]
    page = cli("study", "report", "out", "--set", "problems.data=moved", "--html").out
    assert page.count("data:image/png;base64,") == 2
    assert cli("study", "status", "out", "--set", "problems.data=moved", "--json").json["done"] == 1


def test_device_that_is_not_there_is_refused(cli, study):
    cli("study", "run", study, "--device", "abacus").assert_mistake("the device abacus", "available here: cpu")
    cli("study", "run", study, "--device", "meta").assert_mistake("computes on the CPU only")


def start(study, *argv, cwd):
    words = [sys.executable, "-m", "midguide", "study", "run", str(study), *argv]
    return subprocess.Popen(words, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def slow(study: Path, count: int) -> None:
    """More and longer units, so that a signal finds some of them unfinished: some 50 ms each."""
    text = study.read_text().replace("count = 3", f"count = {count}").replace("steps = 4", "steps = 300")
    study.write_text(text)


def units(folder: Path) -> set[str]:
    return {path.name for path in (folder / "units").glob("[!.]*.parquet")}


def wait_for(condition, process: subprocess.Popen | BaseProcess) -> None:
    deadline = time.monotonic() + 60
    while not condition() and (process.poll() if isinstance(process, subprocess.Popen) else process.exitcode) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def report_without_seconds(cli, folder: Path) -> list[dict]:
    rows = cli("study", "report", folder, "--json").json
    for row in rows:
        del row["seconds"]
    return rows


@pytest.mark.parametrize(
    ("workers", "kills", "count"), [("1", 2, 8), ("2", 1, 8), pytest.param("2", 10, 30, marks=pytest.mark.slow)]
)
def test_killed_study_goes_on_with_the_same_rows(cli, study, tmp_path, workers, kills, count):
    slow(study, count)
    cli("study", "run", study, "--out", "whole")
    before = 0
    for _ in range(kills):
        process = start(study, "--out", "out", "--workers", workers, cwd=tmp_path)
        wait_for(lambda before=before: len(units(tmp_path / "out")) > before, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before = len(units(tmp_path / "out"))
    assert cli("study", "status", "out", "--json").json["damaged"] == 0
    assert f"{before} done" in cli("study", "run", study, "--out", "out").err
    assert units(tmp_path / "out") == units(tmp_path / "whole")
    assert report_without_seconds(cli, "out") == report_without_seconds(cli, "whole")


def draws(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (folder / "samples").glob("[!.]*/samples.safetensors")}


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_rows_and_draws_of_an_uninterrupted_study(cli, study, tmp_path):
    """300 units of some 10 ms, of which writing is a third; runs are forked from a process that has torch in memory.

    A run is killed up to 30 ms after it has added up to 28 units: while it starts, draws or writes. That is counted in
    units, so that on a machine of any speed there are ten kills before the study is complete.
    """
    study.write_text(study.read_text().replace("count = 3", "count = 150"))
    context = get_context("forkserver")
    context.set_forkserver_preload(["midguide.studies.engine.execute", "midguide.cli.commands.study"])
    threads = str(torch.get_num_threads())  # which decide the last bits of draws
    words = ["--threads", threads, "study", "run", str(study), "--set", "keep_samples=true", "--out"]
    rng = np.random.default_rng(1)
    before = 0
    for more, delay in zip(rng.integers(0, 29, size=10), rng.uniform(0, 0.03, size=10), strict=True):
        process = context.Process(target=main, args=([*words, str(tmp_path / "out")],))
        process.start()
        wait_for(lambda least=before + more: len(units(tmp_path / "out")) >= least, process)
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        before = len(units(tmp_path / "out"))
        if before:
            assert cli("study", "status", "out", "--json").json["damaged"] == 0
    assert 0 < before < 300
    assert f"{before} done, 0 failed" in cli(*words, "out").err
    cli(*words, "whole")
    assert units(tmp_path / "out") == units(tmp_path / "whole")
    assert len(draws(tmp_path / "whole")) == 300
    assert draws(tmp_path / "out") == draws(tmp_path / "whole")
    assert report_without_seconds(cli, "out") == report_without_seconds(cli, "whole")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupt_exits_with_130_and_says_how_to_go_on(study, tmp_path, workers):
    slow(study, 30)
    process = start(study, "--out", "out", "--workers", workers, cwd=tmp_path)
    wait_for(lambda: len(units(tmp_path / "out")) > 0, process)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted; repeat the same command to go on"
    assert "Traceback" not in err


def test_a_study_says_what_auto_chose_for_each_problem(cli, study):
    study.write_text(STUDY.replace('"ddrm:paper"', '"auto"'))
    said = " ".join(cli("study", "run", study, "--out", "out").err.split())
    assert said.count("DDRM on dx = 2: matheron, 4 steps; for a prior with moments in closed form") == 1
