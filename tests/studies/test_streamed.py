"""`keep_samples = "zarr"`: draws go to disk as they finish; the rows are those of draws in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from midguide.cli.commands.study import opened
from midguide.inference import stream
from midguide.inference.samples import Samples
from midguide.inference.stored import STORE, StoredSamples
from midguide.studies.engine import units as units_module
from midguide.studies.engine.draws import load_draws
from midguide.studies.sources import sampled
from midguide.web.readers import samples as readers

ZARR = ("--set", 'keep_samples="zarr"')
IN_MEMORY = ("--set", "keep_samples=true")


def rows(folder):
    study, store = opened(Path(folder), None)
    found = [row for unit in study.units for row in store.read(unit) or ()]
    return [{**row, "seconds": 0, "peak_memory_mib": 0} for row in found]


def draws(folder):
    study, store = opened(Path(folder), None)
    return {unit.draws_address: load_draws(unit.draws_address, store.samples) for unit in study.units}


def hidden(folder):
    return [path.name for path in (Path(folder) / "samples").iterdir() if path.name.startswith(".")]


@pytest.fixture
def both(cli, tiny):
    """The tiny study in `memory` and in `stored`, with two units drawn together."""
    for words, out in ((IN_MEMORY, "memory"), (ZARR, "stored")):
        result = cli("study", "run", tiny, "--out", out, *words, "--set", "batch=2")
        assert result.code == 0, result.err


def test_rows_and_draws_are_those_in_memory(cli, both):
    assert rows("stored") == rows("memory")
    assert not hidden("stored")
    kept = draws("memory")
    for address, there in draws("stored").items():
        here = kept[address]
        if isinstance(there, StoredSamples):
            viewed = readers.samples(there.path.parent, 0)
            there = there.load()
            assert viewed is not None
            assert torch.equal(viewed.draws, there.draws[0])
        assert torch.equal(there.draws, here.draws)
        assert {name: value.tolist() for name, value in there.tensors.items()} == {
            name: value.tolist() for name, value in here.tensors.items()
        }
        seconds = "seconds", "peak_memory_mib"
        assert {**vars(there.cost), **dict.fromkeys(seconds)} == {**vars(here.cost), **dict.fromkeys(seconds)}
        assert there.record == here.record
    assert {type(samples) for samples in draws("stored").values()} == {Samples, StoredSamples}  # the exact draws
    again = cli("study", "run", "tiny.toml", "--out", "stored", *ZARR, "--set", "batch=2")
    assert "0 units to run, 6 done" in again.err


def test_stored_draws_are_measured_again_without_sampling(cli, both, monkeypatch):
    monkeypatch.setattr(units_module, "write_draws", None)
    other = ("--set", 'metrics=["mean_error"]', "--set", "batch=2")
    for words, out in ((IN_MEMORY, "memory"), (ZARR, "stored")):
        assert cli("study", "run", "tiny.toml", "--out", out, *words, *other).code == 0
    assert rows("stored") == rows("memory")


def test_a_flipped_bit_costs_a_new_draw(cli, both):
    before = rows("stored")
    file = max(Path("stored").rglob(f"{STORE}/draws/c/**/*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    result = cli("study", "run", "tiny.toml", "--out", "stored", "--rescore", *ZARR)
    assert "not measured" in result.err
    assert "damaged draws" in result.err
    for path in Path("stored/units").iterdir():
        path.unlink()
    assert cli("study", "run", "tiny.toml", "--out", "stored", *ZARR, "--set", "batch=2").code == 0
    assert rows("stored") == before
    assert len(list(Path("stored/samples").glob("*.damaged*"))) == 1


@pytest.mark.usefixtures("same_code")
def test_an_interrupted_unit_goes_on_from_its_last_chunk(cli, tiny, monkeypatch):
    monkeypatch.setattr(sampled, "STREAM_VALUES", 8)  # four draws of each stream, eight in a chunk
    cli("study", "run", tiny, "--out", "whole", *IN_MEMORY)
    write, written = stream.Stream.write, []

    def watched(self, part, *values):
        write(self, part, *values)
        written.append(part)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(stream.Stream, "write", watched)
    assert cli("study", "run", tiny, "--out", "out", *ZARR).code == 130
    assert hidden("out")
    assert cli("study", "run", tiny, "--out", "out", *ZARR).code == 0
    assert not hidden("out")
    assert written == [range(8), range(8, 16)] * 4  # each of them once
    assert rows("out") == rows("whole")


def test_the_extra_is_named_before_anything_is_drawn(cli, tiny, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    result = cli("study", "run", tiny, "--out", "out", *ZARR)
    assert result.code == 2
    assert "midguide[arrays]" in result.err
    assert not Path("out/units").exists()


def test_another_word_is_refused(cli, tiny):
    result = cli("study", "run", tiny, "--set", 'keep_samples="nc"')
    assert result.code == 2
    assert "keep_samples" in result.err
