"""What differs in memory from the sources of this package: functions and constants that somebody replaced.

The digest of the sources says nothing about `DDRM.finish = mine`. Each replaced attribute of a module or a class is
found by where its function comes from, and is described by its code.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from midguide.storage.record import code_digest, describe, is_library

PACKAGE = "midguide"
_GENERATED = "namedtuple_"
"""Modules of functions that `collections.namedtuple` makes begin so."""
_MOCKS = "unittest.mock"
_DATA = {str, int, float, bool, tuple, dict, list, set, frozenset, type(None), ModuleType}
_NO_METHODS = {BuiltinFunctionType, functools.partial}
"""What no class of this package has in place of a method."""


def changes(modules: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """What was replaced in modules of this package, by its place, as JSON; empty where nothing was.

    Args:
        modules: names of loaded modules, with the constants that their sources define.

    Example:
        >>> changes({"midguide.samplers.dps": {}})
        {}
    """
    found: dict[str, Any] = {}
    for name in sorted(modules.keys() & sys.modules.keys()):
        inside = vars(sys.modules[name])
        for attribute, value in list(inside.items()):
            kind = type(value)
            if kind in _DATA or kind is FunctionType and value.__globals__ is inside:
                continue
            if isinstance(value, type):
                if value.__module__ == name:
                    found |= {f"{name}.{place}": told for place, told in _of_class(value, inside)}
            elif _is_replaced(value):
                found[f"{name}.{attribute}"] = _told(value)
        for constant, value in modules[name].items():
            if constant in inside and inside[constant] != value:
                found[f"{name}.{constant}"] = describe(inside[constant])
    return found


def _of_class(cls: type, inside: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    """What was replaced in a class of the module that holds these names."""
    prefix = f"{cls.__qualname__}."
    for attribute, value in list(vars(cls).items()):
        kind = type(value)
        if kind in _DATA or isinstance(value, type):
            continue
        if kind is FunctionType:
            if value.__globals__ is inside and value.__code__.co_qualname == prefix + attribute:
                continue
            replaced = _is_replaced(value) or not attribute.startswith("__") and _is_borrowed(value, cls)
        else:
            replaced = kind in _NO_METHODS or _is_replaced(value)
        if replaced:
            yield prefix + attribute, _told(value)


def _is_borrowed(function: FunctionType, cls: type) -> bool:
    """Whether it is the method of a class that this one does not inherit from."""
    family, _, name = function.__code__.co_qualname.rpartition(".")
    return bool(family and name) and "<locals>" not in family and family not in {of.__qualname__ for of in cls.__mro__}


def _is_replaced(value: object) -> bool:
    """Whether an attribute comes from elsewhere: its function was defined outside, or it stands in for a function."""
    match value:
        case FunctionType():
            return _is_foreign(value.__globals__.get("__name__"))
        case staticmethod() | classmethod():
            return _is_replaced(value.__func__)
        case property():
            return any(map(_is_replaced, (value.fget, value.fset)))
        case functools.cached_property():
            return _is_replaced(value.func)
        case functools.partial() | functools.partialmethod():
            return _is_replaced(value.func)
    if type(value).__module__ == "functools":  # a cache around a function
        return _is_replaced(getattr(value, "__wrapped__", None))
    return callable(value) and (type(value).__module__ == _MOCKS or _is_foreign(type(value).__module__))


@functools.cache
def _is_foreign(module: str | None) -> bool:
    name = module or ""
    return not (name.partition(".")[0] == PACKAGE or name.startswith(_GENERATED) or is_library(name))


def _told(value: object) -> Any:
    """What stands there now; a function by its code, since its name may be borrowed."""
    match value:
        case FunctionType():
            return [describe(value), code_digest(value.__code__)]
        case staticmethod() | classmethod():
            return _told(value.__func__)
        case property():
            return [_told(part) for part in (value.fget, value.fset) if part]
        case functools.cached_property() | functools.partialmethod():
            return _told(value.func)
    return repr(value) if type(value).__module__ == _MOCKS else describe(value)
