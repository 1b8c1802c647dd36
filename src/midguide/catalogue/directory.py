"""All catalogues, by the plural under which they are listed: the one place that names them.

A domain names its own where it says what it brings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from midguide.catalogue.domain import domains
from midguide.errors import unknown

if TYPE_CHECKING:
    from midguide.catalogue.base import Catalogue

PLACES = {
    "samplers": "midguide.samplers.base:SAMPLERS",
    "operators": "midguide.operators.base:OPERATORS",
    "likelihoods": "midguide.likelihoods.base:LIKELIHOODS",
    "schedules": "midguide.diffusion.schedules:SCHEDULES",
    "signals": "midguide.signals.base:SIGNALS",
    "bodies": "midguide.nn.base:BODIES",
    "autoencoders": "midguide.nn.base:AUTOENCODERS",
    "formats": "midguide.priors.formats.base:FORMATS",
    "metrics": "midguide.metrics.base:METRICS",
    "set-metrics": "midguide.metrics.base:SET_METRICS",
    "known": "midguide.known.base:KNOWN",
    "checks": "midguide.inference.verdict.base:CHECKS",
    "quantities": "midguide.metrics.ranks:QUANTITIES",
    "laws": "midguide.exact.laws:LAWS",
    "kinds": "midguide.studies.kinds.base:KINDS",
    "sources": "midguide.studies.sources.base:SOURCES",
    "runners": "midguide.studies.runners.base:RUNNERS",
    "plots": "midguide.plots.base:PLOTS",
    "pictures": "midguide.studies.pictures.base:PICTURES",
    "readers": "midguide.web.base:READERS",
    "recipes": "midguide.training.base:RECIPES",
    "commands": "midguide.cli.commands.base:COMMANDS",
}
"""Module and name of each catalogue; importing this imports none of them."""


def places() -> dict[str, str]:
    """Module and name of each catalogue, by its plural, also of those that domains bring."""
    own = {plural: f"{domain.package}.{place}" for domain in domains() for plural, place in domain.catalogues.items()}
    return own | PLACES


def catalogue(plural: str) -> Catalogue[Any]:
    """The catalogue of a plural.

    Raises:
        ConfigError: If there is none.

    Example:
        >>> catalogue("schedules").kind
        'schedule'
    """
    known = places()
    if plural not in known:
        raise unknown("catalogue", plural, known)
    module, _, name = known[plural].partition(":")
    return getattr(import_module(module), name)


def catalogues() -> dict[str, Catalogue[Any]]:
    """All catalogues by their plural; imports the whole package."""
    return {plural: catalogue(plural) for plural in places()}
