"""The code of this package behind a result: its version, and a digest of the modules that it used.

A digest covers the modules that define the given things, and all modules of this package that these import, also in
functions. It does not change with comments, docstrings, or how lines are broken; nor with the modules in `SILENT`. It
is that of one minor version of Python. Code from outside does not count: see `storage.record`. What was replaced in
memory is: see `storage.in_memory`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from midguide._version import __version__
from midguide.storage.in_memory import changes
from midguide.storage.record import fingerprint

PACKAGE = "midguide"
ROOT = Path(__file__).parents[1]
SILENT = {"midguide", "midguide._version", "midguide.errors", "midguide.inference.observers"}
"""Modules that change no number: messages, progress, and the names at the top."""
PLAIN = (str, bytes, int, float, complex, Tensor, type(None))
LONG = 64
"""Of longer lists one thing of each type is looked at."""


@dataclass(frozen=True)
class Code:
    """What a result was made by.

    Args:
        version: of this package.
        sha256: of the modules that were used.
    """

    version: str = field(compare=False)
    sha256: str

    def words(self) -> str:
        """How messages name it: by its version where that says it."""
        return "other code of this version" if self.version == __version__ else f"version {self.version}"


def code_of(*things: object) -> Code:
    """The code behind some things: names of modules, functions, classes, objects with what they are made of.

    Example:
        >>> from midguide.samplers.dps import DPS
        >>> code_of(DPS()) == code_of("midguide.samplers.dps")
        True
    """
    sources, constants = _digest_of(modules_of(*things))
    changed = changes(constants)
    return Code(__version__, fingerprint([sources, changed]) if changed else sources)


def modules_of(*things: object) -> frozenset[str]:
    """The names among things, and the modules that define the others and whatever is inside of them."""
    names = {thing for thing in things if isinstance(thing, str)}
    return frozenset(names.union(_modules_of(things)))


def _modules_of(things: Iterable[object]) -> set[str]:
    found, seen, waiting = set[str](), dict[int, object](), list(things)
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, PLAIN) or id(thing) in seen:
            continue
        seen[id(thing)] = thing  # kept, so that no other thing gets its id
        found |= _homes(thing)
        waiting += _inside(thing)
    return found


def _homes(thing: object) -> set[str]:
    if inspect.isfunction(thing) or inspect.isclass(thing):
        return {thing.__module__}
    return {cls.__module__ for cls in type(thing).__mro__}


def _inside(thing: Any) -> Iterable[object]:
    match thing:
        case functools.partial():
            return [thing.func, thing.args, thing.keywords]
        case Mapping():
            return thing.values()
        case list() | tuple() | set() | frozenset():
            return {type(item): item for item in thing}.values() if len(thing) > LONG else thing
        case nn.Module():
            return {type(part) for part in thing.modules()}
    if inspect.isfunction(thing):
        return list(inspect.getclosurevars(thing).nonlocals.values())
    if inspect.ismethod(thing):
        return [thing.__self__]
    if dataclasses.is_dataclass(thing) or type(thing).__module__.partition(".")[0] not in sys.stdlib_module_names:
        return list(getattr(thing, "__dict__", {}).values()) if not inspect.isclass(thing) else []
    return []


@functools.lru_cache(maxsize=4096)
def _digest_of(modules: frozenset[str]) -> tuple[str, dict[str, dict[str, object]]]:
    """SHA-256 of the modules of this package among these and among what they import; the constants of each."""
    own = [name for name in sorted(_reached(modules)) if _is_own(name) and name not in SILENT]
    read = {name: _read(_file_of(name)) for name in own}
    total = "".join(f"{name} {source.sha256}\n" for name, source in read.items())
    return hashlib.sha256(total.encode()).hexdigest(), {name: source.constants for name, source in read.items()}


def _reached(modules: Iterable[str]) -> set[str]:
    """These modules and all modules of this package that they import, directly or not."""
    reached, waiting = set[str](), list(modules)
    while waiting:
        name = waiting.pop()
        file = _file_of(name) if name not in reached and name not in SILENT else None
        if file is not None:
            reached.add(name)
            waiting += _read(file).imported
    return reached


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _file_of(module: str) -> Path | None:
    """The source of a module of this package, or of a loaded file from outside; None for libraries."""
    if _is_own(module):
        place = ROOT.joinpath(*module.split(".")[1:])
        return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    top, file = module.partition(".")[0], getattr(sys.modules.get(module), "__file__", None)
    is_library = top in ("builtins", "torch", "numpy") or top in sys.stdlib_module_names and "main__" not in top
    return None if is_library or not str(file).endswith(".py") else Path(str(file))


class _Source(NamedTuple):
    """SHA-256 of what a source file says, the modules of this package that it imports, and its plain constants."""

    sha256: str
    imported: tuple[str, ...]
    constants: dict[str, object]


@functools.cache
def _read(file: Path) -> _Source:
    tree = ast.parse(file.read_bytes())
    package = PACKAGE.split(".") + list(file.relative_to(ROOT).parts[:-1]) if file.is_relative_to(ROOT) else []
    imported = tuple(dict.fromkeys(_imports(tree, package)))
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)]  # pyright: ignore[reportAttributeAccessIssue]
    return _Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported, dict(_constants(tree)))


def _constants(tree: ast.Module) -> Iterator[tuple[str, object]]:
    """Names in capitals that a module sets to a number, a text, or a tuple of such, once."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() | ast.Tuple() as said) if name.isupper():
                with contextlib.suppress(ValueError):  # of names
                    yield name, ast.literal_eval(said)


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """The modules of this package that a tree imports, each with the packages that it lies in."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            targets = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for target in targets:
            parts = target.split(".")
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)) if parts[0] == PACKAGE)
        waiting += ast.iter_child_nodes(node)
