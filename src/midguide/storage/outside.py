"""The one gate for files from outside: what it opens, how large a file may be, and one error for all damage.

Each kind of file is an `Outside`. It opens regular files only (a link to one is one), of a limited size. What a decoder
raises on damage becomes one error of this package. Whoever is about to allocate what a header asks for says so first,
with `afford`: nothing relies on the allocator. A read asks for no more bytes than the file has.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import tomllib
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from midguide.errors import ConfigError, DataError, MidguideError, is_out_of_memory, reason
from midguide.storage.machine import available_memory

if TYPE_CHECKING:
    import numpy as np

MIB, GIB = 2**20, 2**30
_KINDS = {stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
_ENCRYPTED = 0x1
_LONGEST_NAME = 200  # bytes; file systems take 255, and endings are added
_NOT_EVERYWHERE = re.compile(r'[<>:"|?*]')
_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_IMPOSSIBLE = re.compile(r"[\x00-\x1f\x7f/\\]")


class _Held(io.BufferedReader):
    """An open file. A length in a damaged header that is larger than the file allocates nothing."""

    def __init__(self, number: int) -> None:
        super().__init__(io.FileIO(number))
        self._size = os.fstat(number).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most all bytes, as of any file."""
        return super().read(size if size is None else min(size, self._size))


@dataclass(frozen=True)
class Outside:
    """One kind of file from outside.

    Args:
        what: what it is, for messages: "image", "recording".
        hint: what to do where one is damaged.
        error: class of its errors.
        limit: the most bytes that one may have.
        place: what to do where there is none; by default to give its path.
    """

    what: str
    hint: str = "is it complete?"
    error: type[MidguideError] = DataError
    limit: int = 4 * GIB
    place: str = ""

    def check(self, path: str | Path) -> Path:
        """The path of a regular file of a possible size, for libraries that open files themselves.

        Raises:
            MidguideError: If there is none: a folder, a pipe, a device, a broken link, or a larger file.
        """
        path = Path(path)
        try:
            self._check(path, os.stat(path))
        except (OSError, ValueError) as error:
            raise self._missing(path, error) from error
        return path

    def check_folder(self, path: str | Path) -> Path:
        """The path of a folder in which every file is a regular one, for libraries that open files themselves.

        Raises:
            MidguideError: If there is another, such as a pipe.
        """
        for at, _, names in os.walk(path):
            for name in names:
                self.check(Path(at) / name)
        return Path(path)

    @contextmanager
    def open(self, path: str | Path) -> Iterator[BinaryIO]:
        """The bytes of a file; what is read in the block and is damaged becomes one error.

        Raises:
            MidguideError: If it is not a regular file, too large, or what the block does with it fails.
        """
        path = self.check(path)
        try:  # should it have become a pipe by now, that would wait for its writer
            number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self._missing(path, error) from error
        with _Held(number) as file:
            self._check(path, os.fstat(number))
            with self.damage(path):
                yield file

    @contextmanager
    def damage(self, name: str | Path) -> Iterator[None]:
        """Whatever the block raises as one error of this kind; errors of this package pass.

        The block holds the decoder and nothing else: decoders raise anything on damaged bytes.
        """
        try:
            yield
        except MidguideError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise self.error(f"{self._called(name)} needs more memory than there is", hint=_SMALLER) from error
            raise self.damaged(name, _words(error)) from error

    @contextmanager
    def stated(self, name: str | Path) -> Iterator[None]:
        """As `damage`, for the settings that a file states: errors of this package become those of the file."""
        try:
            with self.damage(name):
                yield
        except MidguideError as error:
            if isinstance(error, self.error) and error.message.startswith(self._called(name)):
                raise
            raise self.error(f"{self._called(name)} cannot be read: {error.message}", hint=error.hint) from error

    def damaged(self, name: str | Path, why: str) -> MidguideError:
        """The error for a file that cannot be read, and why."""
        return self.error(f"{self._called(name)} cannot be read: {why}", hint=self.hint)

    def read(self, path: str | Path) -> bytes:
        """All bytes of a file."""
        with self.open(path) as file:
            afford(os.fstat(file.fileno()).st_size, self._called(path), error=self.error)
            return file.read()

    def text(self, path: str | Path) -> str:
        """A file of UTF-8, with or without a mark of the byte order."""
        content = self.read(path)
        with self.damage(path):
            return content.decode("utf-8-sig")

    def json(self, path: str | Path) -> Any:
        """The value in a file of JSON."""
        text = self.text(path)
        afford(_PARSED * len(text), self._called(path), error=self.error)
        with self.damage(path):
            return json.loads(text)

    def toml(self, path: str | Path) -> dict[str, Any]:
        """The table in a file of TOML."""
        text = self.text(path)
        with self.damage(path):
            return tomllib.loads(text)

    def array(self, path: str | Path) -> np.ndarray:
        """The numbers of a `.npy` file, allocated only where the file holds as many as its header says."""
        with self.open(path) as file:
            return array_of(file, os.fstat(file.fileno()).st_size)

    @contextmanager
    def archive(self, path: str | Path) -> Iterator[zipfile.ZipFile]:
        """A zip file; its members are read with `member`."""
        path = self.check(path)
        with self.damage(path):
            try:
                opened = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise self.damaged(path, "it is damaged or no zip file") from error
        with opened:
            yield opened

    def member(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
        """The bytes of a member of an archive, whose sum is checked.

        Raises:
            MidguideError: If it is encrypted, packed in an unknown way, damaged, or larger than the limit.
        """
        with self.damage(info.filename):
            if info.flag_bits & _ENCRYPTED:
                raise ValueError("it is encrypted")
            if info.file_size > self.limit:
                raise ValueError(f"it is larger than {size_of(self.limit)} when unpacked")
            afford(info.file_size, self._called(info.filename), error=self.error)
            return archive.read(info)

    def _check(self, path: Path, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            kind = next((word for test, word in _KINDS.items() if test(found.st_mode)), "special file")
            what = "is a folder" if stat.S_ISDIR(found.st_mode) else f"is not a regular file but a {kind}"
            raise self.error(f"{self._called(path)} {what}", hint=f"give the path of one {self.what}")
        if found.st_size > self.limit:
            large = f"{size_of(found.st_size)}, more than {size_of(self.limit)}"
            raise self.error(f"{self._called(path)} has {large}", hint=f"is it one {self.what}?")

    def _missing(self, path: Path, error: Exception) -> MidguideError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            why = "is a broken link" if path.is_symlink() else "does not exist"
            return self.error(f"{self._called(path)} {why}", hint=self.place or f"give the path of one {self.what}")
        return self.error(f"{self._called(path)} cannot be read: {_words(error)}", hint="check the path and its rights")

    def _called(self, name: str | Path) -> str:
        return f"{self.what} {name}"


_PARSED = 32
"""Bytes that a byte of JSON becomes, as `[],[],` does."""
_SMALLER = "take a smaller one, or set MIDGUIDE_MEMORY to the GiB that may be used"


def _words(error: Exception) -> str:
    """Why something cannot be read, in words that a terminal can show."""
    match error:
        case KeyError():
            text = f"it does not state {error}"
        case OSError():
            text = str(error.strerror or error)
        case _:
            text = reason(error)
    return text[:300] or type(error).__name__


def memory_budget() -> int | None:
    """Bytes that files from outside may take: MIDGUIDE_MEMORY in GiB, or what is free; None where nothing says.

    Raises:
        ConfigError: If MIDGUIDE_MEMORY is not a positive number.
    """
    said = os.environ.get("MIDGUIDE_MEMORY")
    if not said:
        return available_memory()
    try:
        budget = float(said) * GIB
        if not 0 < budget < math.inf:
            raise ValueError
    except ValueError:
        raise ConfigError(f"MIDGUIDE_MEMORY is `{said}`, expected a positive number of GiB") from None
    return int(budget)


def afford(needed: int, what: str, *, error: type[MidguideError] = DataError, hint: str = _SMALLER) -> None:
    """Refuse what does not fit into memory, before any of it is allocated.

    Args:
        needed: bytes at the peak.
        what: what needs them, for the message.
        error: class of the error.
        hint: what to do.

    Raises:
        MidguideError: If there is less.
    """
    budget = memory_budget()
    if budget is not None and needed > budget:
        raise error(f"{what} needs {size_of(needed)} of memory, there are {size_of(budget)}", hint=hint)


def array_header(file: BinaryIO, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type of an open `.npy` file of `size` bytes; its numbers follow.

    Raises:
        ValueError: If it is not such a file, holds objects, or fewer numbers than its header says.
    """
    from numpy.lib import format as npy

    if (start := file.read(8))[:6] != npy.MAGIC_PREFIX:
        known = {b"PK": "it is an archive, such as .npz", b"\x80": "it is a pickle"}
        raise ValueError(next((words for mark, words in known.items() if start.startswith(mark)), "it is no .npy file"))
    file.seek(0)
    version = npy.read_magic(file)
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"its version {'.'.join(map(str, version))} is not for numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # damaged headers are parsed as Python, which warns
        shape, by_columns, dtype = headers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"its header promises the shape {shape}, the file ends before")
    return shape, by_columns, dtype


def array_of(file: BinaryIO, size: int) -> np.ndarray:
    """The numbers of an open `.npy` file of `size` bytes.

    Raises:
        ValueError: If it is not such a file, holds objects, or fewer numbers than its header says.
    """
    from numpy.lib import format as npy

    shape, _, dtype = array_header(file, size)
    afford(math.prod(shape) * dtype.itemsize, "an array")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def arrays_of(gate: Outside, path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name, read one after the other."""
    found = {}
    with gate.archive(path) as archive:
        sizes = [info.file_size for info in archive.infolist()]
        afford(sum(sizes) + max(sizes, default=0), f"{gate.what} {path}", error=gate.error)
        for info in archive.infolist():
            content = gate.member(archive, info)
            found[info.filename.removesuffix(".npy")] = array_of(io.BytesIO(content), len(content))
    return found


def plain_name(name: str, what: str, *, error: type[MidguideError] = ConfigError) -> str:
    """A name that can be that of a file or folder, and cannot leave the folder that it is put in.

    Raises:
        MidguideError: If it is empty, hidden (`.`), too long, or holds a separator or a control character.
    """
    why = (
        "it is empty"
        if not name.strip()
        else "it begins with a dot"
        if name.startswith(".")
        else "it holds a separator or a control character"
        if _IMPOSSIBLE.search(name)
        else f"it has more than {_LONGEST_NAME} bytes"
        if len(name.encode(errors="surrogatepass")) > _LONGEST_NAME
        else ""
    )
    if why:
        raise error(f"{what} `{name[:80]}` cannot name a file: {why}", hint="letters, digits, hyphens and underscores")
    return name


def portable_name(name: str, what: str, *, error: type[MidguideError] = ConfigError) -> str:
    """A `plain_name` that every system takes as a file's name and shows as it is.

    Raises:
        MidguideError: If it is not a plain name, ends with a dot or a space, holds `<>:"|?*` or a character that is not
            seen, or is reserved, as `con` and `nul` are on Windows.
    """
    plain_name(name, what, error=error)
    why = (
        "it begins or ends with a space or ends with a dot"
        if name != name.strip() or name.endswith(".")
        else "it holds a sign that not all systems allow"
        if not name.isprintable() or _NOT_EVERYWHERE.search(name)
        else "Windows reserves it"
        if _RESERVED.fullmatch(name.partition(".")[0].strip())
        else ""
    )
    if why:
        raise error(f"{what} `{name[:80]}` cannot name a file: {why}", hint="letters, digits, hyphens and underscores")
    return name


def size_of(count: int) -> str:
    """A number of bytes in words."""
    if count < MIB:
        return f"{count:,} bytes"
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.0f} MiB"
