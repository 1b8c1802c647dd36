"""What the pickles in a checkpoint import, read off their instructions; nothing in them is run."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from midguide.errors import reason

TENSORS = re.compile(r"torch\.(_utils\._rebuild_\w+|\w+Storage)|collections\.OrderedDict")
"""What tensors in a dictionary import."""

_PICKLES = 4  # in a file of torch before 1.6: magic number, version, facts of the machine, and the object


def foreign_imports(path: Path) -> list[str]:
    """What a checkpoint imports beyond what tensors need, each `module.name` once.

    Args:
        path: a zip archive of torch, or a bare pickle.

    Raises:
        ValueError: nothing of the kind is found, and the file is damaged or incomplete.
    """
    found: dict[str, None] = {}
    try:
        with _opened(path) as file:
            for _ in range(_PICKLES):
                for name in _imports(file):
                    found[name] = None
                if not file.read(1):
                    break
                file.seek(-1, 1)
    except Exception as error:  # damaged bytes make the readers of pickles and archives raise anything
        if all(map(TENSORS.fullmatch, found)):
            raise ValueError(reason(error)) from error
    return [name for name in found if not TENSORS.fullmatch(name)]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The pickle of an archive of torch, or the file itself."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        member = next((name for name in archive.namelist() if name.endswith("data.pkl")), "data.pkl")
        with archive.open(member) as file:
            yield file


def _imports(file: IO[bytes]) -> Iterator[str]:
    """The imports of one pickle; from protocol 4 on their names are texts on its stack, maybe from its memo."""
    texts: list[str] = []
    memo: dict[Any, str | None] = {}
    top: str | None = None  # of the stack, where it is a text
    for operation, value, _ in pickletools.genops(file):
        name = operation.name
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
