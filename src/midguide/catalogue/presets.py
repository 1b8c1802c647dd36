"""Presets: settings that have a name, as TOML tables beside what they are for.

[ffhq]
source = "Moufad et al. 2025, Table 7"

[ffhq.settings]
steps = 50
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from midguide.catalogue import plugins
from midguide.catalogue.domain import domains
from midguide.errors import ConfigError, MidguideError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings that have a name, `mgps:ffhq`.

    Args:
        settings: plain values.
        source: where they come from: a paper with its table, a tuning with its data.
    """

    settings: Mapping[str, object]
    source: str


def presets_of(package: str, plural: str, name: str) -> dict[str, Preset]:
    """The presets of an entry by name, sorted.

    Args:
        package: has them in its folder `presets`.
        plural: of the kind of the entry; domains have theirs in `presets/PLURAL`.
        name: of the entry.
    """
    found = dict(_in_package(package, "presets", name))
    for domain in domains():
        try:
            own = _in_package(domain.package, f"presets/{plural}", name)
            if taken := own.keys() & found.keys():
                raise ConfigError(f"preset `{name}:{min(taken)}` of the domain `{domain.name}`: the name is taken")
            found |= own
        except MidguideError as error:
            if domain.inside:
                raise
            plugins.warn(error)
    return dict(sorted(found.items()))


def read_preset(path: Path) -> Preset:
    """The preset that a user's TOML file holds.

    Raises:
        ConfigError: If it cannot be read, or has no source or settings.
    """
    return _checked(_tables(path), str(path))


@functools.cache
def _in_package(package: str, folder: str, name: str) -> dict[str, Preset]:
    """The presets in the file that a package has for an entry."""
    file = Path(str(resources.files(package))).joinpath(folder, f"{name}.toml")
    tables = _tables(file) if file.is_file() else {}
    return {key: _checked(table, f"preset `{name}:{key}`") for key, table in tables.items()}


def _tables(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        hint = "a TOML file with source and settings"
        raise ConfigError(f"cannot read the preset {path}: {error}", hint=hint) from error


def _checked(table: Any, where: str) -> Preset:
    if not isinstance(table, Mapping) or set(table) != {"source", "settings"} or not table["source"]:
        raise ConfigError(f"{where} must have a source and settings", hint='source = "...", and a table [settings]')
    return Preset(settings=table["settings"], source=table["source"])
