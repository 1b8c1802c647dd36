"""The contract of samplers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.inference.loop import sample
from midguide.inference.observers import Event
from midguide.priors.base import Denoiser
from midguide.problem import Problem
from midguide.samplers.base import Sampler
from midguide.testing.contract import require


def check_sampler(sampler: Sampler, problem: Problem, *, tolerance: float = 1e-4) -> None:
    """Check everything that a sampler promises, on a problem with at least two observations.

    Finite; the same seed gives the same draws and another seed others; sample j of observation i does not depend on
    the number of samples, on the chunk, on the other observations, or on the order in which observations and what the
    network returns lie in memory; interrupted and resumed gives the very same draws;
    network calls as announced by `calls`, at usable times only; inputs and the global random state are left alone.

    Args:
        sampler: what to check, with few steps.
        problem: any problem that it accepts.
        tolerance: relative difference allowed between batches, for the rounding of batched arithmetic.

    Raises:
        ContractError: the first broken fact.
    """
    problem = problem.to_latent()
    spy = _Spy(problem.denoiser)
    watched = Problem(spy, problem.likelihood, problem.truth)
    y, random_state = problem.likelihood.y.clone(), torch.get_rng_state()
    whole = sample(sampler, watched, 3, seed=1)
    draws = whole.draws
    require(torch.equal(torch.get_rng_state(), random_state), sampler, "draws from the global random numbers")
    require(torch.equal(problem.likelihood.y, y), sampler, "changes the observations")
    require(bool(torch.isfinite(draws).all()), sampler, "gives values that are not finite")
    outside = [t for t in spy.times if problem.schedule.snap(t) != t]
    require(not outside, sampler, f"calls the network at times that it does not know: {outside[:3]}")
    announced, spent = sampler.calls(problem), (whole.cost.network_forwards, whole.cost.network_vjps)
    require(tuple(announced) == spent, sampler, f"announces {tuple(announced)} forwards and vjps, spends {spent}")
    require(torch.equal(sample(sampler, problem, 3, seed=1).draws, draws), sampler, "gives other draws for one seed")
    require(not torch.equal(sample(sampler, problem, 3, seed=2).draws, draws), sampler, "ignores the seed")
    _check_batches(sampler, problem, draws, tolerance)
    _check_resume(sampler, problem, draws)


def _check_batches(sampler: Sampler, problem: Problem, draws: Tensor, tolerance: float) -> None:
    scale = draws.abs().max()

    def compare(name: str, got: Tensor, want: Tensor) -> None:
        error = float((got - want).abs().max() / scale)
        require(error <= tolerance, sampler, f"the draws depend on {name}, by {error:.1e} of their size")

    if not sampler.needs.couples_samples:
        compare("the number of samples", sample(sampler, problem, 1, seed=1).draws, draws[:, :1])
        for chunk in (1, 2):
            compare("the chunk", sample(sampler, problem, 3, seed=1, chunk=chunk).draws, draws)
    reordered = replace(problem.likelihood, y=_reordered(problem.likelihood.y))
    other = Problem(_Reordered(problem.denoiser), reordered, problem.truth)
    compare("the order of its inputs in memory", sample(sampler, other, 3, seed=1).draws, draws)
    first = problem.select(torch.tensor([0]))
    compare("the other observations", sample(sampler, first, 3, seed=1).draws, draws[:1])


def _check_resume(sampler: Sampler, problem: Problem, draws: Tensor) -> None:
    total = 2 * (len(sampler.times(problem)) - 1)
    for stop in (1, total // 2 + 1, total - 1):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "progress.safetensors"
            chunk = -(-3 * problem.observations // 2)
            try:
                sample(sampler, problem, 3, seed=1, chunk=chunk, checkpoint=path, observers=[_Interrupt(stop)])
            except KeyboardInterrupt:
                pass
            resumed = sample(sampler, problem, 3, seed=1, chunk=chunk, checkpoint=path)
            straight = sample(sampler, problem, 3, seed=1, chunk=chunk)
        same = torch.equal(resumed.draws, straight.draws)
        require(same, sampler, f"interrupted after step {stop} of {total} and resumed, it gives other draws")
        cost = (resumed.cost.network_forwards, resumed.cost.network_vjps)
        want = (straight.cost.network_forwards, straight.cost.network_vjps)
        require(cost == want, sampler, f"resumed, it counts {cost} network calls instead of {want}")


class _Spy(Denoiser):
    """A denoiser that remembers the times it was asked for."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.times = inner, set[Time]()
        self.schedule, self.event_shape, self.value_range = inner.schedule, inner.event_shape, inner.value_range

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        self.times.add(t)
        return self.inner(x, t)


class _Reordered(Denoiser):
    """A denoiser whose answers lie in memory with the last axis first, as after a network that runs channels last."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.schedule = inner, inner.schedule
        self.event_shape, self.value_range = inner.event_shape, inner.value_range

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
