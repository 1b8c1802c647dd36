"""The steps of a run: chunk by chunk, on one device or on several at a time."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.errors import ConfigError
from midguide.inference.checkpoint import Checkpoint, Held, Part, Progress
from midguide.inference.checks import check_shapes, comparable
from midguide.inference.failures import FAILED, OnNan, broken, failure, restored, whole_groups
from midguide.inference.observers import Event, Observer
from midguide.inference.parts import Parts
from midguide.inference.rows import Rows
from midguide.inference.signs import risen
from midguide.maths.covariance import Moments
from midguide.maths.environment import fixed_environment
from midguide.maths.rng import Layout
from midguide.nn.layout import check_device
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem
from midguide.samplers.base import Finished, Sampler, signs_of


@dataclass
class Run:
    """A run of a sampler at these times, from where its progress is.

    Args:
        problems: what to draw from, one for each worker, each on the device of its worker.
        times: of the steps.
        rows: of all observations and samples.
        parts: the chunks.
        file: keeps the progress; of several workers the finished chunks only.
        keep: takes a finished chunk, and the network calls that it took.
    """

    sampler: Sampler
    problems: Sequence[Problem]
    times: Sequence[Time]
    rows: Rows
    parts: Parts
    file: Checkpoint
    progress: Progress
    observers: Sequence[Observer]
    on_nan: OnNan
    keep: Callable[[Part, int, int], None]
    _errors: list[BaseException] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self) -> None:
        """Draw what is left."""
        steps = len(self.times) - 1
        with _watched(self.observers, steps * self._chunks(self.rows.total), self._done(self.progress.held.step)):
            try:
                if len(self.problems) == 1:
                    self._work(self.problems[0])
                else:
                    self._together()
            except KeyboardInterrupt:
                self.file.save(self.progress)
                raise
            self.file.save(self.progress)

    def _together(self) -> None:
        """One thread for each device; the first error ends them all."""
        workers = [threading.Thread(target=self._guarded, args=(problem,), daemon=True) for problem in self.problems]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)  # in pieces, so that an interrupt is heard
        finally:
            self.parts.stop()
            for worker in workers:
                worker.join()
        if self._errors:
            raise self._errors[0]

    def _guarded(self, problem: Problem) -> None:
        try:
            with fixed_environment():  # whose switches are those of a thread
                self._work(problem)
        except _Stopped:
            pass
        except BaseException as error:  # raised again by the main thread
            self._errors.append(error)
            self.parts.stop()

    def _work(self, problem: Problem) -> None:
        """Draw chunks while there are some."""
        counted = CountedDenoiser(problem.denoiser)
        problem = replace(problem, denoiser=counted)
        while (part := self.parts.take()) is not None:
            counted.forwards = counted.vjps = 0
            try:
                finished, signs = self._chunk(problem, counted, part)
            except Exception as error:
                if not self.parts.split(part, error):
                    raise
                self.progress.held = Held()
                continue
            with self._lock:
                self.keep(Part(part, finished, signs), counted.forwards, counted.vjps)
                self.progress.finish(part, counted)
                self.parts.finish(part)
                if len(self.problems) > 1:
                    self.file.save_at_times(self.progress)

    @torch.no_grad()
    def _chunk(self, problem: Problem, counted: CountedDenoiser, part: range) -> tuple[Finished, dict[str, Tensor]]:
        """What a chunk gives, and its signs of convergence."""
        problem, rng, sampler = self.rows.problem(problem, part), self.rows.rng(part), self.sampler
        state, signs, first = sampler.init(problem, rng), dict[str, Tensor](), 0
        if alone := len(self.problems) == 1:
            state = self.progress.restore(part, state, rng, counted)
            signs, first = dict(self.progress.held.signs), self.progress.held.step
        moves = list(pairwise(self.times))
        for step, (t, s) in enumerate(moves[first:], start=first + 1):
            if alone:
                self.file.hold(self.progress, part, state, signs, rng, step - 1, counted)
            elif self.parts.stopped:
                raise _Stopped
            after, info = sampler.step(problem, state, t, s, rng)
            signs = risen(signs, info, signs_of(sampler), rng.layout)
            bad = self._broken(after._asdict(), signs, rng.layout, step, f"at step {step} (time {s})")
            state = after if bad is None else restored(state, after, bad, rng.layout)
            with self._lock:
                for observer in self.observers:
                    observer.step(Event(part, self._done(step, part), s, info))
        finished = sampler.finish(problem, state, self.times[-1], rng)
        check_shapes(finished, sampler, rng.layout, problem.event_shape)
        last = len(moves)
        self._broken(finished._asdict(), signs, rng.layout, last, f"at the end, after step {last}")
        failed = signs[FAILED] > 0 if FAILED in signs else torch.zeros(rng.layout.rows, dtype=torch.bool)
        return comparable(finished, rng.layout, failed.to(finished.draws.device)), signs

    def _done(self, step: int, part: range = range(1)) -> int:
        """Steps finished, in chunks of the planned size."""
        return (len(self.times) - 1) * self._chunks(self.parts.finished) + step * self._chunks(len(part))

    def _chunks(self, rows: int) -> int:
        return -(-rows // self.parts.planned)

    def _broken(
        self, values: Mapping[str, Any], signs: dict[str, Tensor], layout: Layout, step: int, where: str
    ) -> Tensor | None:
        """Which rows are not numbers any more, shape (rows,), entered in `signs`; None where all are.

        Raises:
            NumericalError: If none is left, or the run is to stop at the first.
        """
        found = broken(values, layout)
        if not found:
            return None
        bad = whole_groups(found, layout)
        before = signs.get(FAILED, torch.zeros(layout.rows, dtype=torch.float64, device=bad.device))
        nothing_left = layout.rows == self.rows.total and bool((bad | (before > 0)).all())
        if self.on_nan == "stop" or nothing_left:
            raise failure(found, self.sampler, where)
        signs[FAILED] = torch.where(bad & (before == 0), float(step), before)
        return bad


class _Stopped(Exception):
    """Another worker failed, or the user interrupted."""


def workers(problem: Problem, devices: Sequence[str] | str | None) -> list[Problem]:
    """The problem on each of these devices, with a network of its own where there are several.

    Args:
        problem: on the device where its answers go.
        devices: names, which may repeat; `all` GPUs, or the CPU where there is none; None for where it is.

    Raises:
        ConfigError: If there is no such device, or none is given, or the prior cannot be copied.
    """
    if devices is None:
        return [problem]
    if devices == "all":
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
    if isinstance(devices, str) or not devices:
        raise ConfigError(f"devices must be a list of names or `all`, got {devices!r}", hint='such as ["cuda:0"]')
    for device in devices:
        check_device(device)
        if torch.device(device).type == "meta":
            raise ConfigError("cannot compute on the device meta: it holds no numbers", hint="cpu, or cuda:0")
    if len(devices) == 1:
        return [problem.to(devices[0])]
    try:
        return [_copied(problem).to(device) for device in devices]
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"the prior cannot be copied to {len(devices)} devices: {str(error).splitlines()[0]}",
            hint="give one device",
        ) from error


def _copied(problem: Problem) -> Problem:
    denoiser, likelihood = copy.deepcopy((problem.denoiser, problem.likelihood))
    return replace(problem, denoiser=denoiser, likelihood=likelihood)


class CountedDenoiser(Wrapped):
    """A denoiser that counts its network: forwards of the rows of a call, vjps of those differentiated."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.forwards = 0
        self.vjps = 0

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        self.forwards += len(x) * self.evaluations
        out = self.inner(x, t)
        if out.requires_grad:
            out.register_hook(self._count_vjp)
        return out

    def record(self) -> dict[str, Any]:
        """That of the inner denoiser: counting changes no number."""
        return self.inner.record()

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        if self.exact_moments:  # which cost as much as one answer
            self.forwards += len(x) * self.evaluations
        return Wrapped.moments(self, x, t, directions=directions)

    def _count_vjp(self, gradient: Tensor) -> None:
        self.vjps += len(gradient) * self.evaluations


@contextmanager
def _watched(observers: Sequence[Observer], total: int, done: int) -> Iterator[None]:
    for observer in observers:
        observer.start(total, done)
    try:
        yield
    finally:
        for observer in observers:
            observer.stop()
