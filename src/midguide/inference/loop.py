"""`sample`: the only loop. Chunks, random streams, observers, cost, checkpoints; the methods live in `samplers`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.inference.checkpoint import Checkpoint, Part, Progress
from midguide.inference.checks import check_scale, check_weights
from midguide.inference.cost import Cost, check_memory, peak_memory
from midguide.inference.failures import FAILED, OnNan, check_choice, filled, places
from midguide.inference.observers import Observer, with_progress
from midguide.inference.parts import Budget, Parts
from midguide.inference.rows import Rows
from midguide.inference.running import Run, workers
from midguide.inference.samples import SIGN, Samples, remarks
from midguide.inference.signs import described
from midguide.inference.stored import StoredSamples
from midguide.inference.stream import Stream, check_target
from midguide.maths.environment import environment, in_fixed_environment
from midguide.problem import Problem
from midguide.samplers.auto import reason_of
from midguide.samplers.base import SAMPLERS, Finished, Sampler, check_needs, signs_of
from midguide.storage.code import Code, code_of
from midguide.storage.record import describe, fingerprint


@overload
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
    devices: Sequence[str] | str | None = None,
    out: None = None,
    progress: bool | None = None,
) -> Samples: ...


@overload
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
    devices: Sequence[str] | str | None = None,
    out: str | Path,
    progress: bool | None = None,
) -> StoredSamples: ...


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
    devices: Sequence[str] | str | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Samples | StoredSamples:
    """Draw `n` posterior samples of every observation of a problem.

    Sample j of observation i depends on the problem, the sampler and the random stream (seed, i, j) only. Neither `n`
    nor `chunk` nor the other observations change it, up to the rounding of the network's batched arithmetic. Some
    methods, such as a particle filter, keep groups of samples together (`sampler.needs.group`). Their samples depend in
    the same way on the streams of their group, and on its stream (seed, i, "group", j // group).

    Draws of a problem over latents come decoded. Ambient mixed precision, torch's default device and default dtype, and
    its precision of products do not change them. What changes their rounding is in the record: threads, rows at once,
    torch's version, the device.

    Args:
        sampler: the method and its hyper-parameters.
        problem: prior and observations, N of them.
        n: samples per observation; a multiple of the sampler's group.
        seed: any integer; or one for each observation, which gives each the samples of a run of its own with that
            seed: observation i has the streams (seed[i], 0, j).
        chunk: most rows (samples of all observations together) in memory at once. By default as many as fit: chunks
            start with a careful guess, grow while the measured peak allows it, and are halved when memory runs out.
            Groups are never split: it is rounded down to whole groups, and refused where it holds none.
        stream_size: consecutive samples of one observation served by one random stream; 1, or a divisor of n where
            thousands of tiny samples make streams of their own slow. Changes the draws, and is part of the record.
        observers: called after each step; they cannot change the result.
        checkpoint: a file that keeps the progress. Where it exists the run goes on from it, with the same result as
            an uninterrupted one. At the end it holds the draws: remove it once they are saved elsewhere.
        checkpoint_seconds: time between two writes of the checkpoint (an interrupt writes one, too).
        on_nan: what happens to a draw whose values become NaN or infinite. `aside`: it gets the weight zero, its group
            with it, and the record names observation, sample and step under `failed`. `stop`: the run ends.
        devices: where chunks are drawn, such as `["cuda:0", "cuda:1"]` or `all` GPUs; each has its own copy of the
            network. By default where the problem is. The draws come to the device of the problem, and are the same for
            any number of devices, to the bit where `chunk` is given. A checkpoint then keeps finished chunks only.
        out: a store `NAME.zarr` or a file `NAME.nc`, to which each chunk is written when it is finished, so that memory
            holds one chunk. The same call goes on where it was interrupted, to the bit where `chunk` is given, and
            opens what is complete. Needs the extra `arrays`; takes the place of `checkpoint`.
        progress: show how far the run is, on stderr. By default on a terminal and in a notebook only.

    Returns:
        Samples with draws of shape (observation, sample, *signal), and their weights where the method has some. For a
        prior of latents these are in `tensors`, by the name `latents`, shape (observation, sample, *event). Where the
        weights of an observation collapsed to fewer than two draws, or a sign of convergence is high, the record says
        so under `remarks`. With `out`, `StoredSamples`, which have the same statistics and read draws when asked.

    Raises:
        UnsupportedProblem: If the sampler cannot handle the operator.
        ConfigError: If n does not fit the sampler's groups, a group does not fit into `chunk`, or n samples of each
            observation are more than the memory of this machine; or inside `torch.inference_mode`.
        NumericalError: If every draw of a chunk or an observation became NaN or infinite (with `stop`, any draw), or
            all weights of an observation are zero; names sampler, step and time.
        CheckpointError: If `checkpoint` or `out` belongs to another run.
        DataError: If `out` or `checkpoint` cannot be written, or another process writes it.
        ShapeError: If an observation is far larger than signals within the prior's range can give.

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
    check_scale(problem)
    rows = Rows(problem.observations, n, group=sampler.needs.group, stream_size=stream_size, chunk=chunk, seed=seed)
    if out is None:
        check_memory(problem, rows.n)
    else:
        check_target(Path(out), checkpoint)
    identity = _identity(sampler, problem, rows)
    watching, code = with_progress(observers, progress), code_of(sampler, problem, __name__)
    asked = _Asked(sampler, problem, rows, identity, code, watching, on_nan, devices)
    if out is not None:
        return _to_disk(asked, Path(out), checkpoint_seconds)
    return _in_memory(asked, checkpoint, checkpoint_seconds)


@dataclass(frozen=True)
class _Asked:
    """What `sample` was given."""

    sampler: Sampler
    problem: Problem
    rows: Rows
    identity: dict[str, Any]
    code: Code
    observers: Sequence[Observer]
    on_nan: OnNan
    devices: Sequence[str] | str | None

    @property
    def home(self) -> torch.device:
        """Where the draws go."""
        return self.problem.likelihood.y.device

    @property
    def around(self) -> dict[str, Any]:
        """What the draws depend on up to rounding, besides the rows at once."""
        layout = "contiguous" if self.problem.likelihood.y.is_contiguous() else "strided"
        return environment(self.home) | {"layout": layout}

    def file(self, path: str | Path | None, every: float) -> Checkpoint:
        return Checkpoint(path, self.identity, self.code, every, self.rows.size, self.around)

    def run(
        self, file: Checkpoint, progress: Progress, done: Sequence[range], keep: Callable[[Part, int, int], None]
    ) -> None:
        """Draw what is not done yet."""
        problems = workers(self.problem, self.devices)
        parts, times = _parts(problems, self.rows, progress, done, self.identity), self.sampler.times(self.problem)
        Run(self.sampler, problems, times, self.rows, parts, file, progress, self.observers, self.on_nan, keep).finish()

    def record(
        self,
        log_weight: Tensor | None,
        signs: dict[str, Tensor],
        failed: Tensor,
        begun_in: Mapping[str, Any],
        most: int,
    ) -> dict[str, Any]:
        """What samples say of themselves; `begun_in` is where they were begun, `most` the rows of the largest chunk."""
        if log_weight is not None:
            check_weights(log_weight, failed, self.sampler)
        record = {"midguide": self.code.version, "code": self.code.sha256, **self.identity}
        record |= {**_names(self.problem), **_why(self.sampler), **described(signs_of(self.sampler))}
        record |= {"environment": self.around | {"rows_at_once": most}}
        record |= {"begun_in": dict(begun_in)} if begun_in != self.around else {}
        record |= {FAILED: found} if (found := places(failed)) else {}
        return record | remarks(log_weight, signs, record)


def _in_memory(asked: _Asked, checkpoint: str | Path | None, every: float) -> Samples:
    """Draw, and keep everything until the end."""
    problem, n = asked.problem, asked.rows.n
    file = asked.file(checkpoint, every)
    progress = file.load(asked.home)

    def keep(part: Part, forwards: int, vjps: int) -> None:
        progress.parts.append(_at(asked.home, part))

    asked.run(file, progress, [part.rows for part in progress.parts], keep)
    progress.parts.sort(key=lambda part: part.rows.start)
    finished = [part.finished for part in progress.parts]
    signs, failed = _signs(progress.parts, problem.observations)

    rows_of_draws = filled(torch.cat([block.draws for block in finished]), failed)
    draws, latents = _signals(problem, rows_of_draws.split([len(part.rows) for part in progress.parts]))
    draws, *rest = (value.unflatten(0, (problem.observations, n)) for value in (draws, *latents.values()))
    log_weight = _together(_weights(finished, failed), problem.observations)
    log_evidence = _together([block.log_evidence for block in finished], problem.observations)
    most = max(len(part.rows) for part in progress.parts)
    record = asked.record(log_weight, signs, failed, progress.begun_in, most)
    seconds, size = progress.seconds + file.seconds, asked.rows.total
    cost = Cost(progress.forwards / size, progress.vjps / size, seconds, peak_memory(draws))
    known = {} if problem.truth is None else {"truth": problem.truth}
    tensors = {"y": problem.likelihood.y, **dict(zip(latents, rest, strict=True)), **known}
    return Samples(draws, cost, record, tensors, log_weight, log_evidence, asked.rows.group, signs, problem)


def _to_disk(asked: _Asked, path: Path, every: float) -> StoredSamples:
    """Draw, and write each chunk when it is finished."""
    problem, rows = asked.problem, asked.rows
    with closing(Stream(path, asked.identity, asked.code)) as stream:
        if not stream.complete:
            stream.check_space(problem, rows.n, problem.likelihood.y.dtype)
            file = asked.file(stream.step, every)
            progress = file.load(asked.home)
            progress.forwards, progress.vjps = stream.written.forwards, stream.written.vjps
            before, most = 0.0, max(map(len, stream.written.parts), default=0)

            def keep(part: Part, forwards: int, vjps: int) -> None:
                nonlocal before, most
                part = _at(asked.home, part)
                calls = {"forwards": forwards, "vjps": vjps, "seconds": file.seconds - before}
                values = _values(problem, part)
                stream.lay_out(problem, rows.n, values["draws"].dtype, rows.size)
                stream.write(part.rows, rows.n, values, calls)
                before, most = file.seconds, max(most, len(part.rows))

            asked.run(file, progress, stream.written.parts, keep)
            failed = stream.read(FAILED)
            failed = torch.zeros(problem.observations, rows.n) if failed is None else failed
            stream.fill(failed)
            signs = {name: value for name in signs_of(asked.sampler) if (value := stream.read(SIGN + name)) is not None}
            record = asked.record(stream.read("log_weight"), signs, failed, progress.begun_in, most)
            seconds, size = stream.written.seconds + file.seconds, rows.total
            peak = peak_memory(problem.likelihood.y)
            cost = Cost(progress.forwards / size, progress.vjps / size, seconds, peak)
            stream.seal(record, cost, rows.group, problem.denoiser.signal)
    return replace(StoredSamples.open(path), problem=problem)


def _values(problem: Problem, part: Part) -> dict[str, Tensor]:
    """What a chunk gave, by the names of the arrays in a store."""
    failed = part.signs.get(FAILED, torch.zeros(len(part.rows)))
    draws, latents = _signals(problem, [part.finished.draws])
    values = {"draws": draws, **latents}
    weights = {"log_weight": part.finished.log_weight, "log_evidence": part.finished.log_evidence}
    values |= {name: value for name, value in weights.items() if value is not None}
    for name, value in part.signs.items():
        if name != FAILED:
            values[SIGN + name] = torch.where(failed.to(value.device) > 0, 0.0, value)
    return values | ({FAILED: failed} if bool((failed > 0).any()) else {})


def _parts(
    problems: Sequence[Problem], rows: Rows, progress: Progress, done: Sequence[range], identity: Mapping[str, Any]
) -> Parts:
    """The chunks that are left, of a size that fits the device with the least memory."""
    first = problems[0].likelihood.y
    places = [problem.likelihood.y.device for problem in problems]
    budgets = [Budget(place, places.count(place)) for place in dict.fromkeys(places)] if rows.size is None else [None]
    values = max(math.prod(problems[0].event_shape), first[0].numel())
    return Parts(
        rows.total,
        rows.unit,
        rows.size,
        budget=min(budgets, key=lambda budget: budget.bytes or math.inf if budget else 0),
        bytes_per_row=values * first.element_size(),
        workers=len(problems),
        done=done,
        held=progress.held.part,
        key=fingerprint({"sampler": identity["sampler"], "prior": identity["prior"], "place": str(places)}),
    )


def _at(device: torch.device, part: Part) -> Part:
    """A finished chunk, its tensors on this device."""
    draws, *weights = part.finished
    finished = Finished(draws.to(device), *(None if value is None else value.to(device) for value in weights))
    return Part(part.rows, finished, {name: value.to(device) for name, value in part.signs.items()})


def _signals(problem: Problem, blocks: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The draws of chunks as signals, shape (rows, *signal), and their latents where they have some."""
    with torch.no_grad():
        signals = torch.cat([problem.signals(block) for block in blocks])
    space = problem.denoiser.signal.space  # for methods that do not end with an answer of the denoiser
    return signals if space is None else space.project(signals), problem.extras(torch.cat(list(blocks)))


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


def _signs(parts: Sequence[Part], observations: int) -> tuple[dict[str, Tensor], Tensor]:
    """Signs of all chunks, and the steps at which rows failed (0 if they did not), shape (observation, sample)."""
    none = [part.signs.get(FAILED, torch.zeros(len(part.rows), dtype=torch.float64)).cpu() for part in parts]
    failed = torch.cat(none).reshape(observations, -1)
    signs = {
        name: torch.cat([part.signs[name] for part in parts]).reshape(observations, -1)
        for name in parts[0].signs
        if name != FAILED
    }
    return {name: torch.where(failed.to(value.device) > 0, 0.0, value) for name, value in signs.items()}, failed


def _names(problem: Problem) -> dict[str, Any]:
    """What the operator was made from, where it was made by its name, and what the draws are."""
    made, signal = problem.signal_likelihood.operator.made_from, problem.denoiser.signal
    known = {"operator": describe(made)} if made else {}
    return known | {"signal": {**signal.record(), "value_range": signal.value_range and list(signal.value_range)}}


def _why(sampler: Sampler) -> dict[str, str]:
    """Why `auto` chose this sampler, where it did."""
    return {"auto": reason} if (reason := reason_of(sampler)) else {}


def _identity(sampler: Sampler, problem: Problem, rows: Rows) -> dict[str, Any]:
    """What the draws depend on besides the code, as JSON."""
    return {
        "sampler": describe(SAMPLERS.record(sampler)),
        "prior": problem.denoiser.record(),
        "likelihood": describe(problem.likelihood),
        "n": rows.n,
        "seed": rows.seed,
        "stream_size": rows.stream_size,
    }
