"""The plain values of a study's file: read, changed by a command line, and with paths that hold from any folder."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from midguide.catalogue import plugins
from midguide.catalogue.base import Entry, short
from midguide.catalogue.settings import PathOr
from midguide.errors import ConfigError
from midguide.storage.outside import MIB, Outside
from midguide.studies.kinds.base import KINDS
from midguide.studies.sources.base import own_source

_STUDY = Outside("study file", "give the TOML file of a study", ConfigError, limit=16 * MIB)
WORDS = {"name", "title", "label", "expected", "problem", "sampler", "problems"}
"""Keys of rows whose values are labels, patterns of labels or text, and never the place of code."""

_ROWS = re.compile(r"(problems|samplers)(?:\[(.+)\])?\.(.+)")
_WEIGHTS = re.compile(r"\.(safetensors|pt|pth|ckpt|bin)$")


def read(path: str | Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ConfigError: If it cannot be read.
    """
    return _STUDY.toml(path)


def changed(plain: dict[str, Any], changes: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """The file's values with those of the command line, in place.

    Raises:
        ConfigError: If a change matches no row.
    """
    for key, value in changes:
        found = _ROWS.fullmatch(key)
        if found is None:
            plain["study"] = {**table_of(plain, "study"), key: value}
            continue
        table, pattern, setting = found.groups(default="*")
        for row in _rows(plain, table, pattern, key):
            if table == "problems":
                row[setting] = value
            else:
                row["settings"] = {**table_of(row, "settings"), setting: value}
    return plain


def _rows(plain: dict[str, Any], table: str, pattern: str, key: str) -> list[dict[str, Any]]:
    """The rows of a table that a change is for: those of matching labels that have settings."""
    rows = {label_of(row): row for row in tables_of(plain, table) if _has_settings(row.get("spec"))}
    chosen = [row for label, row in rows.items() if fnmatchcase(label, pattern)]
    if not chosen:
        hint = f"labels are: {', '.join(map(repr, rows))}" if rows else f"none of the {table} has settings"
        raise ConfigError(f"{key} matches no {table[:-1]}", hint=hint)
    return chosen


def _has_settings(spec: object) -> bool:
    """Whether a row has settings to change; a row of problems has no `spec`, and the code of a file is not run."""
    if not isinstance(spec, str) or plugins.PLACE.match(spec):
        return True
    source = own_source(spec)
    return source is None or bool(source.defaults() or source.required())


def located(plain: dict[str, Any]) -> dict[str, Any]:
    """The file's values, in place, with absolute paths.

    Paths are what names code, `FILE.py:NAME`; files of priors; and the settings of problems and sources that are
    annotated with `PathOr`.
    """
    for row in _all_rows(plain):
        for key in row.keys() - WORDS:
            row[key] = plugins.with_places(row[key], _absolute_place)
    for row in tables_of(plain, "problems"):
        kind, prior = row.get("kind"), row.get("prior")
        if isinstance(kind, str) and (kind in KINDS or plugins.PLACE.match(kind)):
            _locate(row, KINDS[kind])
        if isinstance(prior, str) and _WEIGHTS.search(prior):
            row["prior"] = _absolute(prior)
    for row in tables_of(plain, "samplers"):
        spec, settings = row.get("spec"), row.get("settings")
        source = own_source(spec) if isinstance(spec, str) else None
        if source is not None and isinstance(settings, dict):
            _locate(settings, source)
    return plain


def _locate(row: dict[str, Any], entry: Entry[Any]) -> None:
    """Make the settings of an entry that are paths absolute, in place."""
    hints = typing.get_type_hints(entry.settings, include_extras=True) if entry.settings else {}
    for key, hint in hints.items():
        paths = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, PathOr)]
        if paths and isinstance(row.get(key), str) and row[key] not in paths[0].words:
            row[key] = _absolute(row[key])


def code_of(plain: dict[str, Any]) -> list[str]:
    """The absolute paths of the Python files that the values name, each once."""
    found: dict[str, None] = {}

    def note(path: str, rest: str) -> str:
        found[_absolute(path)] = None
        return path + rest

    for row in _all_rows(plain):
        for key in row.keys() - WORDS:
            plugins.with_places(row[key], note)
    return sorted(found)


def _all_rows(plain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The table `[study]` and all rows, as far as they are tables."""
    for table in plain.values():
        rows = table if isinstance(table, list) else [table]
        yield from (row for row in rows if isinstance(row, dict))


def _absolute_place(path: str, rest: str) -> str:
    return _absolute(path) + rest


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def label_of(row: Mapping[str, Any]) -> str:
    """The label of a row: its own, or what it names."""
    return check_label(str(row.get("label") or short(str(row.get("kind") or row.get("spec")))))


def check_label(text: str) -> str:
    """A text that a terminal, a table and a page can show.

    Raises:
        ConfigError: If it holds line breaks or other control characters.
    """
    if not text.isprintable():
        raise ConfigError(f"the text {text[:80]!r} holds control characters", hint="labels and titles are one line")
    return text


def table_of(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of the table at `key`, empty where there is none."""
    value = plain.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a table, got {value!r}")
    return dict(value)


def tables_of(plain: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables of the list at `key`, of which there must be one."""
    value = plain.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        raise ConfigError(f"there is no [[{key}]]", hint=f"a study has at least one table [[{key}]]")
    return value
