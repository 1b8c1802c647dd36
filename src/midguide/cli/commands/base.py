"""The commands of the program by name: functions as typer takes them, and groups of commands.

    @COMMANDS.register("demo")
    def demo(context: typer.Context, seed: options.Seed = 0) -> None: ...

Every command line imports all modules of commands, also `--help`. So these modules import torch, and whatever else is
slow, inside the functions that need it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError

Command = Callable[..., Any] | typer.Typer


def _check_command(thing: object) -> None:
    parameters = list(inspect.signature(thing).parameters) if inspect.isfunction(thing) else []
    if not isinstance(thing, typer.Typer) and parameters[:1] != ["context"]:
        raise ConfigError("it is not a command", hint="a typer.Typer, or a function (context: typer.Context, ...)")


COMMANDS: Catalogue[Command] = Catalogue(
    "command", "midguide.cli.commands", group="midguide.commands", check=_check_command
)
"""Commands by name."""
