"""What goes wrong, as one line and a hint on stderr and an exit code."""

from __future__ import annotations

import _thread
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from midguide.errors import (
    ConvergenceWarning,
    DataRemark,
    MidguideError,
    PluginWarning,
    WorkerWarning,
    is_out_of_memory,
)

MISTAKE, INTERRUPTED = 2, 130
_OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


class Interrupted(KeyboardInterrupt):
    """An interrupt, with a word on how to go on."""


@dataclass
class Outcome:
    """The exit code of a command."""

    code: int = 0


@contextmanager
def reported() -> Iterator[Outcome]:
    """Turn the errors that a user can cause or meet into a message and an exit code; let all others pass.

    Warnings of this package are one line, too. SIGTERM, with which schedulers and containers stop a process, ends a
    command as SIGINT does: it keeps its progress.
    """
    outcome = Outcome()
    terminated = _interrupting(signal.SIGTERM)
    hook, show = sys.unraisablehook, warnings.showwarning
    sys.unraisablehook = partial(_interrupt_again, otherwise=hook)
    warnings.showwarning = partial(_warn, otherwise=show)
    try:
        yield outcome
        sys.stdout.flush()
    except MidguideError as error:
        outcome.code = _say(error.message, error.hint)
    except KeyboardInterrupt as interrupt:
        code = 128 + signal.SIGTERM if terminated else INTERRUPTED
        how = f"; {interrupt}" if isinstance(interrupt, Interrupted) else ""
        outcome.code = _say(("terminated" if terminated else "interrupted") + how, label="", code=code)
    except BrokenPipeError:  # the reader of our output has gone; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        outcome.code = 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        outcome.code = _say("out of memory", "take a smaller --chunk, fewer samples or a smaller problem")
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        outcome.code = _say(f"{where}{error.strerror}", "check the folder and free space")
    finally:
        sys.unraisablehook, warnings.showwarning = hook, show


def _interrupting(number: int) -> list[int]:
    """Make a signal raise KeyboardInterrupt; the list holds its number once it has come."""
    received: list[int] = []

    def interrupt(signum: int, frame: object) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # others may not choose
        signal.signal(number, interrupt)
    return received


def _warn(message: Any, category: type[Warning], *where: Any, otherwise: Callable[..., object]) -> None:
    if issubclass(category, ConvergenceWarning | DataRemark | PluginWarning | WorkerWarning):
        _say(str(message), label="warning: ")
    else:
        otherwise(message, category, *where)


def _interrupt_again(ignored: Any, otherwise: Callable[[Any], object]) -> None:
    """Python drops what is raised in a destructor or a callback, an interrupt too; that one is raised once more."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        otherwise(ignored)


def explain_usage(message: str, command: str) -> MidguideError:
    """The error for a command line that cannot be parsed, given the parser's own words."""
    for mark in (" Did you mean ", " (Possible options: "):
        if mark in message:
            message, _, guess = message.partition(mark)
            return MidguideError(_lowered(message), hint=f"did you mean {guess.rstrip(')?')}?")
    return MidguideError(_lowered(message), hint=f"try '{command} --help'")


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")


def _say(message: str, hint: str = "", *, label: str = "error: ", code: int = MISTAKE) -> int:
    print(label + " ".join(message.split()), file=sys.stderr)
    if hint:
        print("hint: " + " ".join(hint.split()), file=sys.stderr)
    return code
