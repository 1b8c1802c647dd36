"""Every reader says what it will take, from headers, and refuses what does not fit before any of it is allocated."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from midguide.data.images import load_gray_images, load_image, load_image_set
from midguide.domains.ecg.recordings import load_recording
from midguide.errors import DataError, MidguideError
from midguide.priors.formats.weights import read_weights
from midguide.storage import pictures
from midguide.storage.outside import Outside, arrays_of

GATE = Outside("file")
COLORS = Image.fromarray(np.arange(500 * 400 * 3).reshape(500, 400, 3).astype(np.uint8))
KINDS = {
    "png": {},
    "jpeg": {"progressive": True, "subsampling": 0},
    "webp": {"lossless": True},
    "bmp": {},
    "gif": {},
    "tiff": {"compression": "tiff_lzw", "tiffinfo": {278: 500}},
    "ppm": {},
    "jpeg2000": {},
    "jpeg2000 in small blocks": {"codeblock_size": (4, 4)},
    "jpeg2000 in tiles": {"tile_size": (64, 64)},
}


def encoded(kind: str, image: Image.Image = COLORS, **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def peak_of_decoding(content: bytes) -> int:
    """Bytes that a fork takes above what it has before."""
    end, begin = os.pipe()
    if os.fork() == 0:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        Image.open(io.BytesIO(content)).load()
        os.write(begin, struct.pack("q", resident("VmHWM") - before))
        os._exit(0)
    os.wait()
    os.close(begin)
    with os.fdopen(end, "rb") as file:
        return struct.unpack("q", file.read())[0]


def resident(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(what))


@pytest.mark.parametrize("name", KINDS)
def test_an_image_takes_no_more_than_its_headers_say(name):
    content = encoded(name.split()[0], **KINDS[name])
    file = io.BytesIO(content)
    stated = pictures._needed(pictures.opened(GATE, file, "x"), file)
    # The fork shares its pages, and each that it writes to counts anew: 4 MiB for those of the interpreter.
    assert peak_of_decoding(content) < stated + 4 * 2**20


def large_canvas() -> bytes:
    """A WebP file whose extended header states 10^8 pixels."""
    side = (9_999).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side


def many_tiles() -> bytes:
    """JPEG 2000 of 16 x 16 pixels whose codestream states another size, in tiles of one pixel."""
    content = bytearray(encoded("jpeg2000", COLORS.resize((16, 16))))
    at = content.index(b"\xff\x4f\xff\x51") + 8
    content[at : at + 32] = struct.pack(">8I", 250, 250, 0, 0, 1, 1, 0, 0)
    return bytes(content)


def large_strip() -> bytes:
    """TIFF of 16 x 16 pixels in tiles that are 10^8 wide."""
    content = encoded("tiff", COLORS.resize((16, 16)), compression="tiff_lzw")
    rows = struct.pack("<2H", 278, 3)
    assert content.count(rows) == 1
    return content.replace(content[(at := content.index(rows)) : at + 12], struct.pack("<2H2I", 322, 4, 1, 10**8))


@pytest.mark.parametrize("made", [large_canvas, many_tiles, large_strip])
def test_what_a_decoder_would_allocate_is_refused_before_it_does(tmp_path, monkeypatch, made):
    monkeypatch.setenv("MIDGUIDE_MEMORY", "0.25")
    (tmp_path / "x.png").write_bytes(made())
    with pytest.raises(DataError, match=r"^image .*x\.png.* needs [\d.,]+ [GM]iB of memory, there are 256 MiB"):
        load_image(tmp_path / "x.png", (3, 16, 16), resize=True)


def test_a_set_of_images_is_refused_by_what_all_of_them_take(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDGUIDE_MEMORY", "0.125")
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(encoded("png", Image.new("L", (1024, 1024), number)))
    with pytest.raises(DataError, match="a set of images up to .*, needs 132 MiB of memory"):
        load_gray_images(tmp_path)
    monkeypatch.setenv("MIDGUIDE_MEMORY", "0.117")  # 40 x 3 MiB
    with pytest.raises(DataError, match="a set of 40 images needs 120 MiB of memory"):
        load_image_set(tmp_path)


def test_a_read_asks_for_no_more_bytes_than_the_file_has(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    with GATE.open(tmp_path / "x") as file:
        assert file.read(2**62) == b"abc"
        assert file.seek(1) == 1
        assert file.read() == b"bc"


def test_members_and_arrays_of_an_archive_are_refused_by_their_sum(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(2**21), b=np.zeros(2**21), c=np.zeros(2**21))
    monkeypatch.setenv("MIDGUIDE_MEMORY", "0.06")
    with pytest.raises(DataError, match=r"x\.npz needs 64 MiB of memory"):  # three of 16 MiB, and one unpacked
        arrays_of(GATE, tmp_path / "x.npz")


def matlab(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def element(kind: int, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return struct.pack("<2I", kind, size) + content + bytes(-len(content) % 8 if kind != 15 else 0)


def array(*, shape: tuple[int, int] = (1, 2), length: int | None = None, kind: int = 6) -> bytes:
    """A matrix of class `kind`, called x, of 16 bytes."""
    dims, name = element(5, struct.pack("<2i", *shape)), element(1, b"x")
    return element(14, element(6, struct.pack("<2I", kind, 0)) + dims + name + element(9, bytes(16), length))


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (array(length=2**31), "an element is longer than the array that holds it"),
        (array(shape=(2**15, 2**15), kind=1), r"an array of shape \(32768, 32768\) has 72 bytes"),
        (array()[:-8], "longer than the file|ends before its length"),
        (element(14, element(14, b"", 2**31)), "longer than the array"),
    ],
    ids=["length", "shape", "cut", "nested"],
)
def test_lengths_and_shapes_in_a_matlab_file_that_do_not_fit_are_refused(tmp_path, made, words, pack):
    packed = element(15, zlib.compress(made)) if pack else made
    (tmp_path / "x.mat").write_bytes(matlab(packed))
    with pytest.raises(DataError, match=f"cannot be read: .*({words})"):
        load_recording(tmp_path / "x.mat", rate_hz=100)


def test_a_matlab_file_is_refused_by_what_it_unpacks_to(tmp_path, monkeypatch):
    savemat(tmp_path / "x.mat", {"ecg": {"data": np.zeros((12, 200_000))}}, do_compression=True)
    assert (tmp_path / "x.mat").stat().st_size < 2**16
    monkeypatch.setenv("MIDGUIDE_MEMORY", "0.05")
    with pytest.raises(DataError, match=r"the file x\.mat needs 73 MiB of memory, there are 51 MiB"):
        load_recording(tmp_path / "x.mat", rate_hz=100)


@pytest.mark.parametrize("place", ["storage", "size"])
def test_a_tensor_larger_than_its_old_checkpoint_is_refused(tmp_path, place):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(300, 7)}, path, _use_new_zipfile_serialization=False)
    assert read_weights(path).last["w"].shape == (300, 7)
    old = {"storage": pickle.BININT2 + struct.pack("<H", 2100), "size": pickle.BININT2 + struct.pack("<H", 300)}[place]
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, pickle.BININT + struct.pack("<i", 2**30)))
    with pytest.raises(MidguideError, match="a tensor in it has more values than the file has bytes"):
        read_weights(path)


def test_memory_is_what_a_limit_of_addresses_leaves():
    code = (
        "import resource; from midguide.storage.machine import available_memory as free; "
        "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); print(0 < free() < 2**29)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("side", "images", "hours", "spare"),
    [(2000, 50, 0.1, 200), pytest.param(9400, 2000, 24.0, 384, marks=pytest.mark.slow)],
)
def test_reading_takes_what_is_needed_and_a_constant(tmp_path, side, images, hours, spare):
    """An image of 88 million pixels, 24 hours: as large as the file says, and stripes of a million pixels at a time."""
    place = Path(__file__).parents[2] / "benchmarks" / "reading.py"
    spec = importlib.util.spec_from_file_location("reading", place)
    spec.loader.exec_module(reading := importlib.util.module_from_spec(spec))
    for row in reading.rows(tmp_path, side, images, hours):
        assert reading.peak_of(row.read) < row.needed / 2**20 + spare, row.name
