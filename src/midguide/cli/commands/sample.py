"""`midguide sample`: samples from the prior itself."""

from __future__ import annotations

from typing import Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.errors import ConfigError


@COMMANDS.register("sample")
@options.grouped
def sample(
    context: typer.Context,
    prior: options.Prior = "faces-64",
    n: Annotated[int, typer.Option("--n", metavar="K", help="Samples to draw.")] = 16,
    steps: options.Steps = None,
    eta: Annotated[
        float, typer.Option(metavar="E", help="1: ancestral (DDPM); 0: deterministic given its start (DDIM).")
    ] = 1.0,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
    chunk: options.Chunk = 64,
    *,
    asked: options.PriorOptions,
) -> None:
    """Draw samples of a prior, with no observation.

    Writes the samples and, of images, grid.png, all or nothing.
    """
    output.check_counts(n=n, steps=steps, chunk=chunk)
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(f"--eta must be in [0, 1], got {eta:g}", hint="1 is DDPM, 0 is DDIM")
    folder = output.out_folder(out or output.default_folder("sample", output.prior_label(prior)))

    output.use_threads(context)
    from midguide.cli import runs
    from midguide.data.images import save_png
    from midguide.plots.grid import grid
    from midguide.problem import Problem
    from midguide.samplers.unconditional import Unconditional

    denoiser = asked.load(prior)
    sampler = Unconditional(eta=eta) if steps is None else Unconditional(steps=steps, eta=eta)
    labels = {"sampler": "unconditional", "prior": output.prior_label(prior)}
    run = runs.Run(
        problem=Problem.unobserved(denoiser), sampler=sampler, n=n, seed=seed, out=folder, labels=labels, chunk=chunk
    )
    result = runs.draw(run)

    low, high = run.value_range
    names = {"samples": "samples.safetensors", "record": "samples.json"}
    if len(denoiser.signal_shape) == 3 and denoiser.signal_shape[0] in (1, 3):  # others have no picture
        names["grid"] = "grid.png"
    with runs.appearing(run) as temporary:
        result.write(temporary)
        if "grid" in names:
            save_png(temporary / names["grid"], grid(result.draws[0].clamp(low, high), background=high), (low, high))
    summary = {"n": n, "steps": sampler.steps, "eta": eta, "seed": seed, **labels}
    summary |= {"network_forwards": result.cost.network_forwards, "seconds": result.cost.seconds}
    summary["files"] = {content: str(folder / name) for content, name in names.items()}
    if as_json:
        output.print_json(summary)
    else:
        output.print_table(
            ("", "value"),
            [
                ("samples", f"{n}"),
                ("network forwards per sample", f"{result.cost.network_forwards:.0f}"),
                ("seconds for all samples", f"{result.cost.seconds:.1f}"),
            ],
            numbers=("value",),
        )
    output.note(
        f"\npicture: {folder / names['grid']}" if "grid" in names else f"\nsamples: {folder / names['samples']}"
    )
