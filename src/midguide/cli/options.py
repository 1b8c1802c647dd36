"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Steps = Annotated[int | None, typer.Option(metavar="N", help="Noise levels visited; by default the sampler's own.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything that is drawn.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")]
Chunk = Annotated[int | None, typer.Option(metavar="N", help="Most samples in memory at once; does not change them.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a table.")]
Prior = Annotated[
    str, typer.Option(metavar="PRIOR", help="A name of `midguide list priors`, a file, a folder, or a repository id.")
]
