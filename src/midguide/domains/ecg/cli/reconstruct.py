"""`midguide ecg`: hidden parts of an electrocardiogram, drawn from the posterior. No medical device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.completion import names
from midguide.domains.ecg.cli.diagnose import WARNING, diagnose
from midguide.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.cli.runs import Run
    from midguide.domains.ecg.leads import EcgFormat
    from midguide.domains.ecg.recordings import Part, Recording
    from midguide.inference.verdict.base import Verdict

TRAIN = "train one: see domains/ecg/shipped/ecg-256.toml"
PRIOR, SAMPLER, SAMPLES, SIGMA_MV = "ecg-256", "mmps", 10, 0.05
"""The sampler is the one that keeps the height of hidden beats: see results/ecg-missing-leads.md."""
HALF = "1.28-2.56"
"""What `midguide ecg demo` hides."""

TABLE = {
    "mae_hidden_mv": ("mean absolute error of a sample, hidden part of 12 leads", "{:.4f} mV"),
    "rmse_hidden_mv": ("root mean square error of a sample", "{:.4f} mV"),
    "mae_mean_mv": ("mean absolute error of the mean", "{:.4f} mV"),
    "mae_zero_mv": ("mean absolute error of zero: a good deal of an ECG is near zero", "{:.4f} mV"),
    "crps_mv": ("continuous ranked probability score", "{:.4f} mV"),
    "coverage90": ("share of the truth inside the 90 % band", "{:.3f}"),
    "coverage90_expected": ("the same if the samples were right", "{:.3f}"),
    "einthoven_max_mv": ("largest violation of the relations between limb leads", "{:.1e} mV"),
    "chi2": ("chi-square per measured value (a posterior draw: about 1)", "{:.3f}"),
    "seconds": ("seconds for all samples", "{:.1f}"),
}

Count = Annotated[int, typer.Option("--samples", metavar="K", help="Samples to draw, at least 2.")]
Prior = Annotated[str, typer.Option(metavar="NAME_OR_FILE", help="A prior of electrocardiograms.")]


group = typer.Typer(help=f"Electrocardiograms. {WARNING}", no_args_is_help=True)
COMMANDS.register("ecg", summary="electrocardiograms: reconstruct hidden parts, diagnose what a study drew")(group)
group.command("diagnose")(diagnose)


@group.command("reconstruct")
def reconstruct(
    context: typer.Context,
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="WFDB, EDF, a table, NumPy: `midguide list recordings`.")
    ],
    leads: Annotated[
        str | None, typer.Option(metavar="LEADS", help="Leads that are given, as I,V2 or smartwatch; all by default.")
    ] = None,
    hide: Annotated[
        str | None, typer.Option(metavar="FROM-TO", help="Seconds of the window to hide in all leads, as 1.28-2.56.")
    ] = None,
    start: Annotated[float, typer.Option(metavar="S", help="Where the window begins, in seconds.")] = 0.0,
    rate: Annotated[float | None, typer.Option(metavar="HZ", help="Samples per second, if the file is silent.")] = None,
    unit: Annotated[str | None, typer.Option(metavar="{mV|uV|V}", help="If the file is silent; mV by default.")] = None,
    lead: Annotated[
        list[str] | None,
        typer.Option(metavar="LEAD=CHANNEL", help="Take a channel as a lead, as II=MLII; III= leaves one out."),
    ] = None,
    order: Annotated[
        str | None, typer.Option(metavar="LEADS", help="Leads of rows without names, in their order; _ for none.")
    ] = None,
    variable: Annotated[str | None, typer.Option(metavar="NAME", help="Which array, in a file of several.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Of the file, or FILE.py:NAME of your own.")
    ] = None,
    prior: Prior = PRIOR,
    sampler: Annotated[
        str,
        typer.Option(
            autocompletion=names("samplers", "auto"),
            metavar="NAME[:PRESET]",
            help="`midguide list samplers`; auto takes what suits the problem.",
        ),
    ] = SAMPLER,
    steps: options.Steps = None,
    budget: options.Budget = None,
    samples: Count = SAMPLES,
    sigma: Annotated[float, typer.Option(metavar="MV", help="Noise of the given leads, in mV.")] = SIGMA_MV,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw the leads and times of a recording that are missing or hidden.

    What the recording holds beside the given leads serves as the truth to compare with. Writes the median as WFDB and
    CSV, all samples, two pages of ECG paper and metrics.json, all or nothing. The command removes baseline wander below
    0.6 Hz and everything above half the prior's rate. So do not read ST segments.
    """
    folder = output.out_folder(out or output.default_folder("ecg", record.stem, of=context))
    output.use_threads(context)
    from midguide.domains.ecg.channels import parse_map
    from midguide.domains.ecg.recordings import load_recording

    recording = load_recording(
        record,
        rate_hz=rate,
        unit=unit,
        leads=order and order.split(","),
        channels=parse_map(lead or []),
        variable=variable,
        part=_part(prior, start),
        form=format_,
    )
    settings = {"sampler": sampler, "steps": steps, "n": samples, "sigma_mv": sigma, "seed": seed}
    _run(recording, leads, hide, start, prior, settings, folder, budget=budget, as_json=as_json, verbose=verbose)


def _part(prior: str, start: float) -> Part | None:
    """What a prior sees of a recording; None if the prior knows no electrocardiograms, or the start is not a time."""
    from midguide.domains.ecg.leads import EcgFormat
    from midguide.domains.ecg.recordings import Part
    from midguide.priors.loading import prior_spec

    spec = prior_spec(prior)
    form = EcgFormat.of(spec.signals)
    if form is None or spec.event_shape is None or not 0 <= start < float("inf"):
        return None
    return Part(start=start, seconds=spec.event_shape[-1] / form.rate_hz, rate_hz=form.rate_hz)


@group.command("demo")
def demo(
    context: typer.Context,
    leads: Annotated[str | None, typer.Option(metavar="LEADS", help="Leads that are given.")] = None,
    hide: Annotated[
        str | None,
        typer.Option(metavar="FROM-TO", help=f"Seconds to hide in all leads; without --leads {HALF}."),
    ] = None,
    prior: Prior = PRIOR,
    steps: options.Steps = None,
    samples: Count = SAMPLES,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Hide half of a SIMULATED recording and draw what it may have been."""
    folder = output.out_folder(out or Path("midguide-ecg-demo"))
    output.use_threads(context)
    from midguide.domains.ecg.simulator import simulate

    recording = simulate(seed, "NORM", seconds=10.0, rate_hz=500.0)
    settings = {"sampler": SAMPLER, "steps": steps, "n": samples, "sigma_mv": SIGMA_MV, "seed": seed}
    _run(
        recording,
        leads,
        hide or (None if leads else HALF),
        0.0,
        prior,
        settings,
        folder,
        as_json=as_json,
        verbose=verbose,
    )


def _run(
    recording: Recording,
    leads: str | None,
    hide: str | None,
    start: float,
    prior: str,
    settings: dict[str, Any],
    folder: Path,
    *,
    budget: int | None = None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Draw, measure, write and report."""
    output.check_counts(steps=settings["steps"], budget=budget)
    if settings["n"] < 2 or not 0.0 < settings["sigma_mv"] < float("inf"):
        raise ConfigError(
            f"--samples {settings['n']} and --sigma {settings['sigma_mv']:g}", hint="at least 2; positive"
        )
    from midguide.catalogue.settings import given as given_settings
    from midguide.cli import runs
    from midguide.domains.ecg.cli import problem as ecg_problem
    from midguide.domains.ecg.leads import EcgFormat
    from midguide.priors.loading import load_prior, prior_spec
    from midguide.samplers.base import make_sampler

    form = EcgFormat.of(prior_spec(prior).signals)
    if form is None:
        raise ConfigError(f"{prior} is not a prior of electrocardiograms", hint=TRAIN)
    denoiser = load_prior(prior)
    given = ecg_problem.given(recording, leads)
    window, known = ecg_problem.window(given, form, denoiser.event_shape[1], start)
    observed = ecg_problem.observed(known, hide, form)
    asked = ecg_problem.problem(denoiser, window, observed, form, settings["sigma_mv"])
    sampler = make_sampler(settings["sampler"], given_settings(steps=settings["steps"]), asked, budget=budget)
    settings |= {"sampler": runs.sampler_label(settings["sampler"], sampler), "steps": sampler.steps}
    run = runs.Run(
        problem=asked,
        sampler=sampler,
        n=settings["n"],
        seed=settings["seed"],
        out=folder,
        labels={"sampler": settings["sampler"], "prior": output.prior_label(prior), "record": recording.name},
    )
    for line in (*ecg_problem.remarks(given, leads, known, form, denoiser.event_shape[1]), WARNING):
        output.note(line)
    result = runs.draw(run)
    verdict = result.check()
    drawn = result.resampled()  # the scores of electrocardiograms know no weights
    drawn_mv = form.unit_mv * drawn.draws[0, ..., : window.shape[1]].double()
    nine = ecg_problem.completed(drawn_mv, window, observed)
    chi2 = run.problem.expand(run.n).likelihood.chi_square(drawn.draws[0]).mean()
    metrics: dict[str, Any] = {**run.labels, **settings, "start": start, "leads": leads, "hide": hide}
    metrics["remarks"] = list(recording.remarks)
    metrics |= ecg_problem.scores(nine, window, observed) | {"chi2": float(chi2), "seconds": drawn.cost.seconds}
    metrics = _write(run, form, nine, window, observed, metrics | runs.of_verdict(verdict))
    _report(metrics, verdict, as_json=as_json)
    runs.tell(verdict, verbose=verbose)
    output.note(f"\npicture: {metrics['files']['page']}")


def _report(metrics: dict[str, Any], verdict: Verdict, *, as_json: bool) -> None:
    """The numbers on stdout, as a table or as one JSON object."""
    if as_json:
        output.print_json(metrics)
    else:
        known = [(text, form.format(metrics[key])) for key, (text, form) in TABLE.items() if metrics[key] is not None]
        output.print_table(("", "value"), [*known, ("verdict", verdict.short())], numbers=("value",))


def _write(
    run: Run, form: EcgFormat, nine: Tensor, window: Tensor, observed: Tensor, metrics: dict[str, Any]
) -> dict[str, Any]:
    """All files of a reconstruction, complete or not at all; `metrics` with their paths."""
    import numpy as np

    from midguide.cli.runs import appearing
    from midguide.domains.ecg.cli import problem as ecg_problem
    from midguide.domains.ecg.files import write_csv, write_wfdb
    from midguide.domains.ecg.leads import TWELVE, twelve_leads
    from midguide.domains.ecg.plots import ecg_paper
    from midguide.domains.ecg.recordings import Recording
    from midguide.domains.ecg.scores import expected_coverage, hidden_of_twelve, interval

    names = {"page": "ecg-3x4.png", "rows": "ecg-12x1.png", "header": "median.hea", "data": "median.dat"}
    names |= {"csv": "median.csv", "samples": "samples.npz", "metrics": "metrics.json"}
    metrics = metrics | {"warning": WARNING, "files": {key: str(run.out / name) for key, name in names.items()}}
    twelve, given = twelve_leads(nine), ~hidden_of_twelve(observed)
    median = twelve_leads(ecg_problem.median(nine, observed))
    low, high = interval(twelve)
    truth = twelve_leads(window) if metrics["mae_hidden_mv"] is not None else None
    result = Recording(str(metrics["record"]), median, TWELVE, form.rate_hz)
    with appearing(run) as folder:
        write_wfdb(
            folder, "median", result, comments=(f"median of {run.n} posterior samples; hidden parts are drawn", WARNING)
        )
        write_csv(folder / names["csv"], result)
        arrays = {"samples_mv": twelve, "low_mv": low, "high_mv": high, "observed": given}
        arrays |= {} if truth is None else {"truth_mv": truth}
        arrays = {name: value.numpy() for name, value in arrays.items()}
        arrays |= {"leads": np.array(TWELVE), "rate_hz": np.array(form.rate_hz)}
        np.savez_compressed(folder / names["samples"], allow_pickle=False, **arrays)
        for layout, key in (("3x4", "page"), ("12x1", "rows")):
            share = f"{100 * expected_coverage(run.n):.0f} % band"
            title = f"{metrics['record']}: given, and the median of {run.n} samples with its {share}"
            page = ecg_paper(
                median, rate_hz=form.rate_hz, layout=layout, band=(low, high), truth=truth, observed=given,
                title=title, footer=WARNING,
            )  # fmt: skip
            page.savefig(folder / names[key])
        (folder / names["metrics"]).write_text(output.dump_json(metrics) + "\n", encoding="utf-8")
    return metrics
