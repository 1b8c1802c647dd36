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

from midguide.cli.completion import names
from midguide.errors import ConfigError

if TYPE_CHECKING:
    from midguide.priors.base import Denoiser


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: of each parameter that is a dataclass, the command gets one option for every field.

    Fields have the annotations of a command's parameters; the name of the parameter does not show. The command gets the
    dataclass, whose own checks refuse impossible values.

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
Budget = Annotated[
    int | None,
    typer.Option(metavar="CALLS", help="Most network calls of one sample, forwards and vjps; sets the steps."),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything that is drawn.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the results.")]
Chunk = Annotated[int | None, typer.Option(metavar="N", help="Most samples in memory at once; does not change them.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a table.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Every number of the verdict, on stderr.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="What the network computes in: float32, the default, bfloat16 (faster), float16 or float64.",
    ),
]
Prior = Annotated[
    str,
    typer.Option(
        metavar="PRIOR",
        autocompletion=names("priors"),
        help="A name of `midguide list priors`, a file, a folder, a repository id, or FILE.py:NAME.",
    ),
]

Prediction = Annotated[
    str | None, typer.Option(metavar="KIND", help="eps, v, x0 or flow, in place of what the prior states.")
]
Schedule = Annotated[
    str | None,
    typer.Option(
        autocompletion=names("schedules"),
        metavar="NAME",
        help="vp-linear, vp-scaled-linear:0.00085,0.012, ..., in place of what the prior states.",
    ),
]
ValueRange = Annotated[
    str | None,
    typer.Option(metavar="LOW,HIGH", help="Range of clean values, in place of what the prior states; or unbounded."),
]
PriorSet = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Another setting of the prior, in place of what it states; repeatable."),
]
White = Annotated[
    float | None,
    typer.Option(metavar="VALUE", help="White in image files, as 4095 for 12 bits; by default their type's largest."),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where networks compute: cpu, cuda, cuda:1, ...; by default the CPU.")
]


@dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """What a command line says of its prior, beside the name; see `priors.settings.PriorSettings`.

    Raises:
        ConfigError: If the value range is not a range, or a setting is not written as `KEY=VALUE`.
    """

    dtype: Dtype = None
    prediction: Prediction = None
    schedule: Schedule = None
    value_range: ValueRange = None
    device: Device = None
    prior_set: PriorSet = None

    def __post_init__(self) -> None:
        from midguide.catalogue.settings import parse_overrides

        parse_range(self.value_range)
        parse_overrides(self.prior_set)

    def load(self, prior: str, **changes: Any) -> Denoiser:
        """The prior as the command line wants it.

        Args:
            prior: its name, file, folder, or `FILE.py:NAME`.
            changes: settings that the command changes itself.

        Raises:
            MidguideError: If `load_prior` raises it.
        """
        from midguide.catalogue.settings import parse_overrides
        from midguide.priors import loading

        said: dict[str, Any] = {"prediction": self.prediction, "schedule": self.schedule}
        said |= {"value_range": parse_range(self.value_range), **parse_overrides(self.prior_set), **changes}
        return loading.load_prior(prior, dtype=self.dtype, device=self.device, **said)


Stream = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the draws to NAME.zarr or NAME.nc, too, as they finish; for xarray."),
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--devices", metavar="NAME", help="Draw on several devices: cuda:0, ... or all; repeatable."),
]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How samples are drawn and where they go."""

    seed: Seed = 0
    chunk: Chunk = None
    out: Out = None
    stream: Stream = None
    devices: Devices = None
    as_json: AsJson = False


def parse_range(text: str | None) -> tuple[float, float] | str | None:
    """The two ends of LOW,HIGH; `unbounded` stays.

    Raises:
        ConfigError: If they are not a range.
    """
    if text in (None, "unbounded"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"--value-range takes two numbers LOW,HIGH, got {text!r}", hint="for example -1,1 or 0,1")
    return low, high
