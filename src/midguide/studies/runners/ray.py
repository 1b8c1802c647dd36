"""The runner `ray`: workers of a Ray cluster, on as many machines as there are (extra `ray`).

Each worker is an actor of one core, or of one GPU, that holds its prior between batches. Files that a study names go
through the cluster's object store, once to each machine. A worker that is lost gives its batch to another one.
"""

from __future__ import annotations

import uuid
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midguide.errors import ConfigError, WorkerWarning
from midguide.studies.engine.draws import make_room
from midguide.studies.engine.units import failed, stored
from midguide.studies.runners.base import RUNNERS, Finished, Job, Runner
from midguide.studies.runners.cluster import Cluster
from midguide.studies.runners.freight import Freight, read_folders, write_folder
from midguide.studies.runners.remote import Answer, Storage, Worker, identity

PATIENCE = 60.0
"""Seconds without any free worker after which one line says so."""
STARTS = 3
"""Workers that may end while they start before the run ends, too."""


@RUNNERS.register("ray", elsewhere=True)
def ray_runner(
    *,
    address: str = "",
    workers: int | None = None,
    ahead: int = 2,
    retries: int = 3,
    shared: bool = True,
    draws: str = "",
) -> Runner:
    """Workers of a Ray cluster, on one machine or many.

    Args:
        address: of the cluster, `HOST:PORT`, `ray://HOST:PORT` or `auto`; by default that of RAY_ADDRESS, else a
            cluster of this machine that ends with the run.
        workers: how many at a time; by default one for each GPU with `--device cuda`, else one for each core.
        ahead: batches that a worker holds at most, the one that it runs among them.
        retries: how often a batch may lose its worker before its units count as failed.
        shared: let workers that see the folder of results store draws there; otherwise draws come back with the rows.
        draws: address of fsspec where draws go instead, such as `s3://bucket/draws`.
    """
    for name, count in {"workers": workers, "ahead": ahead}.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}")
    if retries < 0:
        raise ConfigError(f"retries must not be negative, got {retries}")
    return RayRunner(Cluster(address, workers), workers, ahead, retries, shared, draws)


@dataclass
class Task:
    """A job, and how often it has lost its worker."""

    job: Job
    losses: int = 0


@dataclass
class Seat:
    """A worker from here: its actor, what it is, and the batches that it holds, the one that it runs first."""

    actor: Any
    hello: Any
    name: str = ""
    sees: bool = False
    holds: dict[Any, Task] = field(default_factory=dict)


class RayRunner:
    """Hands jobs to actors, a few ahead to each, and collects what they answer."""

    def __init__(
        self, cluster: Cluster, workers: int | None, ahead: int, retries: int, shared: bool, address: str
    ) -> None:
        self._cluster, self._workers, self._ahead, self._retries = cluster, workers, ahead, retries
        self._shared, self._address = shared, address
        self._waiting: deque[Task] = deque()
        self._seats: list[Seat] = []
        self._freight = Freight(lambda contents: self._ray.put(contents))
        self._token: Path | None = None
        self._kept: Path | None = None
        self._failed_starts, self._idle = 0, 0.0

    def submit(self, job: Job) -> None:
        self._waiting.append(Task(job))

    def collect(self) -> Iterator[Finished]:
        while self._waiting or any(seat.holds for seat in self._seats):
            self._hire()
            self._hand_out()
            for ref, seat in self._ready():
                if ref == seat.hello:
                    self._welcome(seat)
                elif ref in seat.holds:  # not where its worker was lost with another batch
                    yield from self._answer(seat, ref)

    def close(self) -> None:
        self._waiting.clear()
        for seat in self._seats:
            self._ray.kill(seat.actor)
        self._seats.clear()
        if self._token is not None:
            self._token.unlink(missing_ok=True)
        self._cluster.close()

    @property
    def _ray(self) -> Any:
        """Ray; waits until it is connected."""
        return self._cluster.ray

    def _hire(self) -> None:
        """Ask for as many workers as there is work for. The cluster starts them when it has room."""
        if not self._waiting:
            return
        job = self._waiting[0].job
        device = "cuda" if job.device.startswith("cuda") else job.device
        size = self._size(device)
        if self._kept is None and job.kept is not None:
            self._kept = job.kept
            self._token = _token(job.kept.parent) if self._shared else None
        while len(self._seats) < min(size, len(self._waiting) + sum(bool(seat.holds) for seat in self._seats)):
            gpus = 1 if device == "cuda" else 0
            remote = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)
            actor = remote.remote(device, Storage(self._kept, self._token, self._address), self._ray.get)
            self._seats.append(Seat(actor, actor.about.remote()))

    def _size(self, device: str) -> int:
        resources = self._ray.cluster_resources()
        if device == "cuda" and not resources.get("GPU"):
            raise ConfigError("the cluster has no GPU", hint="leave --device out, or add machines with GPUs")
        return self._workers or max(int(resources.get("GPU" if device == "cuda" else "CPU", 1)), 1)

    def _hand_out(self) -> None:
        """Give each worker that has answered what it may hold, the idle ones first."""
        for most in range(1, self._ahead + 1):
            for seat in self._seats:
                if seat.name and len(seat.holds) < most and self._waiting:
                    task = self._waiting.popleft()
                    packed, needed = self._freight.pack(task.job)
                    ref = seat.actor.run.remote(packed, needed, {} if seat.sees else _stored_draws(task.job))
                    seat.holds[ref] = task

    def _ready(self) -> list[tuple[Any, Seat]]:
        """What has come back by now, after a wait for the first."""
        seat_of = {ref: seat for seat in self._seats for ref in (*([] if seat.name else [seat.hello]), *seat.holds)}
        ready, _ = self._ray.wait(list(seat_of), num_returns=1, timeout=1.0)
        more = [ref for ref in seat_of if ref not in ready]
        if ready and more:
            ready += self._ray.wait(more, num_returns=len(more), timeout=0)[0]
        self._idle = 0.0 if ready or any(seat.name for seat in self._seats) else self._idle + 1.0
        if self._idle >= PATIENCE:
            self._idle = 0.0
            warnings.warn(
                f"no worker has started for {PATIENCE:.0f} s: the cluster is busy", WorkerWarning, stacklevel=2
            )
        return [(ref, seat_of[ref]) for ref in ready]

    def _welcome(self, seat: Seat) -> None:
        """Take a worker that has started, if it is what this process is."""
        try:
            answer = self._ray.get(seat.hello)
        except self._ray.exceptions.RayError as error:
            self._seats.remove(seat)
            self._failed_starts += 1
            if self._failed_starts >= STARTS or "No module named" in str(error):
                hint = SMALLER if isinstance(error, self._ray.exceptions.OutOfMemoryError) else SAME
                raise ConfigError(f"no worker starts: {_cause(error)}", hint=hint) from error
            return
        if isinstance(answer, Exception):
            raise answer
        name, there, sees = answer
        if differs := identity().differs(there):
            raise ConfigError(f"the worker on {name} {differs}", hint=SAME)
        seat.name, seat.sees, self._failed_starts = name, sees, 0

    def _answer(self, seat: Seat, ref: Any) -> Iterator[Finished]:
        """The rows of a batch; none where its worker was lost and another one will run it."""
        try:
            answer: Answer | Exception = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            yield from self._lost(seat, error)
            return
        job = seat.holds.pop(ref).job
        if isinstance(answer, Exception):
            raise answer
        for name, contents in answer.draws.items():
            assert job.kept is not None
            _keep(job.kept, name, contents)
        yield from map(Finished, job.units, answer.rows)

    def _lost(self, seat: Seat, error: Exception) -> Iterator[Finished]:
        """Give the batches of a lost worker back; that which it ran fails if it has cost too many workers."""
        self._seats.remove(seat)
        self._ray.kill(seat.actor)
        running, *others = seat.holds.values()
        seat.holds.clear()
        self._waiting.extendleft(reversed(others))
        running.losses += 1
        if running.losses <= self._retries:
            told = f"the worker on {seat.name} was lost ({_cause(error)}): its batch runs again"
            warnings.warn(told, WorkerWarning, stacklevel=2)
            self._waiting.appendleft(running)
            return
        many = "1 worker was" if running.losses == 1 else f"{running.losses} workers were"
        death = ChildProcessError(f"{many} lost with it: {_cause(error)}")
        yield from (Finished(unit, failed(unit, death)) for unit in running.job.units)


SMALLER = "give fewer --workers, or end what else takes memory on that machine"
SAME = "install the same version of midguide, with its libraries, on every machine of the cluster"


def _token(folder: Path) -> Path:
    """A file in the folder of results, by which a worker finds out whether it sees that folder."""
    token = folder / f".seen-{uuid.uuid4().hex}"
    token.touch()
    return token


def _stored_draws(job: Job) -> dict[str, Any]:
    """The draws of a job that are stored here, for a worker that does not see them."""
    if job.kept is None or not job.kept.exists():
        return {}
    whole = [unit.draws_address for unit in job.units if stored(unit, job.kept) is not None]
    return read_folders(job.kept, whole)


def _keep(kept: Path, name: str, contents: Any) -> None:
    """Store draws that came back; see `make_room`."""
    make_room(name, kept)
    write_folder(kept / name, contents)


def _cause(error: Exception) -> str:
    """What Ray says of a loss, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "No module named" in line or "died" in line or "memory" in line.lower()]
    return " ".join((named or lines or [type(error).__name__])[0].split())
