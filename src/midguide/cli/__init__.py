"""The command line. Commands import what they need when they run, so that `midguide --help` needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    A user's mistake gives one line and a hint on stderr, and exit code 2; an interrupt 130. Any other exception is a
    defect of this package and keeps its traceback.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    from midguide.cli import failures
    from midguide.storage.machine import keep_freed_memory, wait_briefly

    keep_freed_memory()
    wait_briefly()
    with failures.reported() as outcome:
        from midguide.cli.app import run

        outcome.code = run(sys.argv[1:] if argv is None else argv)
    return outcome.code
