"""Runs inputs in forked processes with limits on time and memory, and says in which way each failed.

A worker imports the package and makes the valid inputs once; each input then runs in a child of the worker, which may
crash, hang or fill its memory without harm to the others.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CPU_SECONDS, WALL_SECONDS = 10, 60
MEMORY = 512 * 2**20
"""What an input may take above what the worker has; the limit that kills is four times as high."""


class Result(NamedTuple):
    """What became of an input: `kind` is "ok", "refused" or the kind of its failure."""

    campaign: str
    seed: int
    kind: str
    words: str


class Spoiled(Exception):
    """What an input says or leaves behind is wrong, though it was read or refused."""


Run = Callable[[], object]
Campaign = Callable[[random.Random, Path], Run]


def run(name: str, campaign: Campaign, seed: int) -> Result:
    """One input of a campaign, in a child of this process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            outcome = _tried(campaign, random.Random(f"{name} {seed}"), folder)
        except BaseException:
            outcome = "campaign", traceback.format_exc()[-500:]
        os.write(writer, json.dumps(outcome).encode())
        os._exit(0)
    os.close(writer)
    try:
        return Result(name, seed, *_outcome(child, reader))
    finally:
        os.close(reader)
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(child: int, reader: int) -> tuple[str, str]:
    """What the child wrote, or how it ended."""
    waited = select.select([reader], [], [], WALL_SECONDS)[0]
    said = os.read(reader, 65536) if waited else b""
    if not waited:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if said:
        kind, words = json.loads(said)
        return kind, words
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not waited or number == signal.SIGXCPU:
        return "hang", f"more than {CPU_SECONDS} s of computing, or {WALL_SECONDS} s of waiting"
    return "crash", f"ended by {signal.Signals(number).name}" if number else "ended without a word"


def _tried(campaign: Campaign, rng: random.Random, folder: Path) -> tuple[str, str]:
    """Kind and words of one input; runs in the child."""
    place = folder / "outer" / "inner"  # what leaves its folder is found in those around it
    place.mkdir(parents=True)
    os.chdir(place)
    action = campaign(rng, place)
    before = _files(folder)
    _limit()
    start = _resident()
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            kind, words = _called(action)
    except Spoiled as error:
        return "spoiled", str(error)[:500]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    if kind in ("ok", "refused") and peak > MEMORY:
        return "memory", f"{peak / 2**20:.0f} MiB; {words}"
    left = _files(folder) - before
    strange = [name for name in left if "partial" in name or not name.startswith("outer/inner/")]
    if kind == "refused" and (strange or left):
        return "left-overs", f"{sorted(left)[:3]}; {words}"
    return ("left-overs", f"{strange[:3]}") if kind == "ok" and strange else (kind, words)


def _called(action: Run) -> tuple[str, str]:
    """Runs an action; refusals must be one printable line and a hint."""
    from midguide.errors import MidguideError

    try:
        action()
        return "ok", ""
    except MidguideError as error:
        said = error.message
        if "\n" in said.strip() or not all(c.isprintable() for c in said.replace("\n", "")) or len(said) > 2000:
            return "words", repr(said)[:500]
        return "refused", said[:300]
    except Spoiled:
        raise
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {str(error)[:200]!r} at {last.filename}:{last.lineno}"


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    with open("/proc/self/statm") as file:
        virtual = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 4 * MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident() -> int:
    """What the child has now; pages that it shares with the worker count."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
