"""Priors, operators and whatever else a study reads from files, kept in memory until the next study is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from midguide.denoisers.latent import LatentPrior
from midguide.denoisers.loading import load_prior
from midguide.denoisers.network import NetworkDenoiser
from midguide.errors import about
from midguide.operators.base import Operator
from midguide.operators.registry import make_operator
from midguide.problem import Problem
from midguide.record import describe
from midguide.rng import stream_seed
from midguide.samplers.unconditional import Unconditional
from midguide.sampling import sample

P = ParamSpec("P")
T = TypeVar("T")

PRIOR = "prior"
"""As data: draws of the prior itself."""

TRUTH_STEPS = 200
"""Steps of the ancestral sampling that makes the truths of `data = "prior"`."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_clear: list[Callable[[], None]] = []


def kept(most: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: the last `most` results stay in memory, until `forget_files`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        cached = lru_cache(maxsize=most)(function)
        _clear.append(cached.cache_clear)
        return cached  # pyright: ignore[reportReturnType]

    return decorate


def forget_files() -> None:
    """Read everything anew: since the last study of this process the files may have changed."""
    for clear in _clear:
        clear()


@kept(8)
def prior_of(name: str, dtype: str = "float32") -> NetworkDenoiser | LatentPrior:
    """The prior of a name or file, computing in the dtype of this name; the same object for all problems of a study."""
    with about("prior"):
        return load_prior(name, dtype=DTYPES[dtype])


@kept(512)
def operator_of(name: str, settings: str, seed: int, event_shape: tuple[int, ...]) -> tuple[Operator, Any]:
    """An operator, the same object for all problems that ask for it, and its description.

    Args:
        name: in `operators.registry.OPERATORS`.
        settings: its own settings, as JSON.
        seed: of what it draws.
        event_shape: shape of one signal.
    """
    made = make_operator(name, event_shape, seed=seed, **json.loads(settings))
    return made, describe(made)


@kept(2)
def _prior_of_truths(name: str) -> NetworkDenoiser | LatentPrior:
    """The prior once more: where that of the problems moves to a device, this one stays on the CPU."""
    return load_prior(name)


@kept(2048)
def drawn_from(name: str, seed: int) -> Tensor:
    """A draw of the prior, shape (1, *signal); in float32 and on its own, so that it depends on prior and seed only."""
    problem = Problem.unobserved(_prior_of_truths(name))
    return sample(Unconditional(steps=TRUTH_STEPS), problem, seed=stream_seed("truth", seed)).draws[0]
