"""Problems with a known posterior, by their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from midguide.catalogue.settings import PathOr
from midguide.exact.posteriors import Opaque
from midguide.known.base import KNOWN
from midguide.problem import Problem
from midguide.storage.record import describe, fingerprint
from midguide.studies.kinds.base import KINDS
from midguide.studies.kinds.files import kept


@KINDS.register("known")
@dataclass(frozen=True, kw_only=True)
class KnownProblem:
    """A problem with a known posterior; see `midguide list known`.

    Args:
        problem: its name, or `FILE.py:NAME`.
        settings: its own settings.
        data: the setting `data` of problems that have one: a folder or zip file of images, `glyphs` or `patches`.
        closed_form: samplers may use the moments of the prior in closed form, which no network has.
    """

    stacks: ClassVar[bool] = False
    simulated: ClassVar[bool] = False

    problem: str
    settings: Mapping[str, object] = field(default_factory=dict)
    data: Annotated[str, PathOr("", "glyphs", "patches")] = ""
    closed_form: bool = False

    def __post_init__(self) -> None:
        KNOWN.resolve(self.problem, self._settings)

    @property
    def prior(self) -> str:
        return self.problem

    def record(self) -> dict[str, Any]:
        """The name, which results depend on only through what `data_digest` holds."""
        return {"type": "KnownProblem", "problem": self.problem, "closed_form": self.closed_form}

    def prior_digest(self) -> str:
        """Empty: each seed may have a prior of its own, which is part of `data_digest`."""
        return ""

    def data_digest(self, seed: int) -> str:
        """SHA-256 of the records of prior and likelihood, observation included."""
        made = self.build(seed)
        return fingerprint([made.denoiser.record(), describe(made.likelihood)])

    def build(self, seed: int) -> Problem:
        """The problem of this seed; the same object for all that ask for it."""
        return _built(self.problem, json.dumps(self._settings, sort_keys=True), seed, self.closed_form)

    def probe(self, seed: int) -> Problem:
        return self.build(seed)

    @property
    def _settings(self) -> dict[str, object]:
        return {**self.settings, **({"data": self.data} if self.data else {})}


@kept(64)
def _built(name: str, settings: str, seed: int, closed_form: bool) -> Problem:
    made = KNOWN.make(name, json.loads(settings), seed)
    return made if closed_form else Problem(Opaque(made.denoiser), made.likelihood, made.truth)
