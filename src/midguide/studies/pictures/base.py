"""Pictures of a study's stored draws, by name: each draws the problems that it knows, and leaves the others.

@PICTURES.register("reconstructions")
def reconstructions(label: str, cases: Sequence[Case]) -> dict[str, Figure]: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError
from midguide.inference.samples import Samples
from midguide.problem import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Case:
    """One problem of a study with what was drawn for it.

    Args:
        seed: of the problem.
        probe: it, perhaps with other values of what was measured.
        samples: by the label of the sampler; None where no draws are stored.
    """

    seed: int
    probe: Problem
    samples: Mapping[str, Samples | None]

    @cached_property
    def problem(self) -> Problem | None:
        """The problem with what was measured, and its truth where it is known; None where no draws are stored."""
        known = next((samples.tensors for samples in self.samples.values() if samples is not None), None)
        if known is None:
            return None
        likelihood = replace(self.probe.likelihood, y=known["y"])
        return replace(self.probe, likelihood=likelihood, truth=known.get("truth"))


Picture = Callable[[str, Sequence[Case]], "dict[str, Figure]"]
"""Figures by heading, of the label of a problem and its first cases; none where it is not made for them."""


def _check_picture(thing: object) -> None:
    if not inspect.isfunction(thing) or list(inspect.signature(thing).parameters) != ["label", "cases"]:
        raise ConfigError("it is not a picture", hint="a function (label, cases) that returns figures by heading")


PICTURES: Catalogue[Picture] = Catalogue(
    "picture", "midguide.studies.pictures", group="midguide.pictures", check=_check_picture
)
"""Pictures by name."""
