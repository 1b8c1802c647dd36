"""Shipped priors: their cards, weights and recipes, in the folders `shipped` of the package and of its domains."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from midguide.catalogue.domain import domains
from midguide.storage.cards import Card, read_card


def shipped() -> dict[str, Card]:
    """The cards of the shipped priors by name, sorted."""
    return {name: read_card(path) for name, path in sorted(_files(".json").items())}


def weights_of(name: str) -> Path:
    """The file of a shipped prior."""
    return _files(".json")[name].with_suffix(".safetensors")


def recipe(name: str) -> Path | None:
    """The recipe of a prior, shipped or not."""
    return _files(".toml").get(name)


def _files(suffix: str) -> dict[str, Path]:
    """Files with this ending, by stem."""
    return {path.stem: path for folder in folders() for path in folder.glob(f"*{suffix}")}


def folders() -> list[Path]:
    """Where priors are shipped: in this package, and in those of its domains."""
    homes = ["midguide.priors", *(domain.package for domain in domains())]
    return [folder for home in homes if (folder := Path(str(resources.files(home))) / "shipped").is_dir()]
