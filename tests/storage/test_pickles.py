"""Bombs: files of some kilobytes that unpack to gigabytes, or whose pickles take minutes, are refused at once."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from pathlib import Path

import pytest
import torch

from midguide.errors import CheckpointError
from midguide.nn.kernel_space import load_kernel_space
from midguide.priors.formats.weights import read_weights
from midguide.priors.loading import load_prior
from midguide.storage import pickles
from midguide.storage.pickles import foreign_imports
from midguide.training import checkpoint

FEW = 20_000


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer instructions are too many, to keep these tests short."""
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", FEW)


def archive(path: Path, pickled: bytes, *, times: int = 1, packed: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive as torch writes it, with another pickle, which may repeat."""
    torch.save({"a": torch.zeros(4)}, buffer := io.BytesIO())
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", packed) as made:
        for name in source.namelist():
            with made.open(name, "w") as member:
                for _ in range(times if name.endswith("data.pkl") else 1):
                    member.write(pickled if name.endswith("data.pkl") else source.read(name))
    return path


def test_a_zip_bomb_of_300_kb_is_refused_at_once_by_all_that_reads_checkpoints(tmp_path: Path) -> None:
    path = archive(tmp_path / "checkpoint.pt", b"N0" * 2**20, times=144)
    assert 250_000 < path.stat().st_size < 350_000
    begun = time.process_time()
    for read in (read_weights, load_prior, load_kernel_space, lambda path: checkpoint.read(path, "cpu")):
        with pytest.raises(CheckpointError, match=r"unpacks to 288 MiB, as no checkpoint does\nhint: "):
            read(path)
    with pytest.raises(ValueError, match="its pickle has more than 64 MiB"):
        foreign_imports(path)
    assert time.process_time() - begun < 3  # 0.3 s here; to read it takes minutes


@pytest.mark.usefixtures("few")
def test_instructions_are_counted_in_archives_and_bare_pickles(tmp_path: Path) -> None:
    """Neither is packed: the file is as large as it says, and would still take minutes."""
    content = b"\x80\x02" + b"N0" * 2**19 + b"]\x94" * 2**10
    bare = tmp_path / "bare.pt"
    bare.write_bytes(content)
    for path in (archive(tmp_path / "a.pt", content, packed=zipfile.ZIP_STORED), bare):
        with pytest.raises(CheckpointError, match="more than 20,000 instructions, as no checkpoint has"):
            read_weights(path)
        with pytest.raises(ValueError, match="more than 20,000 instructions"):
            foreign_imports(path)


@pytest.mark.usefixtures("few")
def test_what_a_long_pickle_imports_first_is_found(tmp_path: Path) -> None:
    (tmp_path / "own.pt").write_bytes(b"\x80\x02cposix\nsystem\n" + b"N0" * FEW)
    assert foreign_imports(tmp_path / "own.pt") == ["posix.system"]


def test_real_checkpoints_have_far_fewer_instructions(tmp_path: Path) -> None:
    """A thousand tensors, an optimizer and their averages: what a large training keeps."""
    tensors = {f"blocks.{i}.weight": torch.zeros(2) for i in range(1000)}
    held = {"model": tensors, "ema": dict(tensors), "optimizer": {i: (t, t) for i, t in enumerate(tensors.values())}}
    for name, zipped in (("a.pt", True), ("b.pt", False)):
        torch.save(held, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert sum(1 for _ in pickles.instructions(tmp_path / name)) < pickles.MOST_INSTRUCTIONS / 30


def test_each_pickle_of_a_file_has_a_memo_of_its_own(tmp_path: Path) -> None:
    names = [pickle.dumps(pytest.raises, 4), pickle.dumps([len, len], 4)]
    (tmp_path / "own.pt").write_bytes(b"".join(names))
    assert foreign_imports(tmp_path / "own.pt")[1:] == ["builtins.len"]
