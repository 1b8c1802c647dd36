"""Runs units and hands back their rows: in this process, or in several processes of this machine.

A runner is the one thing to write for another engine: submit units, collect rows as they come, close.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Iterator
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from midguide.errors import ConfigError
from midguide.studies.units import Unit, run_unit

Rows = list[dict[str, Any]]


class Finished(NamedTuple):
    """A unit and its rows, one per metric."""

    unit: Unit
    rows: Rows


class Runner(Protocol):
    """Runs units in any order."""

    def submit(self, unit: Unit) -> None:
        """Accept a unit; it may start at once or wait."""
        ...

    def collect(self) -> Iterator[Finished]:
        """Every submitted unit with its rows, as they finish."""
        ...

    def close(self) -> None:
        """Stop what still runs; nothing that was not collected is kept."""
        ...


def local_runner(workers: int, kept: Path | None = None) -> Runner:
    """The runner of this machine.

    Args:
        workers: processes; with 1 the units run in this one.
        kept: folder of stored draws, if they are to be stored.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}", hint="one per physical core at most")
    return InProcess(kept) if workers == 1 else ProcessPool(workers, kept)


class InProcess:
    """Runs each unit when its rows are asked for."""

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept
        self._waiting: deque[Unit] = deque()

    def submit(self, unit: Unit) -> None:
        self._waiting.append(unit)

    def collect(self) -> Iterator[Finished]:
        while self._waiting:
            unit = self._waiting.popleft()
            yield Finished(unit, run_unit(unit, self._kept))

    def close(self) -> None:
        self._waiting.clear()


class ProcessPool:
    """Fresh processes with one torch thread each; each holds one unit at a time.

    A process that dies (of too little memory, say) makes its unit a failure and is replaced. The processes end with
    their parent, however that ends: their pipe closes.
    """

    def __init__(self, workers: int, kept: Path | None = None) -> None:
        self._kept, self._size = kept, workers
        self._waiting: deque[Unit] = deque()
        self._workers: dict[Connection, Any] = {}
        self._busy: dict[Connection, Unit] = {}

    def submit(self, unit: Unit) -> None:
        self._waiting.append(unit)

    def collect(self) -> Iterator[Finished]:
        while self._waiting or self._busy:
            self._hand_out()
            for pipe in connection.wait(list(self._busy)):
                assert isinstance(pipe, Connection)
                unit = self._busy.pop(pipe)
                yield Finished(unit, self._received(pipe, unit))

    def close(self) -> None:
        self._waiting.clear()
        self._busy.clear()
        for pipe, process in self._workers.items():
            process.terminate()
            process.join()
            pipe.close()
        self._workers.clear()

    def _hand_out(self) -> None:
        idle = [pipe for pipe in self._workers if pipe not in self._busy]
        while self._waiting and len(self._busy) < self._size:
            pipe = idle.pop() if idle else self._start()
            unit = self._waiting.popleft()
            pipe.send((unit, self._kept))
            self._busy[pipe] = unit

    def _start(self) -> Connection:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def _received(self, pipe: Connection, unit: Unit) -> Rows:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            process = self._workers.pop(pipe)
            process.join()
            failure = f"the worker process died (exit code {process.exitcode})"
            return [
                {"address": unit.address, "configuration": unit.configuration, "metric": name, "failure": failure}
                for name in unit.metrics
            ]
        if isinstance(answer, BaseException):  # a defect of this package, not a failure of a method
            raise answer
        return answer


def _work(pipe: Connection) -> None:
    """The life of a worker: units in, rows out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    while True:
        try:
            unit, kept = pipe.recv()
        except EOFError:
            return
        try:
            answer = run_unit(unit, kept)
        except Exception as error:  # handed to the parent, which raises it
            answer = _picklable(error)
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
