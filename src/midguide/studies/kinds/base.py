"""What a kind of problems is, and the kinds by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError
from midguide.problem import Problem


class ProblemKind(Protocol):
    """The settings of a family of problems of one observation each, addressed by a seed."""

    stacks: ClassVar[bool]
    """Whether the problems of all seeds share prior, operator and noise model, and can be sampled as one."""

    @property
    def simulated(self) -> bool:
        """Whether the data stand for people who do not exist; the report's title says so."""
        ...

    @property
    def prior(self) -> str:
        """The prior as tables name it."""
        ...

    def prior_digest(self) -> str:
        """What identifies the prior besides settings and seed: the SHA-256 of its record; empty where it follows."""
        ...

    def data_digest(self, seed: int) -> str:
        """What identifies the data of this seed likewise; empty where they follow from the rest."""
        ...

    def build(self, seed: int) -> Problem:
        """The problem of this seed, with one observation."""
        ...

    def probe(self, seed: int) -> Problem:
        """A problem with the prior, operator and noise model of `build`, whose values do not matter: for checks."""
        ...


@runtime_checkable
class BuildsTogether(Protocol):
    """A kind whose problems are cheaper to build together."""

    def build_all(self, seeds: Sequence[int]) -> list[Problem]:
        """The problem of each seed, up to rounding that of `build`."""
        ...


def build_all(kind: ProblemKind, seeds: Sequence[int]) -> list[Problem]:
    """The problem of each seed."""
    return kind.build_all(seeds) if isinstance(kind, BuildsTogether) else [kind.build(seed) for seed in seeds]


def _check_kind(thing: object) -> None:
    """Refuse what lacks a part of a kind of problems."""
    parts = ("stacks", "simulated", "prior_digest", "data_digest", "build", "probe")
    lacking = [part for part in parts if not hasattr(thing, part)]
    if lacking or not (isinstance(thing, type) and dataclasses.is_dataclass(thing)):
        raise ConfigError(
            f"it lacks {', '.join(lacking)}" if lacking else "it is not a dataclass",
            hint="a kind of problems is a frozen dataclass with prior, " + ", ".join(parts),
        )


KINDS: Catalogue[ProblemKind] = Catalogue(
    "kind of problems", "midguide.studies.kinds", group="midguide.kinds", check=_check_kind
)
"""Kinds of problems by name: frozen dataclasses of their settings. One that is a path is annotated with `PathOr`."""
