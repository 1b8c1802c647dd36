"""Draws on disk: those of memory, to the bit, whatever interrupts them; and summaries that need no memory for all."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from midguide import Problem, Samples, make_sampler, sample
from midguide.errors import CheckpointError, ConfigError, DataError
from midguide.inference import stored
from midguide.inference.stored import StoredSamples
from midguide.operators import Identity
from midguide.priors import Gaussian
from midguide.priors.wrapped import Wrapped
from midguide.samplers.base import SAMPLERS
from midguide.signals.base import Axis, Signal
from midguide.testing.pieces import latents, vectors

pytest.importorskip("zarr")
DPS = make_sampler("dps", {"steps": 6})
NAMES = ("draws.zarr", "draws.nc")


class Interrupts:
    """Ends a run at its k-th step."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.left, self.error, self.begun = at, error, -1

    def start(self, total, done):
        self.begun = done

    def step(self, event):
        self.left -= 1
        if self.left == 0:
            raise self.error("pulled the plug")

    def stop(self):
        pass


def assert_same(found: StoredSamples, want: Samples) -> None:
    got = found.load()
    assert torch.equal(got.draws, want.draws)
    for name in ("log_weight", "log_evidence"):
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    assert got.signs.keys() == want.signs.keys()
    assert all(torch.equal(got.signs[name], value) for name, value in want.signs.items())
    assert got.tensors.keys() == want.tensors.keys()
    assert all(torch.equal(got.tensors[name], value) for name, value in want.tensors.items())
    assert (got.record, got.group) == (want.record, want.group)
    assert (got.cost.network_forwards, got.cost.network_vjps) == (want.cost.network_forwards, want.cost.network_vjps)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("spec", "problem"), [("dps", vectors), ("tds", vectors), ("mmps", vectors), ("mgps", vectors), ("dps", latents)]
)
def test_the_draws_on_disk_are_those_in_memory(spec, problem, name, tmp_path):
    sampler, asked = SAMPLERS.make(spec, {"steps": 5}), problem()
    n, chunk = 3 * sampler.needs.group, 2 * sampler.needs.group  # a chunk holds samples of two observations
    want = sample(sampler, asked, n, chunk=chunk)
    found = sample(sampler, asked, n, chunk=chunk, out=tmp_path / name)
    assert_same(found, want)
    assert os.listdir(tmp_path) == [name]
    again = Samples.open(tmp_path / name)
    assert torch.equal(again.draws[1, :2], want.draws[1, :2])
    assert [one.draws.shape[0] for one in again.each()] == [1] * len(want.draws)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [3, 6, 7, 20])
def test_an_interrupted_stream_goes_on_to_the_same_bits(name, at, tmp_path):
    problem, out = vectors(), tmp_path / name
    want, watch = sample(DPS, problem, 4, chunk=2), Interrupts(at)
    with pytest.raises(KeyboardInterrupt):
        sample(DPS, problem, 4, chunk=2, out=out, observers=[watch])
    with pytest.raises(CheckpointError, match="is not complete"):
        Samples.open(out)
    found = sample(DPS, problem, 4, chunk=2, out=out, observers=[watch])
    assert watch.begun == at - 1
    assert_same(found, want)
    assert_same(sample(DPS, problem, 4, chunk=2, out=out, observers=[Interrupts(1)]), want)  # which draws nothing


KILLED = """
import os, signal, sys
from midguide import make_sampler, sample
from midguide.testing.pieces import vectors
class Kill:
    left = 15
    def start(self, total, done): pass
    def stop(self): pass
    def step(self, event):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sample(make_sampler("dps", {"steps": 6}), vectors(), 4, chunk=2, out=sys.argv[1], observers=[Kill()])
"""


def test_a_killed_process_loses_no_finished_chunk_and_no_lock(tmp_path):
    out = tmp_path / "draws.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert done.returncode == -9
    watch = Interrupts(1000)
    with (tmp_path / "draws.zarr.progress" / "rows.jsonl").open("a") as file:
        file.write('{"rows": [4, ')  # as if it had been cut off while it was written
    found = sample(DPS, vectors(), 4, chunk=2, out=out, observers=[watch])
    assert watch.begun == 10  # two chunks of five steps
    assert_same(found, sample(DPS, vectors(), 4, chunk=2))


@pytest.mark.parametrize("damage", ["rows", "sums", "list", "nested"])
def test_damaged_progress_does_not_become_other_draws(damage, tmp_path):
    out = tmp_path / "draws.zarr"
    with pytest.raises(KeyboardInterrupt):
        sample(DPS, vectors(), 4, chunk=1, out=out, observers=[Interrupts(9)])
    file = tmp_path / "draws.zarr.progress" / ("rows.jsonl" if damage in ("rows", "sums") else "run.json")
    text = file.read_text()
    other = {"rows": text.replace("[0, 1]", "[0, 3]"), "sums": text.replace('"vjps": ', '"vjps": 1')}
    file.write_text(other.get(damage) or ("[]" if damage == "list" else "[" * 100_000))
    assert file.read_text() != text
    with pytest.raises(CheckpointError, match="is damaged|cannot be read"):
        sample(DPS, vectors(), 4, chunk=1, out=out)
    before = [json.loads(line) for line in text.splitlines()]
    if damage == "rows":  # as earlier versions wrote it
        file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "sha256"}) + "\n" for row in before))
        assert_same(sample(DPS, vectors(), 4, chunk=1, out=out), sample(DPS, vectors(), 4, chunk=1))


def test_several_devices_write_the_same_store(tmp_path):
    want = sample(DPS, vectors(), 5, chunk=1)
    assert_same(sample(DPS, vectors(), 5, chunk=1, devices=["cpu", "cpu"], out=tmp_path / "draws.zarr"), want)


class Fails(Wrapped):
    """A denoiser whose eighth answer, in the second chunk, is not a number."""

    calls = 0

    def __call__(self, x, t):
        self.calls += 1
        return self.inner(x, t) * (math.nan if self.calls == 8 else 1.0)

    def record(self):
        return self.inner.record()


def test_draws_that_failed_are_set_aside_in_the_store_too(tmp_path):
    problem = vectors()
    want = sample(DPS, replace(problem, denoiser=Fails(problem.denoiser)), 4, chunk=1)
    found = sample(DPS, replace(problem, denoiser=Fails(problem.denoiser)), 4, chunk=1, out=tmp_path / "draws.zarr")
    assert [place[:2] for place in want.record["failed"]] == [[0, 1]]
    assert want.record["remarks"]
    assert torch.equal(found.draws[0, 1], want.draws[0, 0])
    assert_same(found, want)


def test_two_writers_on_one_stream_are_refused(tmp_path):
    out, seen = tmp_path / "draws.zarr", []

    class Second(Interrupts):
        def step(self, event):
            if not seen:
                with pytest.raises(DataError, match="another process is writing") as error:
                    sample(DPS, vectors(), 2, out=out)
                seen.append(str(error.value))

    want = sample(DPS, vectors(), 2)
    assert_same(sample(DPS, vectors(), 2, out=out, observers=[Second(9)]), want)
    assert seen[0].count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_another_run_does_not_touch_the_draws(name, tmp_path):
    out = tmp_path / name
    sample(DPS, vectors(), 2, out=out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for change, words in (({"seed": 1}, "`seed` was 0, is 1"), ({"n": 3}, "`n` was 2, is 3")):
        with pytest.raises(CheckpointError, match=f"belongs to another run: {words}"):
            sample(DPS, vectors(), **({"n": 2} | change), out=out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_loses_nothing(name, tmp_path):
    """The limit on the size of a file stands for the disk: a larger piece of the store is refused."""
    problem = Problem.simulate(Gaussian(torch.zeros(5000), 1.0), Identity(), torch.zeros(1, 5000), sigma_y=0.5)
    sampler, out = make_sampler("ddnm", {"steps": 3}), tmp_path / name
    want = sample(sampler, problem, 40, chunk=4)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        with pytest.raises(DataError, match=f"cannot write .*{name}.*File too large") as error:
            sample(sampler, problem, 40, chunk=4, out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value).count("\n") == 1
    assert_same(sample(sampler, problem, 40, chunk=4, out=out), want)


@pytest.mark.parametrize("reason", ["folder", "file", "suffix", "checkpoint", "parent"])
def test_a_target_that_cannot_be_is_refused_in_one_line(reason, tmp_path):
    out, options = tmp_path / "draws.zarr", {}
    if reason == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("kept")
    elif reason == "file":
        out = tmp_path / "draws.nc"
        out.write_text("kept")
    elif reason == "suffix":
        out = tmp_path / "draws.h5"
    elif reason == "parent":
        (tmp_path / "plain").write_text("kept")
        out = tmp_path / "plain" / "draws.zarr"
    else:
        options = {"checkpoint": tmp_path / "run.progress"}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises((CheckpointError, ConfigError, DataError)) as error:
        sample(DPS, vectors(), 2, out=out, **options)
    assert str(error.value).count("\n") == 1
    assert error.value.hint
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_the_disk_cannot_hold_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(DataError, match="are free"):
        sample(DPS, vectors(), 100, out=tmp_path / "draws.zarr")


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_refused(name, tmp_path):
    out = tmp_path / name
    problem = Problem.simulate(Gaussian(torch.zeros(50), 1.0), Identity(), torch.zeros(1, 50), sigma_y=0.5)
    found = sample(make_sampler("ddnm", {"steps": 3}), problem, 40, out=out)
    bits = found.draws[:].numpy().tobytes()[400:4000]
    files = [path for path in [out, *out.rglob("*")] if path.is_file() and bits in path.read_bytes()]
    (file,) = files
    content = bytearray(file.read_bytes())
    content[content.index(bits) + 7] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Samples.open(out).mean()


@pytest.fixture
def weighted(tmp_path):
    """Weighted samples of two observations, in memory and on disk."""
    sampler = SAMPLERS.make("tds", {"steps": 6})
    n = 6 * sampler.needs.group
    want = sample(sampler, vectors(), n)
    return want, sample(sampler, vectors(), n, out=tmp_path / "draws.zarr")


def test_statistics_block_by_block_are_those_of_all_draws(weighted, monkeypatch):
    want, found = weighted
    monkeypatch.setattr(stored, "BLOCK", 500)  # 20 draws
    torch.testing.assert_close(found.mean(), want.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.std(), want.std(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.quantiles([0.1, 0.5]), want.quantiles([0.1, 0.5]), rtol=1e-5, atol=1e-6)
    assert torch.equal(found.effective_sample_size(), want.effective_sample_size())
    norm = found.average(lambda x: x.square().sum(1))
    weights = want.weights()
    assert weights is not None
    torch.testing.assert_close(norm, (weights * want.draws.square().sum(2)).sum(1), rtol=1e-5, atol=1e-6)


def test_resampled_draws_and_those_of_one_observation_are_those_in_memory(weighted, tmp_path):
    want, found = weighted
    found.read_through()
    for n in (None, 3):
        one, other = found.resampled(n), want.resampled(n)
        assert torch.equal(one.draws, other.draws)
        assert one.record == other.record
        assert {name: value.tolist() for name, value in one.tensors.items()} == {
            name: value.tolist() for name, value in other.tensors.items()
        }
    found.extract(1, tmp_path / "second.zarr", {"name": "second"})
    second, each = StoredSamples.open(tmp_path / "second.zarr"), want.each()[1]
    assert_same(second, replace(each, record={**each.record, "name": "second"}))
    assert second.resampled().record == replace(each, record=second.record).resampled().record


def test_quantiles_of_many_draws_come_from_a_digest(tmp_path, monkeypatch):
    prior = Gaussian(torch.zeros(7), 1.0)
    problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.5)
    found = sample(make_sampler("ddnm", {"steps": 3}), problem, 3000, stream_size=1000, out=tmp_path / "draws.zarr")
    levels = [0.01, 0.25, 0.5, 0.975]
    want = found.quantiles(levels)
    monkeypatch.setattr(stored, "EXACT", 0)
    monkeypatch.setattr(stored, "BLOCK", 7 * 4 * 300)
    monkeypatch.setattr(stored, "ENTRIES", 3)
    ranks = (found.draws[:] < found.quantiles(levels)[:, :, None]).double().mean(2)
    for level, rank in zip(levels, ranks, strict=True):
        assert (rank - level).abs().max() < torch.pi * (level * (1 - level)) ** 0.5 / 200
    assert want.shape == ranks.shape


def test_axes_have_the_names_of_the_field(tmp_path):
    prior = Gaussian(torch.zeros(2, 5), 1.0)
    axes = (Axis(name="lead", labels=("I", "II")), Axis(name="time", unit="s", rate=100.0))
    prior.signal = Signal(axes=axes)
    problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.5)
    sampler = make_sampler("ddnm", {"steps": 3})
    memory = sample(sampler, problem, 4)
    for name in NAMES:
        for data in (memory.to_xarray(), sample(sampler, problem, 4, out=tmp_path / name).to_xarray()):
            assert data.draws.dims == ("observation", "draw", "lead", "time")
            assert data.lead.values.tolist() == ["I", "II"]
            assert data.time.values.tolist() == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])
            assert torch.equal(torch.from_numpy(data.draws.values), memory.draws)
            one = data[["draws"]].isel(observation=0).expand_dims("chain")
            assert one.draws.dims == ("chain", "draw", "lead", "time")  # as ArviZ reads it
            assert json.loads(data.attrs["midguide"])["record"]["n"] == 4
            data.close()


MEMORY = """
import sys, torch
from midguide import Problem, make_sampler, sample
from midguide.inference.cost import used_memory
from midguide.operators import Identity
from midguide.priors import Gaussian
from midguide.priors.wrapped import Wrapped
prior = Gaussian(torch.zeros(1000), 1.0)
problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.5)
options = dict(chunk=500, stream_size=100, seed=0)
sampler, peaks = make_sampler("ddnm", {"steps": 2}), []
for n in map(int, sys.argv[2:]):
    found = sample(sampler, problem, n, out=f"{sys.argv[1]}/{n}.zarr", **options)
    found.mean(), found.std()
    peaks.append(used_memory(torch.device("cpu")).peak / 2**20)
print(*peaks)
"""


def peaks(folder: Path, *counts: int) -> list[float]:
    """Peak memory of a process after streams of so many draws of 4,000 bytes, in MiB.

    Two arenas: glibc gives each of Zarr's threads one, each of which keeps a freed block or so. Blocks of 256 KiB or
    more go back to the system at once: glibc would otherwise keep ever larger ones, some 50 MiB for 100,000 draws.
    """
    command = [sys.executable, "-c", MEMORY, str(folder), *map(str, counts)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_draws(tmp_path):
    few, many = peaks(tmp_path, 8_000, 40_000)  # the threads of Zarr keep some 50 MiB, more or less
    assert many - few < 80  # the draws are 160 MB, 128 MB more


@pytest.mark.slow
def test_memory_of_a_stream_of_100_000_draws_is_flat(tmp_path):
    few, many = peaks(tmp_path, 10_000, 100_000)
    assert many - few < 20  # the draws are 400 MB
