"""What the pickles in a checkpoint import, read off their instructions; nothing in them is run.

A few bytes of an archive may unpack to gigabytes, and one byte of a pickle is an instruction. Both have bounds here.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from midguide.errors import reason

TENSORS = re.compile(r"torch\.(_utils\._rebuild_\w+|\w+Storage)|collections\.OrderedDict")
"""What tensors in a dictionary import."""

LONGEST, MOST_INSTRUCTIONS = 64 * 2**20, 3_000_000
"""Bytes and instructions of the pickles in a file: real ones have some ten thousand, these take seconds to read."""
_PICKLES = 4  # in a file of torch before 1.6: magic number, version, facts of the machine, and the object


class TooLong(ValueError):
    """A pickle is longer than that of any checkpoint."""


def foreign_imports(path: Path) -> list[str]:
    """What a checkpoint imports beyond what tensors need, each `module.name` once.

    Args:
        path: a zip archive of torch, or a bare pickle.

    Raises:
        ValueError: If nothing of the kind is found, and the file is damaged or incomplete.
    """
    found: dict[str, None] = {}
    try:
        for name in _imports(instructions(path)):
            found[name] = None
    except Exception as error:  # damaged bytes make the readers of pickles and archives raise anything
        if all(map(TENSORS.fullmatch, found)):
            raise ValueError(reason(error)) from error
    return [name for name in found if not TENSORS.fullmatch(name)]


def instructions(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction of the pickles in a file.

    Raises:
        TooLong: If there are more than a checkpoint has; as soon as that is seen.
        Exception: If the file is damaged: readers of pickles and archives raise anything.
    """
    file, count = io.BytesIO(_start(path)), 0
    for _ in range(_PICKLES):
        for operation, value, _ in pickletools.genops(file):
            count += 1
            if count > MOST_INSTRUCTIONS:
                raise TooLong(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions, as no checkpoint has")
            yield operation.name, value
        if not file.read(1):
            return
        file.seek(-1, 1)


def stays_within(instructions: Iterable[tuple[str, Any]], size: int) -> bool:
    """Whether no tensor of a pickle asks for more values than a file of `size` bytes can have.

    Before version 1.6, torch allocates them before it reads any. A storage is a tuple that ends with its number of
    values; place, sizes and strides of the tensor in it follow, up to a boolean.
    """
    there, numbers, inside = 0, list[int](), False
    for name, value in instructions:
        if name == "MARK" and not inside:
            numbers.clear()
        elif name == "BINPERSID":
            there, inside = max(numbers, default=0), True
            numbers.clear()
        elif name in ("NEWFALSE", "NEWTRUE") and inside:
            axes = len(numbers) // 2
            pairs = zip(numbers[1 : 1 + axes], numbers[1 + axes :], strict=False)
            if sum(numbers[:1]) + sum((length - 1) * stride for length, stride in pairs) >= max(there, 1):
                return False
            inside = False
        elif isinstance(value, int) and ("INT" in name or "LONG" in name):
            numbers.append(value)
        if there > size:
            return False
    return True


def _start(path: Path) -> bytes:
    """The pickle of an archive of torch, or the start of the file itself."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(LONGEST)
    with zipfile.ZipFile(path) as archive:
        member = next((name for name in archive.namelist() if name.endswith("data.pkl")), "data.pkl")
        with archive.open(member) as file:
            content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise TooLong(f"its pickle has more than {LONGEST // 2**20} MiB, as no checkpoint has")
    return content


def _imports(instructions: Iterator[tuple[str, Any]]) -> Iterator[str]:
    """The imports of pickles; from protocol 4 on their names are texts on the stack, maybe from the memo."""
    texts: list[str] = []
    memo: dict[Any, str | None] = {}
    top: str | None = None  # of the stack, where it is a text
    for name, value in instructions:
        if name == "STOP":  # the next pickle has a memo of its own
            memo.clear()
        if name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if name == "MEMOIZE" else value] = top
            continue
        top = memo.get(value) if name.endswith("GET") else value if "UNICODE" in name else None
        if top is not None:
            texts.append(top)
