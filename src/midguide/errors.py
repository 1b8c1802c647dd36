"""Every error that a user can cause or meet, with a message that says what was got and a hint that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST = 1500
"""Characters of a message, and of a hint."""


class MidguideError(Exception):
    """Base of all errors of this package.

    Args:
        message: what was got and what was expected, in one line.
        hint: what to do about it, in one line; shown after the message.

    Example:
        >>> try:
        ...     raise MidguideError("sigma_y must be positive, got -1", hint="give a standard deviation")
        ... except MidguideError as error:
        ...     print(error.hint)
        give a standard deviation
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = _one_line(message), _one_line(hint)
        super().__init__(f"{self.message}\nhint: {self.hint}" if hint else self.message)


def _one_line(text: str) -> str:
    """A text as a terminal may show it: what names and files hold may steer one, begin another line, or be endless."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


@contextmanager
def about(what: str) -> Iterator[None]:
    """Put `what` before the message of an error of this package that the block raises."""
    try:
        yield
    except MidguideError as error:
        raise type(error)(f"{what}: {error.message}", hint=error.hint) from error


def reason(error: BaseException) -> str:
    """What an error of another library says, in one line: its first, or its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The hint for a name that does not exist: the nearest that does, and the others where they are few."""
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    if not names:
        return "there are none"
    longer = sorted((other for other in names if name and other.startswith(name)), key=len)
    near = longer or difflib.get_close_matches(name, names, n=1)
    if not near:
        return f"one of {', '.join(names)}"
    return f"did you mean `{near[0]}`?" + (f" known are {', '.join(names)}" if len(names) <= 12 else "")


class ConfigError(MidguideError):
    """A setting has an impossible value, or a name is unknown."""


def unknown(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist."""
    return ConfigError(f"unknown {what} `{name}`", hint=suggestion(str(name), known))


class ShapeError(MidguideError):
    """A tensor does not have the declared shape, type or value range."""


class UnsupportedProblem(MidguideError):
    """A sampler cannot handle this problem; the message says what is missing."""


class CheckpointError(MidguideError):
    """A file of weights, samples or progress is damaged, unsafe or belongs to something else."""


class NumericalError(MidguideError):
    """A computation produced NaN or infinity."""


class DataError(MidguideError):
    """An input file is missing, broken or not what it claims to be."""


class DataRemark(UserWarning):
    """A file states something that the package does not use, or that may be a mistake."""


class ConvergenceWarning(RuntimeWarning):
    """An iterative solver ended before it reached its tolerance: what it returns is approximate."""


class PluginWarning(UserWarning):
    """A piece from outside does not work; the rest of the package does."""


class WorkerWarning(UserWarning):
    """A worker of a study was lost, or none is free; the run goes on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out; torch has its own, of a general type on the CPU."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in words or "out of memory" in words
