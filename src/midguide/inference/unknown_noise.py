"""Posterior draws where the noise level is not known: signal and level are drawn in turn (a Gibbs sampler)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from midguide.errors import ConfigError, UnsupportedProblem
from midguide.inference.cost import Cost
from midguide.inference.loop import sample
from midguide.inference.observers import Observer
from midguide.inference.samples import Samples
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths.rng import stream_seed
from midguide.problem import Problem
from midguide.samplers.base import Sampler

LEVELS = "sigma_y"
"""In the tensors of the result: noise levels of each draw after each sweep, shape (observation, sample, sweep)."""


def sample_with_unknown_noise(
    sampler: Sampler,
    problem: Problem,
    n: int = 1,
    *,
    sweeps: int = 10,
    shape: float = 0.0,
    rate: float = 0.0,
    seed: int = 0,
    chunk: int | None = None,
    observers: Sequence[Observer] = (),
) -> Samples:
    """Draw signals and noise levels from `p(x, sigma_y | y)`, for Gaussian noise.

    Each draw is the end of a chain of its own. A sweep draws x with the sampler at the chain's noise level, then the
    level from its law given x. With the prior `sigma_y^-2 ~ Gamma(shape, rate)` and m measured values this law is

        sigma_y^-2 | x, y ~ Gamma(shape + m / 2, rate + ||y - A(x)||^2 / 2).

    The chain is exact where the sampler is. A sampler that draws too narrowly makes levels too small, and conversely.
    Draw (observation i, sample j) depends on (seed, i, j) only.

    Args:
        sampler: one whose draws have no weights, with groups of one.
        problem: its noise must be Gaussian. `sigma_y` is the level at which chains begin; levels that differ between
            values (`GaussianLikelihood.of`) keep their ratios.
        n: samples per observation.
        sweeps: of each chain, at least 1.
        shape: of the prior of the precision; 0 and rate 0 for the improper prior `1 / sigma_y^2`.
        rate: see `shape`, in squared units of y.
        seed: any integer.
        chunk: as for `sample`.
        observers: as for `sample`; they see one run for each sweep.

    Returns:
        Samples whose tensors hold the levels after each sweep, by the name `sigma_y`, shape (observation, sample,
        sweep). Look at them: chains that still drift need more sweeps. The cost is that of all sweeps.

    Raises:
        UnsupportedProblem: If the noise is not Gaussian, or the sampler weights its draws.
        ConfigError: If sweeps is less than 1, or shape or rate is negative.

    Example:
        >>> from midguide import make_sampler
        >>> from midguide.operators.matrix import Identity
        >>> from midguide.priors.gaussian import Gaussian
        >>> prior = Gaussian(torch.zeros(8), 1.0)
        >>> problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.3)
        >>> drawn = sample_with_unknown_noise(make_sampler("matheron", {"steps": 5}), problem, 4, sweeps=3)
        >>> drawn.tensors["sigma_y"].shape
        torch.Size([1, 4, 3])
    """
    likelihood = problem.signal_likelihood
    if not isinstance(likelihood, GaussianLikelihood):
        raise UnsupportedProblem(f"the noise is not Gaussian, it is a {type(likelihood).__name__}")
    if sweeps < 1 or not (shape >= 0.0 and rate >= 0.0):
        raise ConfigError(
            f"sweeps={sweeps}, shape={shape:g}, rate={rate:g} are impossible", hint="sweeps from 1, the others from 0"
        )
    if sampler.needs.group > 1:
        raise UnsupportedProblem(
            "draws in groups belong to one noise level each", hint="take a sampler without particles"
        )
    rows = problem.expand(n)
    sigma = torch.full((rows.observations,), likelihood.sigma_y, dtype=torch.float64)
    trace, seconds, drawn = [], 0.0, None
    for sweep in range(sweeps):
        seeds = [stream_seed(seed, "sweep", sweep, i, j) for i in range(problem.observations) for j in range(n)]
        drawn = sample(sampler, _at(rows, sigma), seed=seeds, chunk=chunk, observers=observers, progress=False)
        if drawn.log_weight is not None:
            raise UnsupportedProblem("the sampler weights its draws", hint="take one without weights")
        seconds += drawn.cost.seconds
        sigma = _levels(rows, drawn, shape, rate, seeds)
        trace.append(sigma)
    assert drawn is not None  # there is at least one sweep
    return _together(drawn, problem, n, torch.stack(trace, 1), seconds)


def _at(rows: Problem, sigma: Tensor) -> Problem:
    """The rows, each with its own noise level, shape (rows,)."""
    given = rows.signal_likelihood
    each = sigma.to(given.y).reshape(-1, *[1] * (given.y.ndim - 1))
    return Problem.of(rows.denoiser, GaussianLikelihood.of(given.operator, given.y, each), rows.truth)


def _levels(rows: Problem, drawn: Samples, shape: float, rate: float, seeds: Sequence[int]) -> Tensor:
    """Noise levels given the signals, one for each row, float64."""
    likelihood = rows.signal_likelihood
    squares = likelihood.difference(drawn.draws[:, 0]).double().square().flatten(1).sum(1).cpu()
    counts = likelihood.measured_values().double().cpu()
    gamma = [
        np.random.default_rng(stream_seed(one, "level")).standard_gamma(shape + count / 2)
        for one, count in zip(seeds, counts.tolist(), strict=True)
    ]
    return ((rate + squares / 2) / torch.tensor(gamma, dtype=torch.float64)).sqrt()


def _together(drawn: Samples, problem: Problem, n: int, trace: Tensor, seconds: float) -> Samples:
    """The draws of rows as those of observations, with the levels and what all sweeps cost."""
    sweeps = trace.shape[1]
    cost = Cost(
        drawn.cost.network_forwards * sweeps, drawn.cost.network_vjps * sweeps, seconds, drawn.cost.peak_memory_mib
    )
    known = {} if problem.truth is None else {"truth": problem.truth}
    tensors = {"y": problem.likelihood.y, LEVELS: trace.reshape(problem.observations, n, sweeps), **known}
    if "latents" in drawn.tensors:
        latents = drawn.tensors["latents"]
        tensors["latents"] = latents.reshape(problem.observations, n, *latents.shape[2:])
    record = {**drawn.record, "n": n, "sweeps": sweeps}
    signs = {name: value.reshape(problem.observations, n) for name, value in drawn.signs.items()}
    draws = drawn.draws.reshape(problem.observations, n, *drawn.draws.shape[2:])
    return replace(drawn, draws=draws, cost=cost, record=record, tensors=tensors, signs=signs, problem=None)
