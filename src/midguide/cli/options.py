"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.errors import ConfigError

if TYPE_CHECKING:
    from midguide.priors.latent import LatentPrior
    from midguide.priors.network import NetworkDenoiser


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: of each parameter that is a dataclass, the command gets one option for every field.

    Fields are annotated as parameters of a command are; what a parameter is called does not show. The command is given
    the dataclass, whose own checks refuse impossible values.

    Example:
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     width: Annotated[int, typer.Option(help="In pixels.")] = 64
        >>> @grouped
        ... def draw(name: str, size: Size) -> str:
        ...     return f"{name} {size.width}"
        >>> draw(name="cat", width=8), list(inspect.signature(draw).parameters)
        ('cat 8', ['name', 'width'])
    """
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        options = [parameter.replace(annotation=hints.get(parameter.name))] if group is None else _options(group)
        parameters += [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        for name, group in groups.items():
            given[name] = group(**{f.name: given.pop(f.name) for f in dataclasses.fields(group) if f.name in given})
        return command(**given)

    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters."""
    hints, kind = typing.get_type_hints(group, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    found = []
    for field in dataclasses.fields(group):
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        found.append(inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name]))
    return found


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

    dtype: Dtype = "float32"
    prediction: Prediction = None
    schedule: Schedule = None
    value_range: ValueRange = None
    device: Device = None

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
