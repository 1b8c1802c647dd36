"""`midguide play`: hide parts of a picture with the pointer, and watch what it may be."""

from __future__ import annotations

from typing import Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS


@COMMANDS.register("play")
def play(
    context: typer.Context,
    prior: options.Prior = "glyphs-32",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="On this machine; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    out: options.Out = None,
) -> None:
    """Hide parts of a picture with the pointer, and watch what it may be.

    A small server that only this machine can reach. Ctrl-C stops it. The results folder holds the picture and the mask
    of the last run. The page shows the command that draws the same.
    """
    folder = output.out_folder(out or output.default_folder("play"))
    output.use_threads(context)
    from midguide.priors.loading import load_prior
    from midguide.web.play import Playground, Server

    server = Server(Playground(prior, load_prior(prior), folder), port)
    print(server.address, flush=True)
    output.note("Ctrl-C stops it")
    if browser:
        output.open_page(server.address)
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        output.note("stopped")
    finally:
        server.playground.job.end()
        server.server_close()
