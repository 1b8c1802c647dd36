"""A command that is killed at any moment ends, when repeated, as one that was not; nor does a disk make it lie.

The commands run in forks of this process, which have imported everything, and are killed at moments drawn at random
from the time that the whole command takes. `test_thirty_moments` does so for thirty moments of each signal.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from midguide.cli import main
from midguide.data.images import save_png
from midguide.training import jobs

FORK = multiprocessing.get_context("fork")
RECIPE = """
name = "tiny"
steps = 12
batch = 4
checkpoint_every = 3
bfloat16 = false
[network]
channels = 32
multipliers = [1]
blocks = 1
attention = []
patch = 4
"""
STUDY = """
[study]
name = "tiny"
samples = 8
metrics = ["sliced_wasserstein_1[slices=100]"]
[[problems]]
kind = "mixture"
label = "two"
dimension = 2
seeds = { first = 0, count = 4 }
[[samplers]]
spec = "dps"
settings = { steps = 20, guidance = 0.1 }
"""


def child(words: list[str], folder: Path) -> None:
    """Run a command in a folder; its output goes to files there."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder.with_name(f"{folder.name}.{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))  # pytest has replaced them
    os._exit(main(words))


def start(words: list[str], folder: Path) -> multiprocessing.Process:
    process = FORK.Process(target=child, args=(words, folder))
    process.start()
    return process  # pyright: ignore[reportReturnType]


def said(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.stderr").read_text()


def samples_of(folder: Path) -> object:
    """What does not depend on the clock of a reconstruction."""
    files = [folder / "out" / name for name in ("samples.safetensors", "mean.png")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def weights_of(folder: Path) -> object:
    return hashlib.sha256((folder / "out/tiny.safetensors").read_bytes()).hexdigest()


def rows_of(folder: Path) -> object:
    files = sorted((folder / "out/units").glob("*.parquet"))
    return [pq.read_table(file, columns=["address", "metric", "value"]).to_pylist() for file in files]


@pytest.fixture
def commands(tmp_path: Path, prior: Path, image: Path, monkeypatch) -> dict[str, tuple[list[str], Callable]]:
    monkeypatch.setattr(jobs, "PICTURE_STEPS", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("midguide.cli.output.use_threads", lambda context: None)  # a fork keeps the one of its parent
    torch.set_num_threads(1)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "images").mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        save_png(tmp_path / f"images/{i}.png", torch.rand(3, 8, 8, generator=generator), (0, 1))
    out = ["--out", "out"]
    drawn = ["--operator", "box-inpainting", "--prior", str(prior), "--sampler", "dps", "--steps", "20"]
    return {
        "reconstruct": (["reconstruct", str(image), *drawn, "--samples", "2", *out], samples_of),
        "train": (["train", str(tmp_path / "recipe.toml"), "--data", str(tmp_path / "images"), *out], weights_of),
        "study": (["study", "run", str(tmp_path / "study.toml"), *out], rows_of),
    }


def check_moments(
    command: tuple[list[str], Callable], folder: Path, moments: int, signals: list[int], *, every: float = 0.0
) -> list[int]:
    """Kill a command at moments drawn at random, repeat it, and compare; returns the exit codes of the killed."""
    words, result = command
    (folder / "whole").mkdir(parents=True)
    before = time.monotonic()
    whole = start(words, folder / "whole")
    whole.join()
    seconds = time.monotonic() - before
    assert whole.exitcode == 0, said(folder / "whole")
    want, rng, codes = result(folder / "whole"), random.Random(0), []
    for moment in range(moments):
        for number in signals:
            place = folder / f"{number}-{moment}"
            place.mkdir()
            process = start(words, place)
            time.sleep(rng.uniform(0.0, seconds))
            os.kill(process.pid or 0, number)
            process.join()
            codes.append(process.exitcode)
            allowed = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, 1}}[
                signal.Signals(number)
            ]
            assert process.exitcode in allowed | {0}, said(place)
            again = start(words, place)
            again.join()
            assert again.exitcode == 0, said(place)
            assert result(place) == want
            shutil.rmtree(place)
    return codes


@pytest.mark.parametrize("name", ["reconstruct", "train", "study"])
def test_a_command_killed_at_any_moment_ends_alike_when_repeated(name: str, commands, tmp_path: Path) -> None:
    check_moments(commands[name], tmp_path / "runs", 1, [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])


def test_a_training_in_the_background_of_a_shell_keeps_its_steps_when_terminated(commands, tmp_path: Path) -> None:
    """Such a process ignores SIGINT from its start."""
    words = [*commands["train"][0], "--set", "steps=1000000", "--set", "checkpoint_every=1000000"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run.stderr").touch()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(words, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    while process.is_alive() and "a step takes about" not in said(tmp_path / "run"):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143, said(tmp_path / "run")
    assert torch.load(tmp_path / "run/out/checkpoint.pt", weights_only=True)["step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["reconstruct", "train", "study"])
def test_thirty_moments(name: str, number: int, commands, tmp_path: Path, capsys) -> None:
    words, result = commands[name]
    if name == "study":
        words = [*words, "--workers", "2"]
    codes = check_moments((words, result), tmp_path / "runs", 30, [number])
    with capsys.disabled():
        print(f"\n{name}, signal {number}: 30 moments, exit codes {[(c, codes.count(c)) for c in sorted({*codes})]}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reconstruct", "study"])
def test_two_processes_in_one_folder_end_as_one(name: str, commands, tmp_path: Path) -> None:
    words, result = commands[name]
    for place in ("one", "both"):
        (tmp_path / place).mkdir()
    one, *both = start(words, tmp_path / "one"), start(words, tmp_path / "both"), start(words, tmp_path / "both")
    for process in (one, *both):
        process.join()
    assert [process.exitcode for process in (one, *both)] == [0, 0, 0], said(tmp_path / "both")
    assert result(tmp_path / "both") == result(tmp_path / "one")


@pytest.mark.slow
def test_the_second_training_in_a_folder_is_refused_and_the_first_ends(commands, tmp_path: Path) -> None:
    words, _ = commands["train"]
    (tmp_path / "run").mkdir()
    first = start(words, tmp_path / "run")
    while first.is_alive() and not (tmp_path / "run/out/checkpoint.pt").exists():
        time.sleep(0.01)
    os.kill(first.pid or 0, signal.SIGSTOP)
    second = start(words, tmp_path / "run")
    second.join()
    assert second.exitcode == 2
    assert "error: another process is writing into" in said(tmp_path / "run")
    os.kill(first.pid or 0, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0


@pytest.mark.slow
def test_a_folder_deleted_while_a_command_runs_is_made_again_or_missed(commands, tmp_path: Path) -> None:
    results = {"train": "out/checkpoint.pt", "study": "out/units", "reconstruct": "out.progress"}
    for name, sign in results.items():
        words, result = commands[name]
        for place in ("whole", "deleted"):
            (tmp_path / name / place).mkdir(parents=True)
        start(words, tmp_path / name / "whole").join()
        folder = tmp_path / name / "deleted"
        process = start(words, folder)
        while process.is_alive() and not (folder / sign).exists() and name != "reconstruct":
            time.sleep(0.005)
        shutil.rmtree(folder / "out", ignore_errors=True)
        process.join()
        assert process.exitcode in (0, 2), said(folder)
        if process.exitcode == 2:
            errors = [line for line in said(folder).splitlines() if line.startswith("error: ")]
            assert len(errors) == 1  # in the middle of a write, or before it
            assert "have vanished while the study ran" in errors[0] or "cannot write" in errors[0]
            again = start(words, folder)
            again.join()
            assert again.exitcode == 0, said(folder)
        assert result(folder) == result(tmp_path / name / "whole")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a file system of its own; needs root and Linux."""
    places: list[Path] = []

    def mount(*words: str) -> Path:
        place = tmp_path / f"mount-{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no `mount`")
@pytest.mark.parametrize("name", ["reconstruct", "train", "study"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(name: str, commands, mounted, tmp_path: Path) -> None:
    place = mounted("-t", "tmpfs", "-o", "size=8k", "none")
    words = [str(place / "out") if word == "out" else word for word in commands[name][0]]
    (tmp_path / "run").mkdir()
    process = start(words, tmp_path / "run")
    process.join()
    lines = said(tmp_path / "run").splitlines()
    assert process.exitcode == 2, lines
    assert [line for line in lines if line.startswith("error: ")] == [line for line in lines if "No space left" in line]
    assert not any(line.startswith("Traceback") for line in lines)
    left = [path for path in place.rglob("*") if path.is_file()]
    for path in left:
        assert path.name in ("study.json", "log.jsonl", "out.progress") or path.suffix == ".parquet", left
    for path in place.rglob("study.json"):
        assert json.loads(path.read_text())["midguide-study"] == 1


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no `mount`")
@pytest.mark.parametrize("name", ["reconstruct", "train", "study"])
def test_a_folder_that_is_read_only_is_refused_before_anything_runs(name: str, commands, mounted, tmp_path) -> None:
    place = mounted("-t", "tmpfs", "-o", "ro,size=64k", "none")
    words = [str(place / "out") if word == "out" else word for word in commands[name][0]]
    (tmp_path / "run").mkdir()
    process = start(words, tmp_path / "run")
    process.join()
    assert process.exitcode == 2
    errors = [line for line in said(tmp_path / "run").splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"cannot write to {place}: Read-only file system" in errors[0]
