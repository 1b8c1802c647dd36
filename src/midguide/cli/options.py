"""Options that several commands share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.errors import ConfigError

if TYPE_CHECKING:
    from midguide.priors.latent import LatentPrior
    from midguide.priors.network import NetworkDenoiser

Steps = Annotated[int | None, typer.Option(metavar="N", help="Noise levels visited; by default the sampler's own.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything that is drawn.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")]
Chunk = Annotated[int | None, typer.Option(metavar="N", help="Most samples in memory at once; does not change them.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a table.")]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="TYPE",
        help="What the network computes in: float32, bfloat16 (faster), float16 or float64.",
    ),
]
Prior = Annotated[
    str,
    typer.Option(
        metavar="PRIOR",
        help="A name of `midguide list priors`, a file, a folder, a repository id, or FILE.py:FUNCTION.",
    ),
]

Prediction = Annotated[
    str | None, typer.Option(metavar="KIND", help="eps, v, x0 or flow, in place of what the prior states.")
]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="vp-linear, vp-scaled-linear:0.00085,0.012, ..., in place of what the prior states."
    ),
]
ValueRange = Annotated[
    str | None, typer.Option(metavar="LOW,HIGH", help="Range of clean values, in place of what the prior states.")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, cuda:1, ...; by default the CPU.")
]

DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """What a command line says of its prior, beside the name; see `load_prior`.

    Raises:
        ConfigError: the value range or the dtype is none.
    """

    prediction: str | None = None
    schedule: str | None = None
    value_range: str | None = None
    device: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"--dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}",
                hint="bfloat16 is faster and less exact",
            )
        parse_range(self.value_range)

    def load(self, prior: str, *, averaged: bool | None = None) -> NetworkDenoiser | LatentPrior:
        """The prior as the command line wants it.

        Raises:
            MidguideError: as `load_prior`.
        """
        import torch

        from midguide.priors.loading import load_prior

        return load_prior(
            prior,
            prediction=self.prediction,
            schedule=self.schedule,
            value_range=parse_range(self.value_range),
            device=self.device,
            dtype=getattr(torch, self.dtype),
            averaged=averaged,
        )


def parse_range(text: str | None) -> tuple[float, float] | None:
    """The two ends of LOW,HIGH.

    Raises:
        ConfigError: they are no range.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"--value-range takes two numbers LOW,HIGH, got {text!r}", hint="for example -1,1 or 0,1")
    return low, high
