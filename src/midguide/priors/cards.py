"""Shipped priors: their cards, weights and recipes, in the folders `shipped` of the package and of its domains."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from midguide.catalogue import plugins
from midguide.catalogue.domain import domains
from midguide.errors import ConfigError, MidguideError
from midguide.storage.cards import Card, read_card


def shipped() -> dict[str, Card]:
    """The cards of the shipped priors by name, sorted; one that is damaged or has a taken name is left out."""
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


def _files(suffix: str) -> dict[str, Path]:
    """Files with this ending, by stem; those of this package come before those of domains."""
    return {path.stem: path for folder in reversed(folders()) for path in folder.glob(f"*{suffix}")}


def folders() -> list[Path]:
    """Where priors are shipped: in this package, and in those of its domains."""
    homes = ["midguide.priors", *(domain.package for domain in domains())]
    return [folder for home in homes if (folder := Path(str(resources.files(home))) / "shipped").is_dir()]
