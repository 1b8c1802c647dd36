"""The program: its commands, and how a command line is run."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from midguide._version import __version__
from midguide.cli import completion, failures, output
from midguide.cli.commands.base import COMMANDS
from midguide.errors import MidguideError

UsageError: Any = typer.BadParameter.__bases__[0]  # of click, or of the parser that newer typer brings along


def run(argv: Sequence[str]) -> int:
    """Parse and run a command line.

    Raises:
        MidguideError: If the user made a mistake.
    """
    command = typer.main.get_command(build())
    _show_brackets(command)
    if completion.COMPLETE in os.environ:  # a shell asks how a word may go on
        completion.answer(command, argv)
    try:
        with command.make_context("midguide", list(argv)) as context:
            with _always_hinting(context):
                command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except UsageError as error:
        context = getattr(error, "ctx", None)
        path = "midguide" if context is None else context.command_path
        raise failures.explain_usage(error.format_message(), path) from None
    return 0


def _show_brackets(command: Any) -> None:
    """Let help show brackets as they are written; they are markup for what prints it."""
    for thing in (command, *command.params):
        if getattr(thing, "help", None):
            thing.help = re.sub(r"\[(?=[a-zA-Z/@#])", r"\\[", thing.help)
    for inner in getattr(command, "commands", {}).values():
        _show_brackets(inner)


@contextmanager
def _always_hinting(context: Any) -> Iterator[None]:
    """Point to the command's help where an error has no better hint."""
    try:
        yield
    except MidguideError as error:
        error.hint = error.hint or f"try '{context.command_path} {context.invoked_subcommand} --help'"
        raise


def build() -> typer.Typer:
    """The program with all commands of the package, of its domains and of plug-ins."""
    app = typer.Typer(
        name="midguide",
        help="Draw samples from p(x | y) with a diffusion prior, and see how far the answer can be trusted.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_global)
    for name, entry in COMMANDS.items():
        if isinstance(entry.thing, typer.Typer):
            app.add_typer(entry.thing, name=name)
            for each in entry.thing.registered_commands:
                each.help = each.help or _paragraphs(each.callback)
        else:
            app.command(name, help=_paragraphs(entry.thing))(entry.thing)
    return app


def _paragraphs(command: Callable[..., Any] | None) -> str:
    """The docstring of a command with each paragraph on one line, which a terminal breaks where it is wide."""
    parts = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in parts)


def _global(
    context: typer.Context,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="CPU threads; OMP_NUM_THREADS, or else the physical cores, by default."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    output.check_counts(threads=threads)
    context.obj = threads
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
