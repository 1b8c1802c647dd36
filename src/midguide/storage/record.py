"""What a thing is, as plain JSON: its type, every setting, a digest of every tensor, of weights, and of foreign code.

Two things with the same record give the same numbers. A thing made again has the same record, here or in another
process. What only says where or how fast something is computed (a device, a chunk) is left out by the `record` method
of the thing.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from midguide.catalogue.plugins import source_digest

LONG = 64
"""Lists with more entries are recorded by their digest."""
PIECE = 2**24
"""Values that are hashed at once."""
PROBES = 1024
"""Values of a tensor that are compared to see whether it has changed since its digest was computed."""


class Recorded(Protocol):
    """Something that describes itself."""

    def record(self) -> dict[str, Any]:
        """Everything that a result depends on, as JSON."""
        ...


def describe(value: Any) -> Any:
    """`value` as JSON.

    Dataclasses, and objects of other classes, become their type and fields; fields that a dataclass leaves out of its
    `repr` are left out here. Tensors, modules and long lists become digests. The description of a function is its name,
    its compiled code, its defaults, and the plain values, tensors and functions that it uses from outside. For a
    function of this package the name is enough. A class from outside this package adds the SHA-256 of its source file.
    """
    return _described(value, ())


def _described(value: Any, above: tuple[int, ...]) -> Any:
    """`describe` inside the objects with these ids, which are not entered again."""

    def inner(item: Any) -> Any:
        return _described(item, (*above, id(value)))

    if id(value) in above:
        return {"type": type(value).__name__, "again": True}
    match value:
        case enum.Enum():
            return f"{type(value).__name__}.{value.name}"
        case float():
            return value if math.isfinite(value) else str(value)
        case None | bool() | int() | str():
            return value
        case complex() | Path() | torch.dtype() | torch.device():
            return str(value)
        case ModuleType():
            return value.__name__
        case bytes():
            return {"length": len(value), "sha256": hashlib.sha256(value).hexdigest()}
        case Tensor():
            return {
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "sha256": digest(value),
            }
        case np.ndarray() | np.generic():
            return inner(torch.as_tensor(value))
        case type():
            return {"class": value.__qualname__, **_source(value)}
        case FunctionType() | BuiltinFunctionType() | MethodType() | functools.partial():
            return _callable(value, inner)
        case Mapping():
            return {str(key): inner(item) for key, item in value.items()}
        case list() | tuple() if len(value) > LONG:
            plain = {type(item) for item in value} <= {int, float, str}  # such as the levels of a schedule
            return {"length": len(value), "sha256": _sha256(value if plain else [inner(item) for item in value])}
        case list() | tuple():
            return [inner(item) for item in value]
        case set() | frozenset():
            return sorted((inner(item) for item in value), key=json.dumps)
    return _thing(value, inner)


def _thing(value: Any, inner: Callable[[Any], Any]) -> Any:
    """The record of an object: its own, that of a module, or its type and fields."""
    if callable(getattr(value, "record", None)):
        record = value.record()
        return {**_source(type(value)), **record} if isinstance(record, Mapping) else record
    if isinstance(value, nn.Module):
        return describe_module(value)
    return describe_fields(value, inner)


def describe_fields(value: Any, inner: Callable[[Any], Any] = describe) -> dict[str, Any]:
    """Type and fields of an object, for a `record` method that leaves none of them out."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    else:
        computed = {name for name, of in inspect.getmembers_static(type(value)) if _is_cached(of)}
        fields = {name: item for name, item in getattr(value, "__dict__", {}).items() if name not in computed}
    return {
        "type": type(value).__name__,
        **_source(type(value)),
        **{name: inner(item) for name, item in fields.items()},
    }


def _is_cached(attribute: object) -> bool:
    return isinstance(attribute, functools.cached_property)


def digest(tensor: Tensor) -> str:
    """SHA-256 of the values of a tensor, wherever it lies and however it is laid out."""
    total = hashlib.sha256()
    for piece in tensor.detach().resolve_conj().resolve_neg().reshape(-1).split(PIECE):
        total.update(piece.cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def fingerprint(record: Any) -> str:
    """SHA-256 of a record, the same for equal records."""
    return _sha256(describe(record))


def unlike(before: Any, now: Any, most: int = 3) -> str:
    """Where a record differs from another, in words: the first settings by their paths, what they were and are.

    Example:
        >>> unlike({"sampler": {"steps": 8}, "seed": 0}, {"sampler": {"steps": 9}, "seed": 0})
        '`sampler.steps` was 8, is 9'
    """
    was, is_now = (json.loads(json.dumps(record)) for record in (before, now))
    found = list(_unlike(was, is_now, ()))
    more = f", and {len(found) - most} more differ" if len(found) > most else ""
    return "; ".join(found[:most]) + more


def _unlike(before: Any, now: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict) and before.get("type") == now.get("type"):
        if "sha256" in before and before.get("sha256") != now.get("sha256"):  # of an array, or of code
            yield f"`{'.'.join(path)}` is another"
            return
        for name in dict.fromkeys((*before, *now)):
            yield from _unlike(before.get(name), now.get(name), (*path, name))
    elif before != now:
        texts = [_brief(value) for value in (before, now)]
        yield f"`{'.'.join(path)}` " + (f"was {texts[0]}, is {texts[1]}" if all(texts) else "is another")


def _brief(value: Any) -> str:
    """A plain value in a few letters; empty for others."""
    value = value.get("type") if isinstance(value, dict) else value
    text = "" if isinstance(value, dict | list) else json.dumps(value)
    return "" if len(text) > 40 else text


def _sha256(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


# Modules: their structure is read each time, the digest of their weights is kept.


def describe_module(module: nn.Module) -> dict[str, Any]:
    """Type of a module, a digest of the plain settings of its parts, and one of its parameters and buffers."""
    structure = {name: _settings_of(part) for name, part in module.named_modules()}
    known = {"type": type(module).__name__, **_source(type(module), libraries=False)}
    return {**known, "structure": fingerprint(structure), "sha256": weights_digest(module)}


_OF_ANY_MODULE = {*vars(nn.Module()), "forward"}
_PLAIN = (bool, int, float, str, tuple, list, Mapping, Tensor, np.ndarray, FunctionType, functools.partial, torch.dtype)


def _settings_of(module: nn.Module) -> dict[str, Any]:
    """What a module computes with besides parameters, buffers and the modules inside."""
    found = {name: value for name, value in vars(module).items() if name not in _OF_ANY_MODULE}
    public = {name: value for name, value in found.items() if not name.startswith("_")}
    kept = {n: v for n, v in public.items() if isinstance(v, _PLAIN) or dataclasses.is_dataclass(v)}
    return {"type": type(module).__name__, **_source(type(module), libraries=False), **describe(kept)}


class _Weights(NamedTuple):
    """The digest of a module's weights, and what they were when it was computed."""

    sha256: str
    tensors: tuple[weakref.ref[Tensor], ...]
    state: list[tuple[Any, ...]]


_known: weakref.WeakKeyDictionary[nn.Module, _Weights] = weakref.WeakKeyDictionary()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers of a module with their names, dtypes and shapes.

    The module keeps it, and computes it again when a tensor was replaced or changed in place. Torch counts such
    changes, except those through `.data`: so up to `PROBES` values of each tensor are compared, too.
    """
    named = dict(_weights_of(module))
    state = [_state(name, value) for name, value in named.items()]
    found = _known.get(module)
    same = found is not None and len(found.tensors) == len(named) and found.state == state
    if found and same and all(ref() is value for ref, value in zip(found.tensors, named.values(), strict=True)):
        return found.sha256
    sha256 = fingerprint(named)
    _known[module] = _Weights(sha256, tuple(weakref.ref(value) for value in named.values()), state)
    return sha256


def _weights_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _state(name: str, value: Tensor) -> tuple[Any, ...]:
    detached = value.detach()
    if value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last):
        detached = detached.permute(0, 2, 3, 1)  # as it lies, so that no copy is made
    flat = detached.reshape(-1)
    probes = digest(flat[:: max(1, -(-len(flat) // PROBES))])
    return name, value.data_ptr(), value._version, value.dtype, tuple(value.shape), probes


# Code: functions by what they are compiled to, classes by the file that they come from.


def _callable(value: Any, inner: Callable[[Any], Any]) -> dict[str, Any]:
    match value:
        case functools.partial():
            return {"partial": inner(value.func), "arguments": inner(value.args), "keywords": inner(value.keywords)}
        case MethodType():
            return {"method": value.__name__, "of": inner(value.__self__)}
        case FunctionType():
            return _function(value, inner)
        case _:
            return {"function": f"{value.__module__}.{value.__qualname__}"}


def _function(function: FunctionType, inner: Callable[[Any], Any]) -> dict[str, Any]:
    code = function.__code__
    anonymous = function.__name__ == "<lambda>"
    captured = inspect.getclosurevars(function)
    found = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__, "captured": captured.nonlocals}
    if _top(function.__module__) != "midguide":
        found["uses"] = {name: item for name, item in captured.globals.items() if _is_data(item)}
    told = {name: inner(item) for name, item in found.items() if item}
    if anonymous or _top(function.__module__) != "midguide":
        told["code"] = code_digest(code)
    return {"function": function.__name__, **told}


def _is_data(item: object) -> bool:
    """Whether a global name of a function holds something that its results depend on, and is not a library."""
    if isinstance(item, FunctionType):
        return not is_library(item.__module__)
    return isinstance(item, bool | int | float | str | tuple | list | Mapping | Tensor | np.ndarray | nn.Module)


def code_digest(code: CodeType) -> str:
    """SHA-256 of what a function is compiled to, without its lines and its file."""
    total = hashlib.sha256(code.co_code)
    total.update(repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)).encode())
    for constant in code.co_consts:
        match constant:
            case CodeType():
                told = code_digest(constant)
            case frozenset():
                told = repr(sorted(map(repr, constant)))
            case _:
                told = repr(constant)
        total.update(told.encode())
    return total.hexdigest()


def _source(cls: type, *, libraries: bool = True) -> dict[str, str]:
    """The digest of the source of a class from outside; with `libraries` false nothing for installed ones.

    A class without a file, as in a notebook, has that of its compiled functions.
    """
    if _top(cls.__module__) in ("midguide", "builtins", "torch") or (not libraries and is_library(cls.__module__)):
        return {}
    functions = [item for item in vars(cls).values() if isinstance(item, FunctionType)]
    sha256 = source_digest(cls) or fingerprint([code_digest(function.__code__) for function in functions])
    return {"source": sha256}


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]


@functools.cache
def is_library(module: str | None) -> bool:
    """Whether a module is of this package, of Python, or of an installed distribution."""
    if _top(module) in ("midguide", "builtins", *sys.stdlib_module_names) and module not in ("__main__", "__mp_main__"):
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return file.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
