"""Peak memory of reading large files, beside what is needed: a PNG, a zip of images, a window of a long recording.

    python benchmarks/reading.py

Each is read in a process of its own, a fork of one that has imported everything. Its peak counts from its start.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from midguide.data.images import load_image, load_image_set
from midguide.domains.ecg.formats.base import Said, opened
from midguide.domains.ecg.recordings import Part, load_recording

MIB = 2**20


def peak_of(read: Callable[[], object]) -> float:
    """MiB above its start that a fork of this process takes to read something."""
    end, begin = os.pipe()
    if os.fork() == 0:
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        kept = read()
        os.write(begin, str((_resident("VmHWM") - before) / MIB).encode())
        os._exit(kept is None)
    os.close(begin)
    os.wait()
    with os.fdopen(end) as file:
        return float(file.read())


def apart(make: Callable[[], object]) -> None:
    """Make files in a fork, whose memory does not come back to this process to be used again."""
    if os.fork() == 0:
        make()
        os._exit(0)
    if os.wait()[1]:
        raise SystemExit("the files cannot be made")


def _resident(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(what))


def large_png(path: Path, side: int) -> None:
    """A PNG of side x side colors; rows repeat, so that it is made in seconds."""
    row = np.random.default_rng(0).integers(0, 256, (1, side, 3), np.uint8)
    Image.fromarray(np.broadcast_to(row, (side, side, 3)).copy()).save(path, compress_level=1)


def set_of_images(path: Path, count: int, side: int) -> None:
    """A zip file of PNGs."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            with archive.open(f"{number:05}.png", "w") as file:
                Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG", compress_level=0)


def long_recording(folder: Path, hours: float, rate: int = 250) -> None:
    """A WFDB record of twelve leads: one wave in all, such that the limb leads agree."""
    length, leads = round(3600 * hours * rate), ("I", "II", "III", "aVR", "aVL", "aVF", *(f"V{i}" for i in range(1, 7)))
    factors = np.array([2, 4, 2, -3, 0, 3, 1, 1, 1, 1, 1, 1])
    with open(folder / "r.dat", "wb") as file:
        for first in range(0, length, 2**20):
            wave = np.rint(100 * np.sin(np.arange(first, min(first + 2**20, length)) / 30))
            file.write((wave[:, None] * factors).astype("<i2").tobytes())
    lines = [f"r.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
    (folder / "r.hea").write_text("\n".join([f"r 12 {rate} {length}", *lines, ""]))


class Row(NamedTuple):
    """A file, what reads it, and what is needed: the bytes of the image as Pillow keeps it, and of the result."""

    name: str
    file: str
    read: Callable[[], object]
    needed: float


def rows(folder: Path, side: int, images: int, hours: float) -> list[Row]:
    """Make the files and say how they are read."""
    apart(lambda: large_png(folder / "x.png", side))
    apart(lambda: set_of_images(folder / "set.zip", images, 64))
    apart(lambda: long_recording(folder, hours))
    picture, archive, record = folder / "x.png", folder / "set.zip", folder / "r.hea"
    window = Part(start=100.0, seconds=2.56)
    with opened(record, Said()) as contents:  # the library and what it imports
        contents.read([0], 0, 10)
    small, whole = (3, 64, 64), (3, side, side)
    kept = 4 * side**2
    return [
        Row(f"PNG, {side} x {side}, `--resize`", "x.png", lambda: load_image(picture, small, resize=True), kept),
        Row(f"PNG, {side} x {side}, as it is", "x.png", lambda: load_image(picture, whole), kept + 12 * side**2),
        Row(f"zip of {images} images, 64 x 64", "set.zip", lambda: load_image_set(archive), images * 3 * 64**2),
        Row(f"2.56 s of {hours:g} h", "r.dat", lambda: load_recording(record, part=window), 62.56 * 250 * 12 * 8),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=9400)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--hours", type=float, default=24.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        print("| file | on disk, MiB | needed, MiB | peak, MiB |\n|---|---|---|---|")
        for row in rows(Path(place), given.side, given.images, given.hours):
            size = (Path(place) / row.file).stat().st_size
            print(f"| {row.name} | {size / MIB:.0f} | {row.needed / MIB:.1f} | {peak_of(row.read):.0f} |", flush=True)


if __name__ == "__main__":
    main()
