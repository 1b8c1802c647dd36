"""The gate for files from outside: what it opens, what it refuses, and in which words."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy_format

from midguide import load_prior, make_operator, make_sampler
from midguide.data.images import load_image_set
from midguide.domains.ecg.recordings import load_recording
from midguide.errors import ConfigError, DataError, MidguideError
from midguide.inference.samples import Samples
from midguide.known.finite_sample import finite_sample
from midguide.storage.outside import Outside, afford, array_of, arrays_of, memory_budget, plain_name
from midguide.studies.spec.study import load_study
from midguide.training.base import load_recipe

TABLE = Outside("table", "write it again", limit=1000)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    return path


def test_regular_files_and_links_to_them_are_read(table: Path) -> None:
    link = table.with_name("link")
    link.symlink_to(table)
    assert TABLE.json(table) == TABLE.json(link) == {"a": 1}


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {tmp_path: "is a folder", tmp_path / "pipe": "a pipe", tmp_path / "broken": "is a broken link"}
    places |= {Path("/dev/zero"): "a device", tmp_path / "none": "does not exist", tmp_path / "loop": "symbolic"}
    for path, words in places.items():
        for look in (TABLE.read, TABLE.check):
            with pytest.raises(DataError, match=words) as caught:
                look(path)
            assert caught.value.hint, path
    with pytest.raises(DataError, match="null"):
        TABLE.read("a\0b")


def test_a_file_over_the_limit_is_not_read(table: Path) -> None:
    os.truncate(table, 2**40)  # sparse: it has no content
    with pytest.raises(DataError, match="1,024.0 GiB, more than 1,000 bytes"):
        TABLE.read(table)


def test_damage_is_one_error_with_the_hint(table: Path) -> None:
    for content in (b"{", b"\xff\xfe", b"[" * 900):
        table.write_bytes(content)
        with pytest.raises(DataError, match=r"^table .*a\.json cannot be read: .*\nhint: write it again$"):
            TABLE.json(table)
    table.write_bytes(b"a = [")
    with pytest.raises(DataError, match="cannot be read"):
        TABLE.toml(table)


def test_a_deep_nesting_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(DataError, match="recursion"):
        Outside("table").json(path)


def npy(array: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), array)
    return buffer.getvalue()


def test_an_array_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3, dtype=np.int16)), np.zeros((0, 3))):
        (tmp_path / "a.npy").write_bytes(npy(array))
        read = TABLE.array(tmp_path / "a.npy")
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)


@pytest.mark.parametrize("shape", [(2, 31), (10**6, 10**6, 10**6), (-2, 30), (2**40, 0, 1)])
def test_a_header_that_promises_more_than_there_is_allocates_nothing(shape: tuple[int, ...]) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(buffer := io.BytesIO(), header)
    content = buffer.getvalue() + bytes(60 * 8)
    if 0 in shape:
        assert array_of(io.BytesIO(content), len(content)).shape == shape
        return
    with pytest.raises(ValueError, match="promises"):
        array_of(io.BytesIO(content), len(content))


def test_every_flipped_bit_of_an_array_header_is_an_array_or_damage(tmp_path: Path) -> None:
    content, path, refused = npy(np.zeros((2, 3))), tmp_path / "a.npy", []
    for place in range(80):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                TABLE.array(path)
            except DataError as error:
                refused.append(error)
    assert len(refused) > 200
    assert all(error.message.isprintable() and error.hint for error in refused)


def test_other_files_named_npy_are_told_by_their_start(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.eye(2))
    with pytest.raises(DataError, match="it is an archive, such as .npz"):
        TABLE.array(tmp_path / "a.npz")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        TABLE.array(tmp_path / "o.npy")


def test_archives_are_read_member_by_member(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.eye(2), b=np.arange(3))
    found = arrays_of(TABLE, tmp_path / "a.npz")
    assert np.array_equal(found["a"], np.eye(2))
    assert np.array_equal(found["b"], np.arange(3))


@pytest.mark.parametrize("kind", ["flipped", "encrypted", "method", "large", "cut"])
def test_a_damaged_archive_is_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "large" else zipfile.ZIP_STORED) as archive:
        archive.writestr("x", b"x" * 2000 if kind == "large" else b"x" * 100)
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    match kind:
        case "flipped":
            content[60] ^= 1
        case "encrypted":
            content[6] |= 1
            content[central + 8] |= 1
        case "method":
            content[8:10] = content[central + 10 : central + 12] = b"\x63\0"
        case "cut":
            content = content[:-10]
    path.write_bytes(content)
    words = {"flipped": "CRC", "encrypted": "is encrypted", "method": "compression", "large": "larger than 1,000 bytes"}
    with pytest.raises(DataError, match=words.get(kind, "no zip file")), TABLE.archive(path) as archive:
        TABLE.member(archive, archive.getinfo("x"))


def test_what_does_not_fit_into_the_budget_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDGUIDE_MEMORY", "0.5")
    assert memory_budget() == 2**29
    afford(2**29, "it")
    with pytest.raises(DataError, match=r"^it needs 1\.0 GiB of memory, there are 512 MiB\nhint: .*MIDGUIDE_MEMORY"):
        afford(2**30, "it")
    for said in ("much", "-1", "nan", "inf", "0"):
        monkeypatch.setenv("MIDGUIDE_MEMORY", said)
        with pytest.raises(ConfigError, match="expected a positive number of GiB"):
            memory_budget()


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", ".hidden", "a/b", "/a", "..\\b", "a\0b", "a\nb", "\x1b[2J", "猫" * 99]
)
def test_names_that_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a file") as caught:
        plain_name(name, "the name")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", ["a", "faces-64", "猫", "a b", "v1.2", "a..b"])
def test_other_names_are_taken(name: str) -> None:
    assert plain_name(name, "the name") == name


NAMED: dict[str, Callable[[str], object]] = {
    "prior": load_prior,
    "recording": load_recording,
    "images": load_image_set,
    "known": lambda name: finite_sample(0, data=name, operator="half-mask"),
    "mask": lambda name: make_operator("mask-file", (1, 8, 8), path=name),
    "sampler": lambda name: make_sampler(f"{name}.py:NAME"),
    "draws": Samples.load,
    "store": Samples.open,
    "recipe": load_recipe,
    "study": load_study,
}


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "a\0b"], ids=["long", "deep", "zero"])
@pytest.mark.parametrize("kind", NAMED)
def test_a_name_that_no_file_can_have_is_one_error(kind, name):
    with pytest.raises(MidguideError) as error:
        NAMED[kind](name)
    assert "\n" not in error.value.message
