"""What a source of draws is, and the sources by name: samplers, the exact posterior, the prior, baselines."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from midguide.catalogue import plugins
from midguide.catalogue.base import Catalogue, Entry
from midguide.errors import ConfigError
from midguide.inference.samples import Samples
from midguide.problem import Problem

LAW = ("law_mean", "law_covariance")
"""Names of the tensors that hold the moments of a known law in `Samples.tensors`."""


class Source(Protocol):
    """Gives draws for a problem; a frozen dataclass, since its fields are part of a unit's address."""

    def check(self, problem: Problem) -> None:
        """Refuse a problem that the source cannot handle, before anything is drawn."""
        ...

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        """`n` draws of each observation of a problem, from random streams of `seeds`, one each, and their cost."""
        ...


def _made(thing: Any) -> Any:
    """What a factory returns, by its annotation; a class itself."""
    return thing if isinstance(thing, type) or not callable(thing) else typing.get_type_hints(thing).get("return")


def _check_source(thing: object) -> None:
    """Refuse what gives no draws."""
    made = _made(thing)
    lacking = [part for part in ("check", "draw") if not hasattr(made, part)]
    if lacking or (isinstance(thing, type) and not dataclasses.is_dataclass(thing)):
        raise ConfigError(
            f"it lacks {', '.join(lacking)}" if lacking else "it is not a dataclass",
            hint="a source is a frozen dataclass with check and draw, or a function (kind, *, ...) -> Source",
        )


SOURCES: Catalogue[Source] = Catalogue(
    "source of draws", "midguide.studies.sources", group="midguide.sources", check=_check_source
)
"""Sources by name: dataclasses of their settings, or functions `(kind, *, ...)` of the kind of problems.

Facts: `of_sampler`, functions `(sampler)` that say what is taken of a sampler; `reference`, what methods are held
against, and no method itself.
"""


def own_source(spec: str) -> Entry[Source] | None:
    """The source that `spec` names; None where it names a sampler, or nothing that is known."""
    if found := plugins.PLACE.match(spec):
        own = hasattr(_made(plugins.load_object(found[1], found[2])), "draw")
        return SOURCES.find(spec)[0] if own else None
    name = spec.partition(":")[0]
    return SOURCES[name] if name in SOURCES and "of_sampler" not in SOURCES[name].facts else None


def is_reference(spec: str) -> bool:
    """Whether `spec` names what methods are held against, and no method."""
    entry = own_source(spec)
    return entry is not None and "reference" in entry.facts


def taken_of_a_sampler() -> list[str]:
    """The names of what can be taken of a sampler."""
    return [name for name, entry in SOURCES.items() if "of_sampler" in entry.facts]


def law_of(samples: Samples) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance that draws are known to have, if they are."""
    if not set(LAW) <= set(samples.tensors):
        return None
    return samples.tensors[LAW[0]], samples.tensors[LAW[1]]
