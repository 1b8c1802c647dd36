"""The commands of the program by name: functions as typer takes them, and groups of commands.

    @COMMANDS.register("demo")
    def demo(context: typer.Context, seed: options.Seed = 0) -> None: ...

All modules of commands are imported for every command line, also for `--help`: they import torch and whatever else is
slow in the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError

Command = Callable[..., Any] | typer.Typer


def _check_command(thing: object) -> None:
    if not callable(thing):
        raise ConfigError("it is no command", hint="a function with parameters as typer takes them, or a typer.Typer")


COMMANDS: Catalogue[Command] = Catalogue(
    "command", "midguide.cli.commands", group="midguide.commands", check=_check_command
)
"""Commands by name."""
