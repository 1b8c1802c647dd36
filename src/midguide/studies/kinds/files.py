"""Priors, operators and whatever else a study reads from files, kept in memory until the next study is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from midguide.errors import ConfigError, about
from midguide.inference.loop import sample
from midguide.maths.rng import stream_seed
from midguide.operators.base import Operator
from midguide.operators.factory import make_operator
from midguide.priors.base import Denoiser
from midguide.priors.loading import load_prior
from midguide.priors.settings import Dtype, PriorSettings
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.storage.record import describe, fingerprint

P = ParamSpec("P")
T = TypeVar("T")

PRIOR = "prior"
"""As data: draws of the prior itself."""

TRUTH_STEPS = 200
"""Steps of the ancestral sampling that makes the truths of `data = "prior"`."""

AS_STATED = PriorSettings()
"""A prior as its file states it."""

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
def prior_of(name: str, dtype: Dtype = "float32", settings: PriorSettings = AS_STATED) -> Denoiser:
    """The prior of a name or file, computing in the dtype of this name; the same object for all problems of a study."""
    with about("prior"):
        if settings.dtype is not None:
            raise ConfigError(
                "`dtype` is a setting of the problem, not of `prior_settings`", hint="write it beside them"
            )
        return load_prior(name, settings, dtype=dtype)


@kept(8)
def prior_digest(name: str, dtype: Dtype = "float32", settings: PriorSettings = AS_STATED) -> str:
    """SHA-256 of the record of a prior, which has digests of its weights; names in it, which files move with, aside."""
    return fingerprint(_unnamed(prior_of(name, dtype, settings).record()))


def _unnamed(record: dict[str, Any]) -> dict[str, Any]:
    parts = ("denoiser", "autoencoder", "inner")
    return {key: _unnamed(item) if key in parts else item for key, item in record.items() if key != "name"}


def record_of(settings: PriorSettings) -> dict[str, Any]:
    """What a result depends on beside the prior's file; nothing where all is as the file states."""
    return {"prior_settings": stated} if (stated := settings.record()) else {}


@kept(512)
def operator_of(
    name: str, settings: str, seed: int, event_shape: tuple[int, ...], value_range: tuple[float, float] | None
) -> tuple[Operator, Any]:
    """An operator, the same object for all problems that ask for it, and its description.

    Args:
        name: in `midguide list operators`.
        settings: its own settings, as JSON.
        seed: of what it draws.
        event_shape: shape of one signal.
        value_range: of signals, or None where it is not known.
    """
    made = make_operator(name, event_shape, seed=seed, value_range=value_range, **json.loads(settings))
    return made, describe(made)


@kept(2)
def _prior_of_truths(name: str, settings: PriorSettings) -> Denoiser:
    """The prior once more: where that of the problems moves to a device, this one stays on the CPU."""
    return load_prior(name, settings)


@kept(2048)
def drawn_from(name: str, seed: int, settings: PriorSettings = AS_STATED) -> Tensor:
    """A draw of the prior, shape (1, *signal); in float32 and on its own, so that it depends on prior and seed only."""
    problem = Problem.unobserved(_prior_of_truths(name, settings))
    return sample(Unconditional(steps=TRUTH_STEPS), problem, seed=stream_seed("truth", seed), progress=False).draws[0]
