"""The contract of samplers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.errors import NumericalError
from midguide.inference.loop import sample
from midguide.inference.observers import Event
from midguide.inference.rows import Rows
from midguide.inference.samples import Samples
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.problem import Problem
from midguide.samplers.base import Sampler, signs_of
from midguide.testing.contract import ContractError, require


def check_sampler(sampler: Sampler, problem: Problem, *, tolerance: float = 1e-4) -> None:
    """Check everything that a sampler promises, on a problem with at least two observations.

    It checks the following. Draws are finite. The same seed gives the same draws, and another seed others. A group of
    samples of observation i does not depend on the number of samples, the chunk, or the other groups and observations.
    Nor does it depend on the order in which observations, and what the network returns, lie in memory. All random
    numbers come from `rng`. An interrupted and resumed run gives the very same draws. Network calls are as many as
    `calls` announces, at usable times only. Inputs and the global random state stay as they are. Weights and evidence
    must meet the same demands as draws.

    Args:
        sampler: what to check, with few steps; where it keeps groups together, with small ones. Three are drawn.
        problem: any problem that it accepts.
        tolerance: relative difference allowed between batches, for the rounding of batched arithmetic.

    Raises:
        ContractError: If a fact is broken; names the first.
    """
    n = 3 * sampler.needs.group
    spy = _Spy(problem.denoiser)
    watched = replace(problem, denoiser=spy)
    y, random_state = problem.likelihood.y.clone(), torch.get_rng_state()
    try:
        whole = sample(sampler, watched, n, seed=1, on_nan="stop", progress=False)
    except NumericalError as error:
        raise ContractError(f"{type(sampler).__name__}: {error.message}") from error
    missing = [name for name in signs_of(sampler) if name not in whole.signs]
    require(not missing, sampler, f"declares signs that no step gives: {missing}")
    require(torch.equal(torch.get_rng_state(), random_state), sampler, "draws from the global random numbers")
    require(torch.equal(problem.likelihood.y, y), sampler, "changes the observations")
    outside = [t for t in spy.times if problem.schedule.snap(t) != t]
    require(not outside, sampler, f"calls the network at times that it does not know: {outside[:3]}")
    announced, spent = sampler.calls(problem), (whole.cost.network_forwards, whole.cost.network_vjps)
    require(tuple(announced) == spent, sampler, f"announces {tuple(announced)} forwards and vjps, spends {spent}")
    require(
        _same(sample(sampler, problem, n, seed=1, progress=False), whole), sampler, "gives other draws for one seed"
    )
    other = sample(sampler, problem, n, seed=2, progress=False).draws
    require(not torch.equal(other, whole.draws), sampler, "ignores the seed")
    _check_batches(sampler, problem, whole, tolerance)
    _check_resume(sampler, problem, n)
    _check_streams(sampler, problem, n)


def _check_streams(sampler: Sampler, problem: Problem, n: int) -> None:
    """Refuse random streams of the sampler's own making, which no seed and no address reaches."""
    rows, times = Rows(problem.observations, n, group=sampler.needs.group, seed=1), sampler.times(problem)
    (part,) = rows.chunks
    batch, rng = rows.problem(problem, part), rows.rng(part)
    assert rng.groups.rows == rng.layout.groups  # made here, so that the sampler makes none
    made: list[object] = []

    def watched(*arguments: Any) -> torch.Generator:
        made.append(arguments)
        return generator(*arguments)

    generator, torch.Generator = torch.Generator, watched
    try:
        with torch.no_grad():
            state = sampler.init(batch, rng)
            for t, s in pairwise(times):
                state = sampler.step(batch, state, t, s, rng).state
            sampler.finish(batch, state, times[-1], rng)
    finally:
        torch.Generator = generator
    require(not made, sampler, "makes random streams of its own in place of those of `rng`")


def _check_batches(sampler: Sampler, problem: Problem, whole: Samples, tolerance: float) -> None:
    group, n = sampler.needs.group, whole.draws.shape[1]

    def compare(name: str, got: Samples, observations: int = problem.observations) -> None:
        for part, value in _parts(got).items():
            want = _parts(whole)[part]
            scale = want[want.isfinite()].abs().max().clamp_min(torch.finfo(torch.float32).tiny)
            want = want[:observations, : value.shape[1]]
            error = float(torch.where(value == want, 0.0, (value - want).abs()).max() / scale)
            require(error <= tolerance, sampler, f"the {part} depend on {name}, by {error:.1e} of their size")

    compare("the number of samples", sample(sampler, problem, group, seed=1, progress=False))
    for chunk in (group, 2 * group):
        compare("the chunk", sample(sampler, problem, n, seed=1, chunk=chunk, progress=False))
    reordered = replace(problem.likelihood, y=_reordered(problem.likelihood.y))
    other = replace(problem, denoiser=_Reordered(problem.denoiser), likelihood=reordered)
    compare("the order of its inputs in memory", sample(sampler, other, n, seed=1, progress=False))
    first = problem.select(torch.tensor([0]))
    compare("the other observations", sample(sampler, first, n, seed=1, progress=False), 1)


def _check_resume(sampler: Sampler, problem: Problem, n: int) -> None:
    total = 2 * (len(sampler.times(problem)) - 1)
    for stop in (1, total // 2 + 1, total - 1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "progress.safetensors"
            chunk = sampler.needs.group * -(-3 * problem.observations // 2)
            try:
                sample(
                    sampler,
                    problem,
                    n,
                    seed=1,
                    chunk=chunk,
                    checkpoint=path,
                    observers=[_Interrupt(stop)],
                    progress=False,
                )
            except KeyboardInterrupt:
                pass
            resumed = sample(sampler, problem, n, seed=1, chunk=chunk, checkpoint=path, progress=False)
            straight = sample(sampler, problem, n, seed=1, chunk=chunk, progress=False)
        same = _same(resumed, straight)
        require(same, sampler, f"interrupted after step {stop} of {total} and resumed, it gives other draws")
        cost = (resumed.cost.network_forwards, resumed.cost.network_vjps)
        want = (straight.cost.network_forwards, straight.cost.network_vjps)
        require(cost == want, sampler, f"resumed, it counts {cost} network calls instead of {want}")


def _parts(samples: Samples) -> dict[str, Tensor]:
    """What a sampler gave, by name, axes (observation, sample or group, ...)."""
    parts = {"draws": samples.draws, "log-weights": samples.log_weight, "log-evidences": samples.log_evidence}
    return {name: value for name, value in parts.items() if value is not None}


def _same(a: Samples, b: Samples) -> bool:
    """Whether draws, weights and signs are equal to the bit."""
    mine, other = {**_parts(a), **a.signs}, {**_parts(b), **b.signs}
    return mine.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in mine.items())


class _Spy(Wrapped):
    """A denoiser that remembers the times it was asked for."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.times = set[Time]()

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        self.times.add(t)
        return self.inner(x, t)


class _Reordered(Wrapped):
    """A denoiser whose answers lie in memory with the last axis first, as after a network that runs channels last."""

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return _reordered(self.inner(_reordered(x), t))


def _reordered(x: Tensor) -> Tensor:
    """The same values, the last axis outermost in memory."""
    return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))


class _Interrupt:
    """An observer that acts as Ctrl-C after a number of steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def start(self, total: int, done: int) -> None:
        """Nothing to prepare."""

    def step(self, event: Event) -> None:
        if event.done == self.after:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Nothing to close."""
