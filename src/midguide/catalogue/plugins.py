"""Pieces from outside the package: entry points of other distributions, and `FILE.py:NAME`.

Outside code may fail, print, or change between two runs. None of that may stop the rest of the package, mix with what a
command prints, or pass unnoticed. So a failure is one line, standard output goes to standard error, and the SHA-256 of
its source identifies a file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from midguide.errors import CheckpointError, ConfigError, MidguideError, PluginWarning, reason, suggestion

PLACE = re.compile(r"(.+\.py):(\w+)")
"""A Python file and a name in it."""

PREFIX = "midguide_file_"
"""Start of the names under which Python files are imported; the rest is the stem and the start of the digest."""


@dataclass(frozen=True)
class Outside:
    """A named object of another distribution.

    Args:
        name: the name that the distribution gives it.
        distribution: name and version of the distribution.
        point: its entry point.
    """

    name: str
    distribution: str
    point: metadata.EntryPoint

    def load(self) -> Any:
        """The object.

        Raises:
            ConfigError: If its module cannot be imported.
        """
        with outside_code(f"plug-in `{self.name}` of {self.distribution}"):
            return self.point.load()


def entry_points(group: str) -> list[Outside]:
    """What other distributions offer for a group, such as `midguide.samplers`, sorted by name."""
    found = []
    for point in metadata.entry_points(group=group):
        of = point.dist
        found.append(Outside(point.name, f"{of.name} {of.version}" if of else "an unknown distribution", point))
    return sorted(found, key=lambda outside: outside.name)


def load_module(name: str, what: str) -> ModuleType:
    """A module of another distribution, by its dotted name; `what` it is part of, for messages.

    Raises:
        MidguideError: If it cannot be imported.
    """
    with outside_code(f"{what}: module {name}"):
        return importlib.import_module(name)


def load_object(path: str | Path, name: str) -> Any:
    """What a Python file calls `name`.

    The file is run once, with its folder at the front of the import path.

    Args:
        path: a Python file.
        name: of a class, function or other object at its top level.

    Raises:
        ConfigError: If there is no such file or name.
        CheckpointError: If the file fails.
    """
    module = load_file(path)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise ConfigError(f"{path} has no `{name}`", hint=suggestion(name, own))
    return getattr(module, name)


def load_file(path: str | Path) -> ModuleType:
    """A Python file as a module, run once for each content of the file."""
    path = Path(path).expanduser().absolute()
    if not os.path.isfile(path):  # of any name, also one that cannot be resolved
        raise ConfigError(f"there is no file {path}", hint="as FILE.py:NAME, with NAME a class or function in it")
    path = path.resolve()
    name = module_of(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file", hint="as FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        with _importable(path.parent), outside_code(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _digest_of(name)  # kept, before the file changes
    return module


def module_of(path: str | Path) -> str:
    """The module that a Python file of this content is imported as."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return f"{PREFIX}{Path(path).stem}_{digest[:12]}"


def with_places(value: Any, change: Callable[[str, str], str]) -> Any:
    """Plain values with a change of every text that starts with `FILE.py:NAME`.

    Args:
        value: text, lists, tables.
        change: of the file and of the rest of the text.
    """
    match value:
        case str() if found := PLACE.match(value):
            return change(found[1], value[len(found[1]) :])
        case list() | tuple():
            return type(value)(with_places(item, change) for item in value)
        case Mapping():
            return {key: with_places(item, change) for key, item in value.items()}
        case _:
            return value


def source_digest(thing: object) -> str:
    """SHA-256 of the source that defines a class, function or instance, where it comes from outside the package.

    Returns:
        Empty for what this package defines, and for what has no source file.
    """
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return "" if module.partition(".")[0] in ("midguide", "builtins") else _digest_of(module)


@functools.cache
def _digest_of(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def outside_code(what: str) -> Iterator[None]:
    """Turn whatever outside code raises into one line, and what it prints to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except MidguideError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{what} fails: {type(error).__name__}: {reason(error)}", hint="import it in Python to see where"
        ) from error


def warn(error: MidguideError) -> None:
    """Say in one line that a piece from outside is left out."""
    warnings.warn(f"{error.message}: left out", PluginWarning, stacklevel=3)
