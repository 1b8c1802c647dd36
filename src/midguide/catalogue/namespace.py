"""Packages as namespaces: `midguide.samplers.DPS` is there without a list of names, and loads when it is asked for."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Any


def namespace(package: str, *, also: Iterable[str] = ()) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names are those that its modules define.

    A name is public if it has no underscore in front and its module defines it. Names of modules stay theirs.

    Args:
        package: its dotted name.
        also: modules elsewhere whose public names belong here, too.

    Example:
        >>> import midguide.operators
        >>> midguide.operators.Identity.__module__
        'midguide.operators.matrix'
    """

    def get(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if any(module.name == name for module in pkgutil.iter_modules(sys.modules[package].__path__)):
            return import_module(f"{package}.{name}")  # alone: modules of the package may import each other
        for module in _modules(package, also):
            if name in _public(module):
                value = getattr(module, name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({name for module in _modules(package, also) for name in _public(module)})

    return get, names


def _modules(package: str, also: Iterable[str]) -> Iterable[ModuleType]:
    inside = (f"{package}.{m.name}" for m in pkgutil.iter_modules(sys.modules[package].__path__) if m.name[0] != "_")
    return map(import_module, (*inside, *also))


def _public(module: ModuleType) -> set[str]:
    """The public classes, functions and constants that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (name.isupper() or getattr(value, "__module__", None) == module.__name__)
    }
