"""Public checkpoints: cards that say where each comes from, and a cache of the files.

A file appears in the cache complete and verified, or not at all. What has arrived of an interrupted download lies in a
`.partial` file beside its place, from which the next attempt goes on.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import shutil
import stat
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from midguide._version import __version__
from midguide.errors import CheckpointError, DataError
from midguide.storage.cards import Card, read_cards
from midguide.storage.files import replacing, sha256_of

_BLOCK = 1 << 20
_LARGEST, _SPARE = 1 << 40, 1 << 26  # bytes of a download whose size is not known; and above one that is
_HERE = ("localhost", "127.0.0.1", "::1")
_TIMEOUT = 30.0  # seconds without a byte
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)  # what reading an archive may raise
_BUSY = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_EARLY, http.HTTPStatus.TOO_MANY_REQUESTS)


CARDS = read_cards(Path(str(resources.files("midguide.storage"))) / "public")
"""Public checkpoints by name."""


def cache_folder() -> Path:
    """Where downloads are kept: MIDGUIDE_CACHE, or `midguide` in the user's cache folder."""
    if own := os.environ.get("MIDGUIDE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midguide"


def fetch(card: Card) -> Path:
    """The checkpoint of a card, downloaded and unpacked if it is not in the cache; verified in both cases.

    Raises:
        DataError: If there is no connection, or the download broke off; what has arrived is kept for the next attempt.
        CheckpointError: If the file is not the one of the card, or no longer the one that was downloaded first.
    """
    path = _fetched(card)
    return path if card.member is None else unpacked(path, card.member)


def unpacked(archive: Path, member: str) -> Path:
    """A member of a zip archive as a file beside it, unpacked if it is not there; verified in both cases.

    Raises:
        DataError: If the file cannot be written.
        CheckpointError: If the archive is damaged or has no such member.
    """
    path = archive.with_suffix(Path(member).suffix)
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(member)
            if not path.exists() or path.stat().st_size != info.file_size or _crc32(path) != info.CRC:
                with replacing(path) as temporary, opened.open(info) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
    except KeyError:
        raise CheckpointError(f"{archive} holds no {member}", hint="is it the archive of the card?") from None
    except _DAMAGED as error:
        raise CheckpointError(f"{archive} is damaged: {error}", hint=f"remove {archive} and try again") from error
    except OSError as error:
        raise DataError(f"cannot unpack {archive}: {error.strerror}", hint="check the folder and free space") from error
    return path


def _fetched(card: Card) -> Path:
    path = cache_folder() / card.file
    record = path.with_name(f"{path.name}.sha256")
    if not path.exists():
        download(card.source, path, sha256=card.sha256 or _recorded(record), size=card.size)
    known, found = card.sha256 or _recorded(record), sha256_of(path)
    if known is None:
        with replacing(record) as temporary:
            temporary.write_text(found + "\n", encoding="ascii")
    elif found != known:
        raise CheckpointError(
            f"{path} is damaged or was changed: its sha256 is not {known[:12]}...",
            hint=f"remove {path} and try again; a file that you trust is loaded by its path",
        )
    return path


def download(source: str, path: Path, *, sha256: str | None = None, size: int | None = None) -> None:
    """Download a file, going on where an interrupted attempt stopped.

    Args:
        source: its address.
        path: its place; nothing is there before the download is complete and verified.
        sha256: what its sum must be; None where it is not known. Then an archive is read to its end, and of other
            files the server must say how large they are.

    Raises:
        DataError: If there is no connection, file or space, or the download broke off.
        CheckpointError: If the sum is another, an archive is damaged, or nothing says where the file ends.
    """
    _check_address(source)
    partial = path.with_name(f"{path.name}.partial")
    limit = _LARGEST if size is None else size + size // 4 + _SPARE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(partial) as file:
            _lock(file, partial)
            whole = _receive(source, file, limit)
        _verify(partial, source, sha256, whole)
        os.replace(partial, path)
        _tag(partial).unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in _BUSY and error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            _forget(partial)  # also where the server no longer has the bytes asked for
        raise DataError(
            f"{source} cannot be downloaded: {error.code} {error.reason}", hint="try again; or has it moved?"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        kept = partial.stat().st_size if partial.exists() else 0
        hint = f"try again to go on from {kept:,} bytes" if kept else "is there a network?"
        raise DataError(f"{source} cannot be downloaded: {reason}", hint=hint) from error
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}", hint="check the folder and free space") from error
    finally:
        if partial.exists() and partial.stat().st_size == 0:
            _forget(partial)


class _OfTheSameKind(urllib.request.HTTPRedirectHandler):
    """Follows an answer that points elsewhere only where `download` would go itself."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        _check_address(arguments[-1])
        return super().redirect_request(*arguments)


def _check_address(source: str) -> None:
    """Refuse addresses other than `https:`; this machine may also speak `http:`.

    Raises:
        DataError: If it is another, such as `file:` or `ftp:`.
    """
    try:
        address = urllib.parse.urlsplit(source)
        fine = address.scheme == "https" or (address.scheme == "http" and address.hostname in _HERE)
    except ValueError:
        fine = False
    if not fine:
        raise DataError(f"{source[:200]!r} is not an address to download from", hint="it begins with https://")


def _opened(partial: Path) -> BinaryIO:
    """The file of a partial download, to go on with; a link in its place is not followed.

    Raises:
        DataError: If something else lies there.
    """
    try:
        file = open(
            partial, "ab", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        )
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise DataError(f"{partial} is not a file that a download left", hint="remove it") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DataError(f"{partial} is not a file that a download left", hint="remove it")
    return file


def _receive(source: str, file: BinaryIO, limit: int) -> bool:
    """Append what is missing; start again where the server cannot go on or has another file by now.

    Returns:
        Whether the server said where the file ends, so that nothing can be missing.
    """
    have, tag = file.tell(), _tag(Path(file.name))
    version = tag.read_text("utf-8") if tag.exists() else ""
    headers = {"User-Agent": f"midguide/{__version__}"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    opener = urllib.request.build_opener(_OfTheSameKind)
    with opener.open(urllib.request.Request(source, headers=headers), timeout=_TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":  # of a file service that wants a click, for one
            raise DataError(f"{source} is a web page, not a file", hint="download it in a browser, and give its path")
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
            file.truncate(0)
            tag.unlink(missing_ok=True)  # should it be a link
            tag.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "", encoding="utf-8")
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if total is not None and total > limit:
            raise _too_large(source, total, limit, Path(file.name))
        with _bar(Path(file.name).stem, have, total) as advance:
            while block := answer.read(_BLOCK):
                if file.tell() + len(block) > limit:
                    raise _too_large(source, file.tell() + len(block), limit, Path(file.name))
                file.write(block)
                advance(len(block))
    file.flush()
    if total is not None and file.tell() < total:
        raise ConnectionError(f"it broke off after {file.tell():,} of {total:,} bytes")
    return total is not None or answer.chunked  # the last chunk says that it is the last


def _too_large(source: str, size: int, limit: int, partial: Path) -> CheckpointError:
    """The error for a download that is larger than its card allows; what has arrived is forgotten."""
    _forget(partial)
    return CheckpointError(
        f"{source} has {size:,} bytes or more, expected at most {limit:,}", hint="is it still the file of the card?"
    )


def _verify(partial: Path, source: str, sha256: str | None, whole: bool) -> None:
    """Refuse a download, and forget it, that is another file than expected or may lack its end."""
    try:
        if sha256:
            if (got := sha256_of(partial)) != sha256:
                raise other_sum(source, got, sha256)
        elif _is_zip(partial):
            _read_archive(partial, source)
        elif not whole:
            raise CheckpointError(
                f"{source} may be incomplete: its server does not say how large it is, and its sha256 is not known",
                hint="download it yourself, and give its path",
            )
    except CheckpointError:
        _forget(partial)
        raise


def _is_zip(path: Path) -> bool:
    """Whether a file begins as an archive, as checkpoints of torch do; its end may be missing."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _read_archive(path: Path, source: str) -> None:
    """Read all of an archive; its list of members is at its end, and holds the sum of each."""
    try:
        with zipfile.ZipFile(path) as opened:
            damaged = opened.testzip()
    except _DAMAGED as error:
        raise CheckpointError(f"{source} arrived damaged or incomplete: {error}", hint="try again") from error
    if damaged is not None:
        raise CheckpointError(f"{source} arrived damaged: {damaged} has another sum", hint="try again")


def other_sum(source: str, got: str, wanted: str, *, remove: Path | None = None) -> CheckpointError:
    """The error for a download with another sum than expected, and which file to remove before the next attempt."""
    again = "" if remove is None else f"; to download it again, remove {remove}"
    return CheckpointError(
        f"{source} is not the file expected: its sha256 is {got[:12]}..., not {wanted[:12]}...",
        hint=f"was it changed, on its way or by its authors? A file that you trust is loaded by its path{again}",
    )


def _lock(file: BinaryIO, partial: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{partial} is being written by another process", hint="wait for it and try again") from None


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _tag(partial).unlink(missing_ok=True)


def _tag(partial: Path) -> Path:
    """The file that keeps the server's tag of the version a partial download belongs to."""
    return partial.with_name(f"{partial.name}.tag")


def _recorded(record: Path) -> str | None:
    """The sum that an earlier download found; None where its record is missing or incomplete."""
    text = record.read_text("ascii", "replace").strip() if record.exists() else ""
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total = zlib.crc32(block, total)
    return total


@contextmanager
def _bar(name: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar where stderr is a terminal, else one line at the start."""
    size = "" if total is None else f", {total / 2**20:,.1f} MiB"
    if not sys.stderr.isatty():
        print(f"downloading {name}{size}", file=sys.stderr, flush=True)
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as bar:
        task = bar.add_task(f"downloading {name}", total=total, completed=have)
        yield lambda count: bar.advance(task, count)
