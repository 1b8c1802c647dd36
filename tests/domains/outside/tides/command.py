"""A command: `midguide tide`."""

from typing import Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS


@COMMANDS.register("tide")
def tide(
    context: typer.Context,
    every: Annotated[int, typer.Option(metavar="HOURS", help="Between two readings.")] = 3,
    seed: options.Seed = 0,
) -> None:
    """Draw the levels between the readings of a gauge."""
    output.use_threads(context)
    from midguide.inference.loop import sample
    from midguide.samplers.base import make_sampler
    from tides.problems import TideProblem

    problem = TideProblem(every=every).build(seed)
    signal = problem.denoiser.signal
    draws = signal.unit_size * sample(make_sampler("dps:tide"), problem, 4, seed=seed).draws[0, :, 0]
    rows = [(str(hour), f"{draws[:, hour].mean():.2f}") for hour in range(draws.shape[1])]
    output.print_table((signal.axes[1].unit, signal.unit), rows, numbers=(signal.axes[1].unit, signal.unit))
