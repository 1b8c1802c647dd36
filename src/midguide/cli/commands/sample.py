"""`midguide sample`: samples from the prior itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.errors import ConfigError

if TYPE_CHECKING:
    from midguide.cli.runs import Run
    from midguide.inference.samples import Samples
    from midguide.inference.stored import StoredSamples

CHUNK = 64
"""Most samples in memory at once, unless the command line says."""


SHOWN = 64
"""Most samples of a stream in the picture."""


@COMMANDS.register("sample")
@options.grouped
def sample(
    context: typer.Context,
    *,
    prior: options.Prior = "faces-64",
    n: Annotated[int, typer.Option("--n", metavar="K", help="Samples to draw.")] = 16,
    steps: options.Steps = None,
    eta: Annotated[
        float, typer.Option(metavar="E", help="1: ancestral (DDPM); 0: deterministic given its start (DDIM).")
    ] = 1.0,
    spacing: Annotated[
        float | None,
        typer.Option(metavar="S", help="How much closer times lie where there is little noise; 1: the schedule's own."),
    ] = None,
    asked: options.PriorOptions,
    drawing: options.Drawing,
) -> None:
    """Draw samples of a prior, with no observation.

    Writes the samples and, of images, grid.png, all or nothing.
    """
    output.check_counts(n=n, steps=steps, chunk=drawing.chunk)
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(f"--eta must be in [0, 1], got {eta:g}", hint="1 is DDPM, 0 is DDIM")
    if spacing is not None and not 0.0 < spacing < math.inf:
        raise ConfigError(f"--spacing must be positive, got {spacing:g}", hint="1 for the times of the schedule")
    folder = output.out_folder(drawing.out or output.default_folder("sample", output.prior_label(prior), of=context))

    output.use_threads(context)
    from midguide.catalogue.settings import given
    from midguide.cli import runs
    from midguide.problem import Problem
    from midguide.samplers.unconditional import Unconditional

    sampler = Unconditional(eta=eta, spacing=spacing, **given(steps=steps))
    run = runs.Run(
        problem=Problem.unobserved(asked.load(prior)),
        sampler=sampler,
        n=n,
        seed=drawing.seed,
        out=folder,
        labels={"sampler": "unconditional", "prior": output.prior_label(prior)},
        chunk=drawing.chunk or CHUNK,
        stream=drawing.stream,
        devices=drawing.devices,
    )
    result = runs.draw(run)
    files = _write(run, result)
    summary = {"n": n, "steps": sampler.steps, "eta": eta, "spacing": spacing, "seed": drawing.seed, **run.labels}
    summary |= {"network_forwards": result.cost.network_forwards, "seconds": result.cost.seconds, "files": files}
    _report(summary, as_json=drawing.as_json)


def _write(run: Run, result: Samples | StoredSamples) -> dict[str, str]:
    """Write the samples, and a picture of them if they are images; the absolute paths by content."""
    from midguide.cli import runs
    from midguide.data.images import save_png
    from midguide.inference.samples import Samples
    from midguide.plots.grid import grid

    (low, high), shape = run.value_range, run.problem.signal_shape
    names = runs.kept_in(result)
    if len(shape) == 3 and shape[0] in (1, 3):  # others have no picture
        names["grid"] = "grid.png"
    with runs.appearing(run) as temporary:
        if isinstance(result, Samples):
            result.write(temporary)
        if "grid" in names:
            shown = result.draws[0] if isinstance(result, Samples) else result.draws[0, :SHOWN]
            save_png(temporary / names["grid"], grid(shown.clamp(low, high), background=high), (low, high))
    return {content: str(run.out / name) for content, name in names.items()}


def _report(summary: dict[str, Any], *, as_json: bool) -> None:
    """The numbers on stdout, and on stderr where the samples are."""
    if as_json:
        output.print_json(summary)
    else:
        rows = [
            ("samples", f"{summary['n']}"),
            ("network forwards per sample", f"{summary['network_forwards']:.0f}"),
            ("seconds for all samples", f"{summary['seconds']:.1f}"),
        ]
        output.print_table(("", "value"), rows, numbers=("value",))
    files = summary["files"]
    output.note(f"\npicture: {files['grid']}" if "grid" in files else f"\nsamples: {files['samples']}")
