"""`midguide demo`: one reconstruction that shows what the package does, and what to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS

if TYPE_CHECKING:
    from midguide.cli.runs import Run
    from midguide.inference.samples import Samples
    from midguide.inference.stored import StoredSamples

PRIOR, OPERATOR, SAMPLER, SIGMA, SEED = "faces-64", "box-inpainting", "auto", 0.05, 0
SHOWN, READ = 4, 24
"""Samples to look at, and samples to count readings of."""


@COMMANDS.register("demo")
def demo(
    context: typer.Context,
    samples: Annotated[int | None, typer.Option(metavar="K", help="Samples to draw: 4, with --quick 24.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A letter of which half is hidden, and what it may be.")
    ] = False,
    out: options.Out = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Hide the middle of a portrait and draw what it may look like.

    Takes about ten seconds on two CPU cores. With --quick it hides half of a letter and shows the other half in blocks.
    It then reads the draws, and prints how often each reading occurs beside the exact probability.
    """
    samples = (READ if quick else SHOWN) if samples is None else samples
    output.check_counts(samples=samples)
    folder = output.out_folder(out or Path("midguide-demo"))
    output.use_threads(context)
    if quick:
        from midguide.cli.letters import hidden_letter

        return hidden_letter(samples, folder, as_json=as_json, verbose=verbose)
    from midguide.cli import runs
    from midguide.data.examples import portrait
    from midguide.priors.loading import load_prior
    from midguide.samplers.base import make_sampler
    from midguide.studies.kinds.setup import Setup

    denoiser = load_prior(PRIOR)
    setup = Setup(operator=OPERATOR, operator_seed=SEED, noise_settings={"sigma_y": SIGMA})
    problem = setup.simulate(denoiser, portrait(denoiser.signal_shape[-1]), seed=SEED)
    sampler = make_sampler(SAMPLER, problem=problem)
    label = runs.sampler_label(SAMPLER, sampler)
    run = runs.Run(
        problem=problem,
        sampler=sampler,
        n=samples,
        seed=SEED,
        out=folder,
        labels={"sampler": label, "prior": PRIOR, "operator": OPERATOR, **runs.noise_labels(setup)},
    )
    output.note(
        f"The portrait of an astronaut (scikit-image), {OPERATOR}, noise {SIGMA}: the middle of the face is hidden.\n"
        f"What may it look like, given the rest and the prior {PRIOR}?\n"
    )
    result = runs.draw(run)
    inside, outside = spread(run, result)
    verdict = result.check()
    metrics = runs.measure(run, result, verdict)
    metrics |= {"std_inside": inside, "std_outside": outside, "steps": sampler.steps}
    metrics = runs.write(run, result, metrics)
    runs.report(metrics, verdict, as_json=as_json, verbose=verbose)
    output.note(
        f"Look at chi-square, {metrics['chi2']:.2f}: about 1 where the samples explain the pixels down to the noise.\n"
        f"Look at the standard deviation of the samples, {inside:.3f} inside the box and {outside:.3f} outside:\n"
        f"they differ in the hidden part, and agree elsewhere."
    )


def spread(run: Run, samples: Samples | StoredSamples) -> tuple[float, float]:
    """Root-mean-square standard deviation of the samples over hidden and over measured entries."""
    likelihood = run.problem.signal_likelihood
    variance = samples.std()[0].square()
    measured = likelihood.operator.measured(likelihood.y).expand_as(likelihood.y)[0]
    return float(variance[~measured].mean().sqrt()), float(variance[measured].mean().sqrt())
