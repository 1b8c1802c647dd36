"""The prepared run on a GPU (benchmarks/gpu.sh), in miniature on the CPU: it ends in time, goes on, is joined."""

import json
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import torch

from midguide.data.images import save_png
from midguide.priors.loading import load_prior

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = """
batch = 4
warmup = 2
[network]
channels = 32
multipliers = [1, 2]
blocks = 1
attention = [1]
patch = 2
"""


@pytest.fixture
def gpu_train(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_train

    return gpu_train


@pytest.fixture
def faces(tmp_path):
    """Three zip files of images of 16x16, and a small recipe."""
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name in ("train", "val", "test"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for number, image in enumerate(images):
                save_png(tmp_path / "one.png", image)
                archive.write(tmp_path / "one.png", f"{number:02}.png")
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


def call(gpu_train, faces, seconds, *more):
    """One call of the training with so many seconds for everything; how long it took."""
    words = ["train", str(faces), "--work", str(faces / "work"), "--out", str(faces / "out")]
    words += ["--recipe", str(faces / "small.toml"), "--seconds", str(seconds), "--reserve", "0", "--samples", "8"]
    words += ["--steps", "2", "--set", "batch=4", "--set", "bfloat16=false", *more]
    started = time.monotonic()
    gpu_train.main(words)
    return time.monotonic() - started


def test_the_prepared_training_goes_on_and_its_parts_become_a_prior(gpu_train, faces, monkeypatch):
    call(gpu_train, faces, 1.0)
    log = [json.loads(line) for line in (faces / "out/log.jsonl").read_text().splitlines()]
    assert log[-1]["seconds"] < 5  # it had one second, and ends before the step that would be late
    call(gpu_train, faces, 1.0)
    longer = [json.loads(line) for line in (faces / "out/log.jsonl").read_text().splitlines()]
    assert longer[: len(log)] == log
    assert longer[-1]["step"] > log[-1]["step"]
    words = ["--recipe", str(faces / "small.toml"), "--faces", str(faces), "--out", str(faces / "joined")]
    gpu_train.main(["join", str(faces / "out"), *words])
    prior = load_prior(faces / "joined/faces-64.safetensors")
    assert prior.event_shape == (3, 16, 16)
    card = json.loads((faces / "joined/faces-64.json").read_text())
    assert card["quality"]["samples"] == 8
    assert card["loss"][-1]["step"] == longer[-1]["step"]


def test_parts_are_as_small_as_asked_and_hold_all_weights(gpu_train, tmp_path):
    weights = {f"layer{number}": torch.randn(100 + number) for number in range(20)}
    paths = gpu_train.write_parts(weights, tmp_path, most=1000)
    assert all(path.stat().st_size < 1000 + 800 for path in paths)  # the header of a file comes on top
    assert len(paths) > 4
    read = gpu_train.read_parts(tmp_path)
    assert all(torch.equal(read[name], value.bfloat16().float()) for name, value in weights.items())


def test_speed_is_measured_row_by_row_until_the_time_is_up_and_goes_on_after_the_rows_that_are_there(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_speed

    chosen = [case for case in gpu_speed.cases(small=True) if case.network == "tiny"][:2]
    monkeypatch.setattr(gpu_speed, "cases", lambda small: iter(chosen))
    gpu_speed.run(tmp_path, 0.0, small=True)
    assert not (tmp_path / "speed.jsonl").exists()
    for _ in range(2):
        gpu_speed.run(tmp_path, 60.0, small=True)
    rows = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [(row["network"], row["sampler"], row["batch"]) for row in rows] == [
        ("tiny", "dps", 2),
        ("tiny", "mgps", 2),
    ]
    assert gpu_speed.table(tmp_path).count("| 1.00 |") == 2  # fp32 beside itself
    assert all(row["seconds_per_sample"] > 0 and row["ratio"] > 0.5 and "error" not in row for row in rows)


def test_a_row_that_does_not_end_in_time_is_given_up(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_speed

    monkeypatch.setattr(gpu_speed, "prior_of", lambda *words, **settings: None)
    monkeypatch.setattr(gpu_speed, "measure", lambda *words: time.sleep(60))
    started = time.monotonic()
    gpu_speed.run(tmp_path, 0.5, small=True)
    assert time.monotonic() - started < 10
    assert not (tmp_path / "speed.jsonl").exists()


def test_every_sampler_is_measured_on_every_network_and_no_row_comes_twice(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_speed

    cases = list(gpu_speed.cases(small=False))
    assert len(cases) == len(set(cases))
    found = {(case.network, case.batch, case.sampler) for case in cases}
    networks = ("faces-64", "ffhq-256", "imagenet-256")
    assert found == {(n, batch, name) for n in networks for batch in (1, 16, 64) for name in gpu_speed.SAMPLERS}
    assert {case.mode for case in cases[:4]} == set(gpu_speed.MODES)  # the goals first


def test_the_script_names_its_modes():
    result = subprocess.run(
        [BENCHMARKS / "gpu.sh", "fly"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert result.returncode == 2
    assert "unknown mode fly" in result.stderr
