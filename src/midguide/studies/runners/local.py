"""The runner `local`: in this process, or in several processes of this machine."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from midguide.errors import ConfigError
from midguide.storage.machine import end_with_parent, keep_freed_memory
from midguide.studies.engine.units import Rows, failed
from midguide.studies.runners.base import RUNNERS, Finished, Job, Runner, picklable, run_packed


@RUNNERS.register("local")
def local_runner(*, workers: int = 1) -> Runner:
    """Processes of this machine; with one worker, this process.

    Args:
        workers: processes, with one thread each.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}", hint="one per physical core at most")
    return InProcess() if workers == 1 else ProcessPool(workers)


class InProcess:
    """Runs each job when its rows are asked for."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def collect(self) -> Iterator[Finished]:
        while self._waiting:
            job = self._waiting.popleft()
            yield from map(Finished, job.units, job.run())

    def close(self) -> None:
        self._waiting.clear()


class ProcessPool:
    """Fresh processes with one torch thread each; each holds one job at a time.

    A process that dies (of too little memory, say) makes its units failures, and another takes its place. One that
    SIGTERM ends was not alone: schedulers send it to all processes of a job, which interrupts the run. The processes
    end with their parent, however that ends: at once on Linux, elsewhere once they have done their job and find their
    pipe closed.
    """

    def __init__(self, workers: int) -> None:
        self._size = workers
        self._waiting: deque[Job] = deque()
        self._workers: dict[Connection, Any] = {}
        self._busy: dict[Connection, Job] = {}

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def collect(self) -> Iterator[Finished]:
        while self._waiting or self._busy:
            self._hand_out()
            for pipe in connection.wait(list(self._busy)):
                assert isinstance(pipe, Connection)
                job = self._busy.pop(pipe)
                yield from map(Finished, job.units, self._received(pipe, job))

    def close(self) -> None:
        self._waiting.clear()
        self._busy.clear()
        for pipe, process in self._workers.items():
            process.kill()
            process.join()
            pipe.close()
        self._workers.clear()

    def _hand_out(self) -> None:
        idle = [pipe for pipe in self._workers if pipe not in self._busy]
        while self._waiting and len(self._busy) < self._size:
            pipe = idle.pop() if idle else self._start()
            job = self._waiting.popleft()
            pipe.send(job.packed())
            self._busy[pipe] = job

    def _start(self) -> Connection:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def _received(self, pipe: Connection, job: Job) -> list[Rows]:
        try:
            answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            process = self._workers.pop(pipe)
            process.join()
            if process.exitcode == -signal.SIGTERM:
                raise KeyboardInterrupt from None
            death = ChildProcessError(f"the worker process died (exit code {process.exitcode})")
            return [failed(unit, death) for unit in job.units]
        if isinstance(answer, BaseException):  # a defect or a changed file, not a failure of a method
            raise answer
        return answer


def _work(pipe: Connection, parent: int) -> None:
    """The life of a worker: jobs in, rows out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    end_with_parent(parent)
    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    while True:
        try:
            packed = pipe.recv()
        except EOFError:
            return
        try:
            answer = run_packed(packed)
        except Exception as error:  # handed to the parent, which raises it
            answer = picklable(error)
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return
