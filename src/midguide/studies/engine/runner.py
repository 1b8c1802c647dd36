"""Runs units and hands back their rows: in this process, or in several processes of this machine.

A runner is the one thing to write for another engine: submit batches of units, collect rows as they come, close.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from midguide.errors import ConfigError
from midguide.storage.machine import end_with_parent, keep_freed_memory
from midguide.studies.engine.units import Rows, Unit, failed, run_batch

Batch = Sequence[Unit]
"""Units of one cell that are drawn together."""


class Finished(NamedTuple):
    """A unit and its rows, one per metric."""

    unit: Unit
    rows: Rows


class Runner(Protocol):
    """Runs batches of units in any order."""

    def submit(self, batch: Batch) -> None:
        """Accept a batch; it may start at once or wait."""
        ...

    def collect(self) -> Iterator[Finished]:
        """Every submitted unit with its rows, as they finish."""
        ...

    def close(self) -> None:
        """Stop what still runs; nothing that was not collected is kept."""
        ...


def local_runner(workers: int, kept: Path | None = None, device: str = "cpu") -> Runner:
    """The runner of this machine.

    Args:
        workers: processes; with 1 the units run in this one.
        kept: folder of stored draws, if they are to be stored.
        device: where networks compute.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}", hint="one per physical core at most")
    return InProcess(kept, device) if workers == 1 else ProcessPool(workers, kept, device)


class InProcess:
    """Runs each batch when its rows are asked for."""

    def __init__(self, kept: Path | None = None, device: str = "cpu") -> None:
        self._kept, self._device = kept, device
        self._waiting: deque[Batch] = deque()

    def submit(self, batch: Batch) -> None:
        self._waiting.append(batch)

    def collect(self) -> Iterator[Finished]:
        while self._waiting:
            batch = self._waiting.popleft()
            yield from map(Finished, batch, run_batch(batch, self._kept, self._device))

    def close(self) -> None:
        self._waiting.clear()


class ProcessPool:
    """Fresh processes with one torch thread each; each holds one batch at a time.

    A process that dies (of too little memory, say) makes its units failures and is replaced. The processes end with
    their parent, however that ends: at once on Linux, elsewhere once they have done their batch and find their pipe
    closed.
    """

    def __init__(self, workers: int, kept: Path | None = None, device: str = "cpu") -> None:
        self._kept, self._device, self._size = kept, device, workers
        self._waiting: deque[Batch] = deque()
        self._workers: dict[Connection, Any] = {}
        self._busy: dict[Connection, Batch] = {}

    def submit(self, batch: Batch) -> None:
        self._waiting.append(batch)

    def collect(self) -> Iterator[Finished]:
        while self._waiting or self._busy:
            self._hand_out()
            for pipe in connection.wait(list(self._busy)):
                assert isinstance(pipe, Connection)
                batch = self._busy.pop(pipe)
                yield from map(Finished, batch, self._received(pipe, batch))

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
            batch = self._waiting.popleft()
            pipe.send((batch, self._kept, self._device))
            self._busy[pipe] = batch

    def _start(self) -> Connection:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def _received(self, pipe: Connection, batch: Batch) -> list[Rows]:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            process = self._workers.pop(pipe)
            process.join()
            death = ChildProcessError(f"the worker process died (exit code {process.exitcode})")
            return [failed(unit, death) for unit in batch]
        if isinstance(answer, BaseException):  # a defect of this package, not a failure of a method
            raise answer
        return answer


def _work(pipe: Connection, parent: int) -> None:
    """The life of a worker: batches in, rows out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    end_with_parent(parent)
    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    while True:
        try:
            batch, kept, device = pipe.recv()
        except EOFError:
            return
        try:
            answer = run_batch(batch, kept, device)
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
