"""Runs inputs one after the other in forked workers, and says in which way each fared.

A worker handles many inputs. It is watched: one that crashes, hangs or fills its memory is replaced, and the input that
it had in hand has failed. What an input leaves behind is looked for after each: files, open files, temporary folders.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from midguide.errors import MidguideError

CPU_SECONDS, WALL_SECONDS = 10, 60
"""What an input may take: of computing, and of waiting."""
MEMORY, MOST_MEMORY = 512 * 2**20, 2**31
"""Bytes that an input may take above what its worker has, resident, as MIDGUIDE_MEMORY says; and of addresses."""
SLICE = 0.3
"""Seconds of computing for which a worker stays with a campaign."""
FINE = ("accepted", "refused")

Run = Callable[[], object]
Campaign = Callable[[random.Random], Run]
"""Writes an input into the working folder and gives what reads it."""


class Result(NamedTuple):
    """What became of an input: `kind` is "accepted", "refused" or the kind of its failure."""

    campaign: str
    number: int
    kind: str
    words: str = ""


class Spoiled(Exception):
    """What an input says or leaves behind is wrong, though it was read or refused."""


class Plan(NamedTuple):
    """What is run: until `end`, a time of `time.monotonic`, or so many `inputs` of each campaign."""

    campaigns: Mapping[str, Campaign]
    seed: int
    workers: int
    end: float
    inputs: float
    place: Path


class Worker:
    """A forked process with every `workers`-th number of each campaign. One that takes its place goes on."""

    def __init__(self, plan: Plan, share: int) -> None:
        self.plan, self.share = plan, share
        self.following = dict.fromkeys(plan.campaigns, share)
        self.start()

    def start(self) -> None:
        self.connection, end = get_context("fork").Pipe(duplex=False)
        self.process = get_context("fork").Process(target=_work, args=(self.plan, self.following, self.share, end))
        self.process.start()
        end.close()
        self.input, self.begun = None, time.monotonic()

    def answers(self) -> Iterator[Result]:
        """What the worker has to say; one that has died is replaced."""
        try:
            result, self.input = self.connection.recv()
        except EOFError:
            self.process.join()
            result = self._failure()
            if self.input:
                self.start()
            else:
                self.connection.close()
        self.begun = time.monotonic()
        if self.input:
            name, number = self.input
            self.following[name] = number + self.plan.workers
        if result:
            yield result

    def _failure(self) -> Result | None:
        """The input in hand has ended its worker."""
        code = self.process.exitcode or 0
        if not self.input:
            if code:
                raise RuntimeError(f"a worker ended with {code} between two inputs")
            return None
        if code in (-signal.SIGPROF, -signal.SIGKILL):
            return Result(*self.input, "hang", f"more than {CPU_SECONDS} s of computing or {WALL_SECONDS} s of waiting")
        return Result(*self.input, "crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def watch(self) -> None:
        """End it where it waits for something that does not come."""
        if self.input and time.monotonic() - self.begun > WALL_SECONDS:
            self.process.kill()


def run(plan: Plan) -> Iterator[Result]:
    """The results of all inputs, as they come. The files of those that fail are kept in `plan.place`."""
    workers = [Worker(plan, share) for share in range(plan.workers)]
    try:
        while open_ := {worker.connection: worker for worker in workers if not worker.connection.closed}:
            for connection in wait(list(open_), timeout=1):
                yield from open_[connection].answers()  # pyright: ignore[reportArgumentType]
            for worker in open_.values():
                worker.watch()
    finally:
        for worker in workers:
            worker.process.kill()


def _work(plan: Plan, following: dict[str, int], share: int, connection: Connection) -> None:
    """Runs inputs until the time is over; says what became of each and which comes next."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 2):  # libraries in C write what they think of damage
        os.dup2(nothing, number)
    names, result = list(plan.campaigns), None
    names = names[share * len(names) // plan.workers :] + names[: share * len(names) // plan.workers]
    while time.monotonic() < plan.end and any(following[name] < plan.inputs for name in names):
        for name in names:
            stop = time.process_time() + SLICE
            while following[name] < plan.inputs and time.monotonic() < plan.end and time.process_time() < stop:
                number = following[name]
                following[name] += plan.workers
                connection.send((result, (name, number)))
                result = tried(plan, name, number)
    connection.send((result, None))


def limit() -> None:
    """What asks for far more memory than it may have gets an error of the allocator, which is a failure.

    The limit is of addresses, which threads of earlier inputs hold too. So it is set anew for each input.
    """
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MOST_MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def tried(plan: Plan, name: str, number: int, *, show: bool = False) -> Result:
    """One input, in this process, in a folder of its own. It stays if the input fails; `show` writes tracebacks."""
    folder = plan.place / f"{name}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    inner = folder / "outer" / "inner"  # what leaves its folder is found in those around it
    for each in (inner, folder / "tmp"):
        each.mkdir(parents=True)
    tempfile.tempdir = str(folder / "tmp")
    os.chdir(inner)
    limit()
    try:
        action = plan.campaigns[name](random.Random(f"{name} {plan.seed} {number}"))
        if show:
            faulthandler.register(signal.SIGPROF, chain=True)
        kind, words = _judged(action, folder, show)
    except BaseException:
        kind, words = "campaign", traceback.format_exc()[-700:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir(plan.place)
        tempfile.tempdir = None
    if kind in FINE:
        shutil.rmtree(folder, ignore_errors=True)
    return Result(name, number, kind, words)


def _judged(action: Run, folder: Path, show: bool) -> tuple[str, str]:
    """Kind and words: how it ended, then what it took and what it left."""
    before, start = _files(folder), _start_of_peak()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        kind, words = _called(action, show)
    signal.setitimer(signal.ITIMER_PROF, 0)
    if kind not in FINE:
        return kind, words
    if (peak := _memory("VmHWM") - start) > MEMORY:
        return "memory", f"{peak / 2**20:.0f} MiB; {words}"
    left = _files(folder) - before
    if kind == "accepted":
        left = {name for name in left if "partial" in name or not name.startswith("outer/inner/")}
    if left:
        return "left-overs", f"{sorted(left)[:3]}; {words}"
    if _open_in(folder) and gc.collect() >= 0 and (still := _open_in(folder)):
        return "left-overs", f"open: {still}; {words}"
    return kind, words


def _called(action: Run, show: bool) -> tuple[str, str]:
    """Runs an action; refusals must be one printable line."""
    try:
        action()
        return "accepted", ""
    except MidguideError as error:
        said = error.message
        if not said.strip() or not (said + error.hint).isprintable() or len(said) > 2000:
            return "words", repr(said)[:500]
        return ("memory", said) if "needs more memory than there is" in said else ("refused", said[:300])
    except Spoiled as error:
        return "spoiled", str(error)[:500]
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if show:
            traceback.print_exc(file=sys.__stderr__)
        return "traceback", where(error)


def where(error: BaseException) -> str:
    """An error and the last line of this package that it passed."""
    lines = traceback.extract_tb(error.__traceback__)
    own = [line for line in lines if "/src/midguide/" in line.filename] or lines
    place = f"{own[-1].filename.rpartition('/src/')[2]}:{own[-1].lineno}"
    return f"{type(error).__name__}: {str(error)[:200]!r} at {place}, {lines[-1].name}"


def _start_of_peak() -> int:
    """Bytes that this process has now, from where its peak counts anew."""
    with contextlib.suppress(OSError):  # a kernel without it: the peak of all inputs so far counts
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(what: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(what))


def _open_in(folder: Path) -> list[str]:
    """Files in a folder that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [name for name in found if name.startswith(f"{folder}{os.sep}")]


def _files(folder: Path) -> set[str]:
    found = ((at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files))
    return {os.path.relpath(os.path.join(at, name), folder) for at, name in found}
