"""What the commands share: results on stdout, notes and progress on stderr, folders, threads."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import typer

from midguide.errors import ConfigError, DataError


def note(text: str) -> None:
    """A line for the reader's eyes, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON value on stdout; numbers that JSON does not have become null."""
    print(dump_json(value), flush=True)


def dump_json(value: Any) -> str:
    """`value` as indented JSON; NaN and infinity become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()) -> None:
    """A table on stdout, as wide as it needs to be where stdout is not a terminal.

    Args:
        columns: headings.
        rows: one text per column.
        numbers: headings of the columns that are aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = io.StringIO()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if sys.stdout.isatty():
        Console(file=sys.stdout).print(table)
        return
    console = Console(file=lines, width=1000)
    console.print(table)
    print("\n".join(line.rstrip() for line in lines.getvalue().splitlines()))


WIDTH = 80
"""Columns of text on stdout."""


def print_entries(entries: Sequence[tuple[str, str, str]]) -> None:
    """Names on stdout, each with a summary beside it and details below, in 80 columns; a name is never broken."""
    names = max((len(name) for name, _, _ in entries if len(name) <= WIDTH // 3), default=2) + 2
    for name, summary, details in entries:
        lines = textwrap.wrap(summary, WIDTH - names) or [""]
        beside = lines.pop(0) if len(name) < names - 1 else ""
        print(f"{name:{names}}{beside}".rstrip())
        for line in [*lines, *textwrap.wrap(details, WIDTH - names)]:
            print(f"{'':{names}}{line}")


def check_counts(**counts: int | None) -> None:
    """Refuse an option that counts something and is less than 1.

    Raises:
        ConfigError: If a count is less than 1.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"--{name} must be at least 1, got {count}", hint=f"for example --{name} 4")


def out_folder(path: str | Path) -> Path:
    """The absolute path of a folder that results will appear in, once it is sure that they can.

    Raises:
        DataError: If it is a file, or its place cannot be written to.
    """
    path = Path(path).resolve()
    if os.path.exists(path) and not os.path.isdir(path):
        raise DataError(f"{path} is a file, --out names a folder", hint="choose another --out")
    places = [path.parent, path] if os.path.exists(path) else [next(p for p in path.parents if os.path.exists(p))]
    for place in places:
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise DataError(f"cannot write to {place}: {error.strerror}", hint="choose another --out") from error
    return path


_NO_INPUT = {"out", "as_json", "verbose", "chunk", "workers"}
"""Parameters of commands that change no number."""


def default_folder(*parts: str, of: typer.Context | None = None) -> Path:
    """The folder of a result that was given no other: the same for the same command, and for no other one.

    Args:
        parts: names that may hold anything, for the reader.
        of: the command; a digest of all its arguments becomes part of the name, so that runs which differ in an image,
            a seed or a setting never overwrite one another, also where a disk does not distinguish `A` and `a`.
    """
    name = file_name("-".join(file_name(part) for part in parts))
    if of is None:
        return Path("midguide-out") / name
    given = sorted((key, str(value)) for key, value in of.params.items() if key not in _NO_INPUT)
    return Path("midguide-out") / f"{name}-{_digest(repr(given))}".lstrip("-")


LONGEST = 120
"""Characters of a file's name; disks take 255 bytes."""


def file_name(label: str) -> str:
    """A label that may hold anything as a file's name; with a digest where little of it is left."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.")
    if name and len(name) <= LONGEST and label.isascii() and label.isprintable():
        return name
    return f"{name[: LONGEST - 20]}-{_digest(label)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def prior_label(prior: str) -> str:
    """What to call a prior: its name, or the last part of its path, without the ending of a file of weights."""
    path = Path(prior)
    return path.stem if path.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin") else path.name


def progress(description: str) -> list[Any]:
    """The observers for a run: a progress bar where stderr is a terminal."""
    if not sys.stderr.isatty():
        return []
    from midguide.inference.observers import Progress

    return [Progress(description)]


def use_threads(context: typer.Context) -> None:
    """Let torch use the threads of `--threads`, of OMP_NUM_THREADS, or one per physical core it may run on."""
    import torch

    wanted = context.find_root().obj
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ and sys.platform == "linux":
        torch.set_num_threads(physical_cores())


def physical_cores() -> int:
    """Physical cores among the processors that this process may use, on Linux."""
    cores = set()
    for processor in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(processor))
    return len(cores)


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case Path():
            return str(value)
        case _:
            return value


def open_page(address: str) -> None:
    """Open a page where somebody sits in front of a screen; elsewhere say nothing."""
    import webbrowser

    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and sys.stderr.isatty():
        webbrowser.open(address)
