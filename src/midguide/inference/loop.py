"""`sample`: the only loop. Chunks, random streams, observers, cost, checkpoints; the methods live in `samplers`."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from midguide._version import __version__
from midguide.diffusion.schedules import Time
from midguide.errors import CheckpointError, ConfigError, NumericalError
from midguide.inference.observers import Event, Observer
from midguide.inference.samples import Cost, Samples
from midguide.maths.rng import Rng
from midguide.priors.base import Denoiser
from midguide.problem import Problem
from midguide.samplers.base import Sampler, check_needs
from midguide.storage.files import replacing
from midguide.storage.machine import memory
from midguide.storage.record import describe, fingerprint


def sample(
    sampler: Sampler,
    problem: Problem,
    n: int = 1,
    *,
    seed: int | Sequence[int] = 0,
    chunk: int | None = None,
    stream_size: int = 1,
    observers: Sequence[Observer] = (),
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
) -> Samples:
    """Draw `n` posterior samples of every observation of a problem.

    Sample j of observation i depends on the problem, the sampler and the random stream (seed, i, j) only: neither `n`
    nor `chunk` nor the other observations change it, up to the rounding of the network's batched arithmetic.

    A problem whose prior is one of latents is sampled as `problem.to_latent()`; the draws are decoded.

    Args:
        sampler: the method and its hyper-parameters.
        problem: prior and observations, N of them.
        n: samples per observation.
        seed: any integer; or one for each observation, which gives each the samples of a run of its own with that
            seed: observation i has the streams (seed[i], 0, j).
        chunk: most rows (samples of all observations together) in memory at once; all by default.
        stream_size: consecutive samples of one observation served by one random stream; 1, or a divisor of n where
            thousands of tiny samples make streams of their own slow. Changes the draws, and is part of the record.
        observers: called after each step; they cannot change the result.
        checkpoint: a file that keeps the progress. Where it exists the run goes on from it, with the same result as
            an uninterrupted one. At the end it holds the draws: remove it once they are saved elsewhere.
        checkpoint_seconds: time between two writes of the checkpoint (an interrupt writes one, too).

    Returns:
        Samples with draws of shape (observation, sample, *signal); for a prior of latents these are in `tensors`, by
        the name `latents`, shape (observation, sample, *event).

    Raises:
        UnsupportedProblem: the sampler cannot handle the operator.
        ConfigError: n samples of each observation are more than the memory of this machine.
        NumericalError: the state became NaN or infinite; names sampler, step and time.
        CheckpointError: `checkpoint` belongs to another run.

    Example:
        >>> import torch
        >>> from midguide import Problem, make_sampler, sample
        >>> from midguide.operators import Identity
        >>> from midguide.priors import Gaussian
        >>> prior = Gaussian(torch.zeros(2), 1.0)
        >>> problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.1)
        >>> sample(make_sampler("mgps", {"steps": 20}), problem, n=4).draws.shape
        torch.Size([1, 4, 2])
    """
    problem = problem.to_latent()
    check_needs(sampler, problem)
    check_memory(problem, n)
    rows = _Rows(problem.observations, n, stream_size, chunk, seed)
    record = _record(sampler, problem, n, seed, stream_size)
    counted = CountedDenoiser(problem.denoiser)
    problem = replace(problem, denoiser=counted)
    moves = list(pairwise(times := sampler.times(problem)))
    progress = _Progress.load(checkpoint, fingerprint(record), rows, counted)
    written = started = time.monotonic()

    def keep() -> None:
        if checkpoint is not None:
            progress.save(checkpoint, fingerprint(record), time.monotonic() - started)

    with _watched(observers, len(rows.chunks) * len(moves), progress.chunk * len(moves) + progress.step):
        try:
            while progress.chunk < len(rows.chunks):
                part = rows.chunks[progress.chunk]
                sub, rng = rows.problem(problem, part), rows.rng(part)
                state = progress.restore(sampler.init(sub, rng), rng)
                for step, (t, s) in enumerate(moves[progress.step :], start=progress.step + 1):
                    if checkpoint is not None:
                        progress.hold(state, rng, step - 1, counted)
                        if time.monotonic() - written > checkpoint_seconds:
                            keep()
                            written = time.monotonic()
                    with torch.no_grad():
                        state, info = sampler.step(sub, state, t, s, rng)
                    _check_finite(state, sampler, step, s)
                    for observer in observers:
                        observer.step(Event(part, progress.chunk * len(moves) + step, s, info))
                with torch.no_grad():
                    progress.finish_chunk(sampler.finish(sub, state, times[-1]), counted)
        except KeyboardInterrupt:
            keep()
            raise
        keep()

    draws, latents = _signals(problem, progress.draws, n)
    seconds, size = progress.seconds + time.monotonic() - started, problem.observations * n
    cost = Cost(counted.forwards / size, counted.vjps / size, seconds, _peak_memory(draws))
    known = {} if problem.truth is None else {"truth": problem.truth}
    return Samples(draws, cost, record, {"y": problem.likelihood.y, **latents, **known})


def check_memory(problem: Problem, n: int) -> None:
    """Refuse `n` draws of each observation that alone are more than the memory of this machine.

    Raises:
        ConfigError: they are.
    """
    values = problem.observations * n * math.prod(problem.signal_shape)
    needed, there = values * problem.likelihood.y.element_size(), memory()
    if there is not None and needed > there:
        raise ConfigError(
            f"{n:,} samples of each observation ({problem.observations:,}) take {needed / 2**30:,.0f} GiB, "
            f"this machine has {there / 2**30:,.0f}",
            hint="take fewer samples, or fewer observations at a time",
        )


def _signals(problem: Problem, blocks: list[Tensor], n: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The draws of all chunks as signals, shape (observation, sample, *signal), and their latents where they have."""
    drawn = torch.cat(blocks).reshape(problem.observations, n, *problem.event_shape)
    signals, latents = drawn, {}
    if problem.autoencoder is not None:
        with torch.no_grad():
            decoded = torch.cat([problem.autoencoder.decode(block) for block in blocks])
        signals, latents = decoded.reshape(problem.observations, n, *problem.signal_shape), {"latents": drawn}
    space = problem.denoiser.signal.space  # for methods that do not end with an answer of the denoiser
    return signals if space is None else space.project(signals), latents


class CountedDenoiser(Denoiser):
    """A denoiser that counts its rows: one forward per row of a call, one vjp per row that is differentiated."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner
        self.schedule, self.event_shape, self.value_range = inner.schedule, inner.event_shape, inner.value_range
        self.signal = inner.signal
        self.forwards = 0
        self.vjps = 0

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        self.forwards += len(x)
        out = self.inner(x, t)
        if out.requires_grad:
            out.register_hook(self._count_vjp)
        return out

    def _count_vjp(self, gradient: Tensor) -> None:
        self.vjps += len(gradient)


class _Rows:
    """How (observation, sample) pairs are laid out in rows, and rows in chunks."""

    def __init__(
        self, observations: int, n: int, stream_size: int, chunk: int | None, seed: int | Sequence[int]
    ) -> None:
        if n < 1 or stream_size < 1 or n % stream_size:
            raise ConfigError(f"n={n} must be a positive multiple of stream_size={stream_size}")
        size = observations * n if chunk is None else chunk - chunk % stream_size
        if size < 1:
            raise ConfigError(f"chunk={chunk} must be at least stream_size={stream_size}")
        self.addresses = [(seed, i) for i in range(observations)] if isinstance(seed, int) else [(s, 0) for s in seed]
        if len(self.addresses) != observations:
            raise ConfigError(
                f"{len(self.addresses)} seeds for {observations} observations", hint="one for each, or one"
            )
        self.n, self.stream_size = n, stream_size
        total = observations * n
        self.chunks = [range(first, min(first + size, total)) for first in range(0, total, size)]

    def problem(self, problem: Problem, part: range) -> Problem:
        return problem.select(torch.arange(part.start, part.stop, device=problem.likelihood.y.device) // self.n)

    def rng(self, part: range) -> Rng:
        streams = part[:: self.stream_size]
        return Rng([(*self.addresses[row // self.n], row % self.n) for row in streams], self.stream_size)


class _Held(NamedTuple):
    """State and random streams at the start of a step; no streams between two chunks."""

    tensors: Mapping[str, Tensor] = {}
    numbers: Mapping[str, int | float] = {}
    streams: Tensor | None = None
    step: int = 0
    forwards: int = 0
    vjps: int = 0


@dataclass
class _Progress:
    """Where a run is: finished draws, and what the step in hand started from."""

    draws: list[Tensor]
    chunk: int = 0
    step: int = 0
    seconds: float = 0.0
    held: _Held = field(default_factory=_Held)

    def hold(self, state: Any, rng: Rng, step: int, counted: CountedDenoiser) -> None:
        """Remember the state at the start of a step, so that an interrupt at any moment loses no more than the step."""
        fields = state._asdict()
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        numbers = {name: value for name, value in fields.items() if name not in tensors}
        self.held = _Held(tensors, numbers, rng.state(), step, counted.forwards, counted.vjps)

    def restore(self, fresh: Any, rng: Rng) -> Any:
        """The state to go on from: `fresh`, or what was held for this chunk."""
        if self.held.streams is None:
            return fresh
        rng.set_state(self.held.streams)
        # copies: matrix products round differently where memory is aligned differently, as in a file's buffer
        tensors = {name: value.to(fresh[0].device).clone() for name, value in self.held.tensors.items()}
        return type(fresh)(**tensors, **self.held.numbers)

    def finish_chunk(self, draws: Tensor, counted: CountedDenoiser) -> None:
        """Keep the draws of the chunk in hand and go on to the next."""
        self.draws.append(draws)
        self.held = _Held(forwards=counted.forwards, vjps=counted.vjps)
        self.chunk, self.step = self.chunk + 1, 0

    def save(self, path: str | Path, fingerprint: str, seconds: float) -> None:
        """Write the finished draws and what is held."""
        tensors, numbers, streams, step, forwards, vjps = self.held
        stored = {f"state.{name}": value.contiguous() for name, value in tensors.items()}
        stored |= {f"draws.{i}": value.contiguous() for i, value in enumerate(self.draws)}
        stored |= {} if streams is None else {"streams": streams}
        place = {"chunk": self.chunk, "step": step, "forwards": forwards, "vjps": vjps, "numbers": dict(numbers)}
        place |= {"seconds": self.seconds + seconds, "fingerprint": fingerprint}
        with replacing(path) as temporary:
            save_file(stored, temporary, metadata={"midguide-progress": json.dumps(place)})

    @classmethod
    def load(cls, path: str | Path | None, fingerprint: str, rows: _Rows, counted: CountedDenoiser) -> _Progress:
        """The progress kept at `path`, or none where there is no such file; sets the counts of `counted`."""
        if path is None or not Path(path).exists():
            return cls([])
        try:
            with safe_open(path, "pt") as file:
                place = json.loads(file.metadata()["midguide-progress"])
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no checkpoint of a sampling run: {error}", hint="remove it") from error
        draws = [stored[f"draws.{i}"] for i in range(place["chunk"])]
        sizes = [len(part) for part in rows.chunks[: len(draws)]]
        if place["fingerprint"] != fingerprint or [len(block) for block in draws] != sizes:
            raise CheckpointError(
                f"{path} belongs to another run (other settings, data, seed or chunk)",
                hint="repeat the command that wrote it, or remove the file",
            )
        tensors = {name.removeprefix("state."): value for name, value in stored.items() if name.startswith("state.")}
        counted.forwards, counted.vjps = place["forwards"], place["vjps"]
        held = _Held(tensors, place["numbers"], stored.get("streams"), place["step"], counted.forwards, counted.vjps)
        return cls(draws, place["chunk"], place["step"], place["seconds"], held)


@contextmanager
def _watched(observers: Sequence[Observer], total: int, done: int) -> Iterator[None]:
    for observer in observers:
        observer.start(total, done)
    try:
        yield
    finally:
        for observer in observers:
            observer.stop()


def _record(sampler: Sampler, problem: Problem, n: int, seed: int | Sequence[int], stream_size: int) -> dict[str, Any]:
    return {
        "midguide": __version__,
        "sampler": describe(sampler),
        "prior": describe(problem.denoiser),
        "likelihood": describe(problem.likelihood),
        "n": n,
        "seed": seed if isinstance(seed, int) else list(seed),
        "stream_size": stream_size,
    }


def _check_finite(state: Any, sampler: Sampler, step: int, s: Time) -> None:
    for name, value in state._asdict().items():
        if not isinstance(value, Tensor) or math.isfinite(value.sum()):  # quick, and finite only if all entries are
            continue
        bad = (~torch.isfinite(value)).flatten(1).any(1).sum()
        if bad:
            raise NumericalError(
                f"{type(sampler).__name__} produced NaN or infinity in {name} of {int(bad)} of {len(value)} samples "
                f"at step {step} (time {s})",
                hint="take a smaller guidance or learning rate, more steps, or check the value range of y and sigma_y",
            )


def _peak_memory(draws: Tensor) -> float:
    if draws.device.type == "cuda":
        return torch.cuda.max_memory_allocated(draws.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
