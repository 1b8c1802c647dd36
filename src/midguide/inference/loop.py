"""`sample`: the only loop. Chunks, random streams, observers, cost, checkpoints; the methods live in `samplers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.errors import ShapeError
from midguide.inference.checkpoint import Checkpoint, Progress
from midguide.inference.checks import check_shapes, check_weights, comparable
from midguide.inference.cost import Cost, check_memory, peak_memory
from midguide.inference.environment import in_fixed_environment
from midguide.inference.failures import (
    FAILED,
    OnNan,
    broken,
    check_choice,
    failure,
    filled,
    places,
    restored,
    whole_groups,
)
from midguide.inference.observers import Event, Observer
from midguide.inference.rows import Rows
from midguide.inference.samples import Samples, remarks
from midguide.inference.signs import described, risen
from midguide.maths.covariance import Moments
from midguide.maths.rng import Layout, Rng
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem
from midguide.samplers.auto import reason_of
from midguide.samplers.base import SAMPLERS, Finished, Sampler, check_needs, signs_of
from midguide.storage.code import code_of
from midguide.storage.record import describe, fingerprint


@in_fixed_environment
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
    on_nan: OnNan = "aside",
) -> Samples:
    """Draw `n` posterior samples of every observation of a problem.

    Sample j of observation i depends on the problem, the sampler and the random stream (seed, i, j) only: neither `n`
    nor `chunk` nor the other observations change it, up to the rounding of the network's batched arithmetic. Samples
    of a method that keeps groups together (`sampler.needs.group`), such as a particle filter, depend in the same way
    on the streams of their group, and on its stream (seed, i, "group", j // group).

    The draws of a problem over latents are decoded. Ambient mixed precision, torch's default device and default dtype
    do not change them.

    Args:
        sampler: the method and its hyper-parameters.
        problem: prior and observations, N of them.
        n: samples per observation; a multiple of the sampler's group.
        seed: any integer; or one for each observation, which gives each the samples of a run of its own with that
            seed: observation i has the streams (seed[i], 0, j).
        chunk: most rows (samples of all observations together) in memory at once; all by default. Groups are never
            split: it is rounded down to whole groups, and refused where it holds none.
        stream_size: consecutive samples of one observation served by one random stream; 1, or a divisor of n where
            thousands of tiny samples make streams of their own slow. Changes the draws, and is part of the record.
        observers: called after each step; they cannot change the result.
        checkpoint: a file that keeps the progress. Where it exists the run goes on from it, with the same result as
            an uninterrupted one. At the end it holds the draws: remove it once they are saved elsewhere.
        checkpoint_seconds: time between two writes of the checkpoint (an interrupt writes one, too).
        on_nan: what happens to a draw whose values become NaN or infinite. `aside`: it gets the weight zero, its group
            with it, and the record names observation, sample and step under `failed`. `stop`: the run ends.

    Returns:
        Samples with draws of shape (observation, sample, *signal), and their weights where the method has some. For a
        prior of latents these are in `tensors`, by the name `latents`, shape (observation, sample, *event). Where the
        weights of an observation collapsed to fewer than two draws, or a sign of convergence is high, the record says
        so under `remarks`.

    Raises:
        UnsupportedProblem: If the sampler cannot handle the operator.
        ConfigError: If n does not fit the sampler's groups, a group does not fit into `chunk`, or n samples of each
            observation are more than the memory of this machine; or inside `torch.inference_mode`.
        NumericalError: If every draw of a chunk or an observation became NaN or infinite (with `stop`, any draw), or
            all weights of an observation are zero; names sampler, step and time.
        CheckpointError: If `checkpoint` belongs to another run.

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
    check_choice(on_nan)
    check_needs(sampler, problem)
    check_memory(problem, n)
    group = sampler.needs.group
    rows = Rows(problem.observations, n, group=group, stream_size=stream_size, chunk=chunk, seed=seed)
    identity = _identity(sampler, problem, n, seed, stream_size)
    code = code_of(sampler, problem, __name__)
    counted = CountedDenoiser(problem.denoiser)
    asked, problem = problem, replace(problem, denoiser=counted)
    file = Checkpoint(checkpoint, fingerprint(identity), code, checkpoint_seconds)
    run = _Run(
        sampler,
        sampler.times(problem),
        rows,
        counted,
        file,
        file.load(rows, counted, problem.likelihood.y.device),
        observers,
        on_nan,
    )
    finished = run.finish(problem)
    signs, failed = _signs(run.progress.signs, rows, problem.observations)

    rows_of_draws = filled(torch.cat([block.draws for block in finished]), failed)
    draws, latents = _signals(problem, rows_of_draws.split([len(part) for part in rows.chunks]), n)
    log_weight = _together(_weights(finished, failed), problem.observations)
    log_evidence = _together([block.log_evidence for block in finished], problem.observations)
    if log_weight is not None:
        check_weights(log_weight, failed, sampler)
    seconds, size = run.progress.seconds + file.seconds, problem.observations * n
    cost = Cost(counted.forwards / size, counted.vjps / size, seconds, peak_memory(draws))
    known = {} if problem.truth is None else {"truth": problem.truth}
    tensors = {"y": problem.likelihood.y, **latents, **known}
    record = {"midguide": code.version, "code": code.sha256, **identity, **_names(problem), **_why(sampler)}
    record |= described(signs_of(sampler))
    record |= {FAILED: found} if (found := places(failed)) else {}
    record |= remarks(log_weight, signs, record)
    return Samples(draws, cost, record, tensors, log_weight, log_evidence, group, signs, asked)


@dataclass
class _Run:
    """A run of a sampler at these times, from where its progress is."""

    sampler: Sampler
    times: Sequence[Time]
    rows: Rows
    counted: CountedDenoiser
    file: Checkpoint
    progress: Progress
    observers: Sequence[Observer]
    on_nan: OnNan

    def finish(self, problem: Problem) -> list[Finished]:
        """What each chunk gives."""
        chunks, steps = self.rows.chunks, len(self.times) - 1
        with _watched(self.observers, len(chunks) * steps, self.progress.chunk * steps + self.progress.step):
            try:
                while self.progress.chunk < len(chunks):
                    part = chunks[self.progress.chunk]
                    finished, signs = self._chunk(self.rows.problem(problem, part), self.rows.rng(part), part)
                    self.progress.finish_chunk(finished, signs, self.counted)
            except KeyboardInterrupt:
                self.file.save(self.progress)
                raise
            self.file.save(self.progress)
        return self.progress.finished

    @torch.no_grad()
    def _chunk(self, problem: Problem, rng: Rng, part: range) -> tuple[Finished, dict[str, Tensor]]:
        """What a chunk gives, and its signs of convergence."""
        sampler, progress, moves = self.sampler, self.progress, list(pairwise(self.times))
        state, signs = progress.restore(sampler.init(problem, rng), rng, self.counted), dict(progress.held.signs)
        for step, (t, s) in enumerate(moves[progress.step :], start=progress.step + 1):
            self.file.hold(progress, state, signs, rng, step - 1, self.counted)
            after, info = sampler.step(problem, state, t, s, rng)
            signs = risen(signs, info, signs_of(sampler), rng.layout)
            bad = self._broken(after._asdict(), signs, rng.layout, step, f"at step {step} (time {s})")
            state = after if bad is None else restored(state, after, bad, rng.layout)
            for observer in self.observers:
                observer.step(Event(part, progress.chunk * len(moves) + step, s, info))
        finished = sampler.finish(problem, state, self.times[-1], rng)
        check_shapes(finished, sampler, rng.layout, problem.event_shape)
        last = len(moves)
        self._broken(finished._asdict(), signs, rng.layout, last, f"at the end, after step {last}")
        failed = signs[FAILED] > 0 if FAILED in signs else torch.zeros(rng.layout.rows, dtype=torch.bool)
        return comparable(finished, rng.layout, failed.to(finished.draws.device)), signs

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
        nothing_left = len(self.rows.chunks) == 1 and bool((bad | (before > 0)).all())
        if self.on_nan == "stop" or nothing_left:
            raise failure(found, self.sampler, where)
        signs[FAILED] = torch.where(bad & (before == 0), float(step), before)
        return bad


def _signals(problem: Problem, blocks: Sequence[Tensor], n: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The draws of all chunks as signals, shape (observation, sample, *signal), and their latents where they have."""
    with torch.no_grad():
        signals = torch.cat([problem.signals(block) for block in blocks])
    signals = signals.reshape(problem.observations, n, *problem.signal_shape)
    space = problem.denoiser.signal.space  # for methods that do not end with an answer of the denoiser
    extras = problem.extras(torch.cat(list(blocks)).reshape(problem.observations, n, *problem.event_shape))
    return signals if space is None else space.project(signals), extras


def _together(blocks: list[Tensor | None], observations: int) -> Tensor | None:
    """What the chunks gave, shape (observation, ...); None where they gave nothing."""
    given = [block for block in blocks if block is not None]
    if len(given) not in (0, len(blocks)):
        raise ShapeError("a sampler gave weights or evidence for some of its chunks only")
    return torch.cat(given).reshape(observations, -1) if given else None


def _weights(finished: Sequence[Finished], failed: Tensor) -> list[Tensor | None]:
    """Log-weights of each chunk; zeros for a chunk that has none while another has rows that failed."""
    if not bool(failed.any()):
        return [block.log_weight for block in finished]
    zeros = [torch.zeros(len(block.draws), dtype=torch.float64, device=block.draws.device) for block in finished]
    return [zero if block.log_weight is None else block.log_weight for zero, block in zip(zeros, finished, strict=True)]


def _signs(blocks: list[dict[str, Tensor]], rows: Rows, observations: int) -> tuple[dict[str, Tensor], Tensor]:
    """Signs of all chunks, and the steps at which rows failed (0 if they did not), shape (observation, sample)."""
    parts = list(zip(blocks, rows.chunks, strict=True))
    none = [block.get(FAILED, torch.zeros(len(part), dtype=torch.float64)).cpu() for block, part in parts]
    failed = torch.cat(none).reshape(observations, -1)
    signs = {
        name: torch.cat([block[name] for block in blocks]).reshape(observations, -1)
        for name in blocks[0]
        if name != FAILED
    }
    return {name: torch.where(failed.to(value.device) > 0, 0.0, value) for name, value in signs.items()}, failed


class CountedDenoiser(Wrapped):
    """A denoiser that counts its rows: one forward per row of a call, one vjp per row that is differentiated."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.forwards = 0
        self.vjps = 0

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        self.forwards += len(x)
        out = self.inner(x, t)
        if out.requires_grad:
            out.register_hook(self._count_vjp)
        return out

    def record(self) -> dict[str, Any]:
        """That of the inner denoiser: counting changes no number."""
        return self.inner.record()

    def moments(self, x: Tensor, t: Time, *, directions: int = 3) -> Moments:
        if self.exact_moments:  # which cost as much as one answer
            self.forwards += len(x)
        return Wrapped.moments(self, x, t, directions=directions)

    def _count_vjp(self, gradient: Tensor) -> None:
        self.vjps += len(gradient)


@contextmanager
def _watched(observers: Sequence[Observer], total: int, done: int) -> Iterator[None]:
    for observer in observers:
        observer.start(total, done)
    try:
        yield
    finally:
        for observer in observers:
            observer.stop()


def _names(problem: Problem) -> dict[str, Any]:
    """What the operator was made from, where it was made by its name."""
    made = problem.signal_likelihood.operator.made_from
    return {"operator": describe(made)} if made else {}


def _why(sampler: Sampler) -> dict[str, str]:
    """Why `auto` chose this sampler, where it did."""
    return {"auto": reason} if (reason := reason_of(sampler)) else {}


def _identity(
    sampler: Sampler, problem: Problem, n: int, seed: int | Sequence[int], stream_size: int
) -> dict[str, Any]:
    """What the draws depend on besides the code, as JSON."""
    return {
        "sampler": describe(SAMPLERS.record(sampler)),
        "prior": problem.denoiser.record(),
        "likelihood": describe(problem.likelihood),
        "n": n,
        "seed": seed if isinstance(seed, int) else list(seed),
        "stream_size": stream_size,
    }
