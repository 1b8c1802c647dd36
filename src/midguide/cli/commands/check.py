"""`midguide check`: what a piece is, whether the contracts of its kind hold, and what it lacks."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS


@COMMANDS.register("check")
def check(
    context: typer.Context,
    piece: Annotated[str, typer.Argument(metavar="FILE.py:NAME", help="A class or function in a file, or a name.")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="What it is meant to be: sampler, operator, ...; by default found out.")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One of its settings; repeatable.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a piece of your own is, and run the contracts that every piece of its kind must keep.

    The file is run. The exit code is 1 where a piece breaks a contract.
    """
    output.use_threads(context)
    from midguide.catalogue.settings import parse_overrides
    from midguide.testing.pieces import check_piece

    report = check_piece(piece, kind=kind, settings=parse_overrides(settings))
    if as_json:
        output.print_json(dataclasses.asdict(report))
    else:
        words = ", ".join(
            f"{key} (required)" if value is None else f"{key}={value}" for key, value in report.settings.items()
        )
        output.print_table(
            ("", report.kind),
            [
                ("name", report.name),
                ("summary", report.summary or "none: write a docstring"),
                ("settings", words or "none"),
                *(("holds", line) for line in report.held),
                *(("not tried", line) for line in report.refused),
                *(("BROKEN", line) for line in report.broken),
            ],
        )
    if report.broken:
        raise typer.Exit(1)
