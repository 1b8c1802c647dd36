"""Shipped priors: their cards, weights and recipes.

They lie in folders `shipped`: of this package, of its domains, and of packages of weights. A package of weights is a
distribution with an entry point of the group `midguide.shipped`, which names its package.
"""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from midguide._version import __version__
from midguide.catalogue import plugins
from midguide.catalogue.domain import domains
from midguide.errors import ConfigError, MidguideError
from midguide.storage.cards import Card, read_card

GROUP = "midguide.shipped"
"""Entry points of packages of weights."""
APART = {
    "faces-64-autoencoder": "recipe",
    "faces-64-latent": "prior",
    "faces-64-small": "prior",
    "nuclei-64": "prior",
}
"""What lies in the distribution `midguide-priors`, by name, and what it is; a recipe is one without weights."""
PACKAGE = f"`midguide-priors` {__version__}"
"""That distribution, which has the version of this one."""
INSTALL = "in a clone of midguide: pip install ./packages/priors"
"""How to install it."""


def shipped() -> dict[str, Card]:
    """The cards of the shipped priors by name, sorted; without damaged ones and those of a taken name."""
    found: dict[str, Card] = {}
    for path in (path for folder in folders() for path in folder.glob("*.json")):
        try:
            if path.stem in found:
                raise ConfigError(f"prior `{path.stem}` in {path.parent}: the name is taken")
            found[path.stem] = read_card(path)
        except MidguideError as error:
            plugins.warn(error)
    return dict(sorted(found.items()))


def weights_of(name: str) -> Path:
    """The file of a shipped prior."""
    return _files(".json")[name].with_suffix(".safetensors")


def recipe(name: str) -> Path | None:
    """The recipe of a prior, shipped or not."""
    return _files(".toml").get(name)


def not_installed(name: str) -> ConfigError | None:
    """The error for a name of `midguide-priors` where that package is not installed; None for all other names."""
    if name not in APART or recipe(name):
        return None
    return ConfigError(f"the {APART[name]} `{name}` is in the package {PACKAGE}, which is not installed", hint=INSTALL)


def _files(suffix: str) -> dict[str, Path]:
    """Files with this ending, by stem; those of this package come first, those of packages of weights last."""
    return {path.stem: path for folder in reversed(folders()) for path in folder.glob(f"*{suffix}")}


def folders() -> list[Path]:
    """Where priors are shipped: in this package, in those of its domains, and in packages of weights."""
    homes = ["midguide.priors", *(domain.package for domain in domains())]
    inside = (Path(str(resources.files(home))) / "shipped" for home in homes)
    return [folder for folder in (*inside, *_packages()) if folder.is_dir()]


@functools.cache
def _packages() -> tuple[Path, ...]:
    """The folders of packages of weights; one that cannot be imported or has none is left out with a warning."""
    found: list[Path] = []
    for point in plugins.entry_points(GROUP):
        try:
            places = [Path(place) / "shipped" for place in getattr(point.load(), "__path__", ())]
            if not any(place.is_dir() for place in places):
                raise ConfigError(f"plug-in `{point.name}` of {point.distribution} has no folder `shipped`")
            found += places
        except MidguideError as error:
            plugins.warn(error)
    return tuple(found)
