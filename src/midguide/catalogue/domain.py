"""Domains: packages that bring pieces of several kinds for one field of use.

A domain lies in `midguide.domains`, or in another distribution with an entry point of the group `midguide.domains`. It
says which of its modules register what; the first question to a catalogue of that kind imports them. The core imports
nothing of a domain.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from midguide.catalogue import plugins
from midguide.errors import ConfigError, MidguideError

HOME = "midguide.domains"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What a domain brings.

    Args:
        name: as users write it.
        summary: one line for lists.
        package: its package; the modules below are inside it, and presets in its folder `presets/KIND/NAME.toml`.
        modules: names of modules that register things, by kind in the plural: `{"samplers": ("filters",)}`.
        catalogues: module and name of each catalogue of its own, by the plural under which it is listed:
            `{"stations": "stations.base:STATIONS"}`.
    """

    name: str
    summary: str
    package: str
    modules: Mapping[str, tuple[str, ...]]
    catalogues: Mapping[str, str] = field(default_factory=dict)

    @property
    def inside(self) -> bool:
        """Whether it is one of this package."""
        return self.package.startswith(f"{HOME}.")

    def load(self, kind: str) -> None:
        """Import the modules that register things of a kind.

        Raises:
            MidguideError: If a module of another distribution fails.
        """
        for module in self.modules.get(kind, ()):
            name = f"{self.package}.{module}" if module else self.package
            if self.inside:
                import_module(name)
            else:
                plugins.load_module(name, f"domain `{self.name}`")


@functools.cache
def domains() -> tuple[Domain, ...]:
    """All domains, those of this package first; one that cannot be imported is left out with a warning."""
    found: dict[str, Domain] = {}
    for module in pkgutil.iter_modules(import_module(HOME).__path__):
        domain = import_module(f"{HOME}.{module.name}").DOMAIN
        found[domain.name] = domain
    for outside in plugins.entry_points(HOME):
        try:
            domain = outside.load()
            if not isinstance(domain, Domain):
                raise ConfigError(f"plug-in `{outside.name}` of {outside.distribution} is not a Domain")
            if domain.name in found:
                raise ConfigError(f"domain `{domain.name}` of {outside.distribution}: the name is taken")
            found[domain.name] = domain
        except MidguideError as error:
            plugins.warn(error)
    return tuple(found.values())
