"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from midguide.errors import ConfigError

Steps = Annotated[int | None, typer.Option(metavar="N", help="Noise levels visited; by default the sampler's own.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything that is drawn.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")]
Chunk = Annotated[int | None, typer.Option(metavar="N", help="Most samples in memory at once; does not change them.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a table.")]
Dtype = Annotated[
    str, typer.Option(metavar="TYPE", help="What the network computes in: float32, or bfloat16 (nearly twice as fast).")
]
Prior = Annotated[
    str, typer.Option(metavar="PRIOR", help="A name of `midguide list priors`, a file, a folder, or a repository id.")
]

DTYPES = ("float32", "bfloat16")


def check_dtype(dtype: str) -> None:
    """Refuse what is none of `DTYPES`."""
    if dtype not in DTYPES:
        raise ConfigError(
            f"--dtype must be float32 or bfloat16, got {dtype!r}", hint="bfloat16 is faster and less exact"
        )
