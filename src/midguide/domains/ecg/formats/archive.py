"""A zip file with one recording in it, of any other format."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from midguide.domains.ecg.formats.base import RECORDING, RECORDINGS, Contents, File, RecordingFormat, Said, opened
from midguide.errors import DataError
from midguide.storage.listing import is_hidden
from midguide.storage.outside import size_of

LARGEST = 2**32
SAMPLES = (".dat", ".xws", ".atr", ".qrs", ".xyz")
"""Files that belong to a header."""


@RECORDINGS.register("zip", summary="a zip file with one recording in it")
class Zip(RecordingFormat):
    """The reader unpacks it into a temporary folder and reads the files there."""

    extensions = (".zip",)
    order = 40

    @contextmanager
    def open(self, file: File, said: Said) -> Iterator[Contents]:
        """The recording in it.

        Raises:
            DataError: If it is damaged, or holds no recording, or several.
        """
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            names = _unpacked(file.path, place)
            found = _recordings(names)
            if len(found) != 1:
                shown = ", ".join(found[:8]) + (" and others" if len(found) > 8 else "")
                raise DataError(
                    f"{file.path} holds {len(found) or 'no'} recordings{': ' if found else ''}{shown}",
                    hint="unpack it and name one" if found else "is it the right file?",
                )
            with opened(place / found[0], said) as contents:
                yield contents


def _unpacked(path: Path, place: Path) -> list[str]:
    """The names of what was unpacked; hidden files are not."""
    with RECORDING.archive(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and not is_hidden(info.filename)]
        if (size := sum(info.file_size for info in infos)) > LARGEST:
            raise DataError(f"{path} holds {size_of(size)} when unpacked", hint="unpack it and name one recording")
        return [_unpack(archive, info, place) for info in infos]


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path) -> str:
    inside = PurePosixPath(info.filename)
    if inside.is_absolute() or ".." in inside.parts:
        raise DataError(f"a file in the archive is called {info.filename!r}, outside of it", hint="make it again")
    target = place / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(RECORDING.member(archive, info))
    return str(inside)


def _recordings(names: list[str]) -> list[str]:
    """What can be a recording: headers, and files of other formats that have no header beside them."""
    heads = {name.lower().removesuffix(".hea") for name in names if name.lower().endswith(".hea")}
    segments = {name for name in names if name.lower().endswith(".hea")}
    known = {ending for entry in RECORDINGS.values() for ending in entry.thing.extensions} - {".zip", ".dat"}
    others = [
        n
        for n in names
        if PurePosixPath(n).suffix.lower() in known and PurePosixPath(n.lower()).with_suffix("").as_posix() not in heads
    ]
    others = [name for name in others if name not in segments]
    tables = [name for name in others if not name.lower().endswith(".txt")]
    return sorted(segments) + sorted(tables or others)
