"""Problems whose posterior is known, by name: functions `(seed, *, ...)` of a seed and of settings.

    @KNOWN.register("glyphs-box", family="images")
    def glyphs_box(seed: int, *, count: int = 1000) -> Problem: ...

The prior knows its posterior, or has a density and few entries: see `exact.posteriors`. Studies take a known posterior
as `kind = "known"`, and `midguide benchmark` runs a sampler on all that need no settings.
"""

from __future__ import annotations

import typing
from typing import Any

from midguide.catalogue.base import Catalogue, Entry
from midguide.errors import ConfigError
from midguide.likelihoods.base import LIKELIHOODS
from midguide.maths.rng import stream_seed
from midguide.operators.base import Operator
from midguide.problem import Problem


def _check_known(thing: Any) -> None:
    """Refuse what makes no problem."""
    made = typing.get_type_hints(thing).get("return") if callable(thing) and not isinstance(thing, type) else None
    if not (isinstance(made, type) and issubclass(made, Problem)):
        raise ConfigError(
            "it makes no problem",
            hint="a function (seed: int, *, ...) -> Problem, its settings keyword-only and with types",
        )


def _columns(entry: Entry[Problem]) -> dict[str, Any]:
    return dict(entry.facts)


KNOWN: Catalogue[Problem] = Catalogue(
    "known posterior", "midguide.known", context=("seed",), check=_check_known, columns=_columns
)
"""Problems of one observation with a known posterior, by name.

Facts: `family`, what the page groups them by; `title`, what tables say of them; `seeds`, how many problems the
benchmark takes, where they cost much.
"""


def simulated(prior: Any, operator: Operator, noise: str, seed: int, **settings: float) -> Problem:
    """The problem of a draw of the prior, its observation with noise of a name in `midguide list likelihoods`.

    Args:
        prior: with `sample`.
        operator: the instrument.
        noise: name of the noise model.
        seed: of the truth and of the noise.
        settings: of the noise model.
    """
    truth = prior.sample(1, seed=stream_seed(seed, "truth"))
    model = LIKELIHOODS.make(noise, settings)
    likelihood = model.observe(operator, truth, prior.signal_range or (-1.0, 1.0), seed=seed)
    return Problem(prior, likelihood, truth)
