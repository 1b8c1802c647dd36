"""`midguide view`: a posterior as one HTML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from midguide.cli import output
from midguide.cli.commands.base import COMMANDS


@COMMANDS.register("view")
def view(
    context: typer.Context,
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A folder of results, or a .safetensors of draws.")],
    observation: Annotated[int, typer.Option(metavar="N", help="Which observation, from 0.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; view.html in the folder by default.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Write a page to look at a posterior: draws, mean, spread, histograms, verdict.

    RESULT is what a reconstruction, a unit of a study with kept samples, or `Samples.save` wrote. The page is one file
    that needs no other: open it, or send it to somebody.
    """
    output.use_threads(context)
    from midguide.storage.files import replacing
    from midguide.web.base import read
    from midguide.web.page import as_html

    text = as_html(read(result, observation))
    place = out or (result / "view.html" if os.path.isdir(result) else result.with_suffix(".html"))
    with replacing(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(place)
    if browser:
        output.open_page(place.resolve().as_uri())
