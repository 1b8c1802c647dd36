"""A reconstruction from start to end: draw, measure, write. Shared by `reconstruct` and `demo`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide.catalogue.settings import as_plain
from midguide.cli import output
from midguide.cli.failures import Interrupted
from midguide.inference.loop import sample
from midguide.inference.observers import Event, Observer
from midguide.inference.samples import Samples
from midguide.inference.stored import StoredSamples
from midguide.inference.verdict.base import Verdict
from midguide.metrics.base import Answer
from midguide.metrics.image import WINDOW, psnr, ssim
from midguide.plots.measurement import picture_of_measurement
from midguide.plots.panel import panel
from midguide.problem import Problem
from midguide.samplers.auto import reason_of
from midguide.samplers.base import AUTO, SAMPLERS, Sampler, check_needs
from midguide.samplers.budget import total_calls
from midguide.storage.files import replacing_folder
from midguide.studies.kinds.setup import Setup

TABLE = {
    "psnr_mean": ("PSNR of the posterior mean", "{:.2f} dB"),
    "psnr_samples": ("PSNR of a sample, averaged", "{:.2f} dB"),
    "ssim_mean": ("SSIM of the posterior mean", "{:.3f}"),
    "ssim_samples": ("SSIM of a sample, averaged", "{:.3f}"),
    "chi2": ("chi-square per measured value (a posterior draw: about 1)", "{:.3f}"),
    "effective_sample_size": ("effective sample size of the weighted samples", "{:.1f}"),
    "network_forwards": ("network forwards per sample", "{:.0f}"),
    "network_vjps": ("network vector-Jacobian products per sample", "{:.0f}"),
    "seconds": ("seconds for all samples", "{:.1f}"),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run whose input is complete and checked; nothing has been drawn yet.

    Args:
        problem: one observation to explain.
        sampler: the method.
        n: samples.
        seed: seed of the samples.
        out: absolute folder of the results.
        labels: what the result is called by, as given on the command line: sampler, prior, operator, `noise_labels`.
        chunk: most samples in memory at once.
        stream: a store of the draws beside the results, `NAME.zarr` or `NAME.nc`.
        devices: where chunks are drawn; by default where the prior is.
    """

    problem: Problem
    sampler: Sampler
    n: int
    seed: int
    out: Path
    labels: dict[str, Any] = field(default_factory=dict)
    chunk: int | None = None
    stream: Path | None = None
    devices: list[str] | None = None

    def __post_init__(self) -> None:
        check_needs(self.sampler, self.problem)

    @property
    def progress(self) -> Path:
        """The file from which an interrupted run goes on; removed once the results are written."""
        kept = self.stream or self.out
        return kept.with_name(f"{kept.name}.progress")

    @property
    def value_range(self) -> tuple[float, float]:
        """Values shown black and white, and the range of the metrics."""
        return self.problem.denoiser.signal_range or (-1.0, 1.0)


def sampler_label(spec: str, sampler: Sampler) -> str:
    """What results call a sampler: the name or preset as given, and what `auto` chose."""
    return SAMPLERS.name_of(sampler) if spec == AUTO else spec


def noise_labels(setup: Setup) -> dict[str, Any]:
    """The noise of a run and its settings; `sigma` is the standard deviation of Gaussian noise."""
    return {"noise": setup.noise, **{str(_SHORT.get(key, key)): value for key, value in as_plain(setup.model).items()}}


_SHORT = {"sigma_y": "sigma"}


def draw(run: Run) -> Samples | StoredSamples:
    """Sample, with a progress bar, and with a file beside the results from which an interrupted run goes on.

    With a stream the draws stay on disk.

    Raises:
        Interrupted: If the user stops it; says how to go on.
        CheckpointError: If the file belongs to a run with other settings.
    """
    if reason := reason_of(run.sampler):
        name, calls = SAMPLERS.name_of(run.sampler), total_calls(run.sampler, run.problem)
        output.note(f"sampler: {name}, {run.sampler.steps} steps, {calls:,} network calls a sample; for {reason}")
    observers = [_Announcement(run.n), *output.progress(run.labels.get("sampler", "sampling"))]
    try:
        drawn = _drawn(run, observers)
    except KeyboardInterrupt:
        if run.progress.exists():
            raise Interrupted(f"repeat the same command to go on from {run.progress}") from None
        raise
    for remark in drawn.record.get("remarks", ()):
        output.note(f"warning: {remark}")
    return drawn


def _drawn(run: Run, observers: Sequence[Observer]) -> Samples | StoredSamples:
    options: dict[str, Any] = {"seed": run.seed, "chunk": run.chunk, "observers": observers}
    options["devices"] = "all" if run.devices == ["all"] else run.devices
    options["progress"] = False  # the bar is among the observers
    if run.stream is None:
        return sample(run.sampler, run.problem, run.n, checkpoint=run.progress, **options)
    return sample(run.sampler, run.problem, run.n, out=run.stream, **options)


class _Announcement:
    """Says on stderr that sampling starts, or where it goes on; by then all input has been checked."""

    def __init__(self, n: int) -> None:
        self.n = n

    def start(self, total: int, done: int) -> None:
        many = "1 sample" if self.n == 1 else f"{self.n} samples"
        output.note(f"drawing {many}" + (f", going on after step {done} of {total}" if done else ""))

    def step(self, event: Event) -> None:
        """Nothing to say."""

    def stop(self) -> None:
        """Nothing to close."""


def measure(run: Run, samples: Samples | StoredSamples, verdict: Verdict) -> dict[str, Any]:
    """The numbers of a reconstruction as JSON; those that need the truth are None where it is unknown."""
    mean, truth = samples.mean(), run.problem.truth
    each = _of_each_draw(run, samples)
    answer = Answer(each["chi2"], log_weight=None if samples.log_weight is None else samples.log_weight[0])
    effective = None if samples.log_weight is None else float(samples.effective_sample_size()[0])
    scores: dict[str, Any] = dict.fromkeys(("psnr_mean", "psnr_samples", "ssim_mean", "ssim_samples"))
    for name, metric in _scores(truth).items():
        scores[f"{name}_mean"] = float(metric(mean, truth, run.value_range))
        scores[f"{name}_samples"] = float(answer.average(each[name]))
    return {
        **scores,
        "chi2": float(answer.average(each["chi2"])),
        "chi2_samples": each["chi2"].tolist(),
        "effective_sample_size": effective,
        **of_verdict(verdict),
        "measured_values": int(run.problem.signal_likelihood.measured_values()[0]),
        "network_forwards": samples.cost.network_forwards,
        "network_vjps": samples.cost.network_vjps,
        "seconds": samples.cost.seconds,
        "peak_memory_mib": samples.cost.peak_memory_mib,
        **run.labels,
        "seed": run.seed,
        "n": run.n,
    }


def _scores(truth: Tensor | None) -> dict[str, Any]:
    """Metrics of images beside their truth, as far as they can be computed."""
    if truth is None:
        return {}
    return {"psnr": psnr} | ({"ssim": ssim} if min(truth.shape[-2:]) >= WINDOW else {})


def _of_each_draw(run: Run, samples: Samples | StoredSamples) -> dict[str, Tensor]:
    """Chi-square and scores of each draw, shape (n,); draws on disk are read block by block."""
    blocks = [samples.draws[0]] if isinstance(samples, Samples) else (x for x, _ in samples.blocks(0))
    found: dict[str, list[Tensor]] = {}
    expanded = cache(lambda rows: run.problem.expand(rows).signal_likelihood)  # made once for all blocks but the last
    for x in blocks:
        x = x.to(run.problem.likelihood.y.device)
        found.setdefault("chi2", []).append(expanded(len(x)).chi_square(x))
        for name, metric in _scores(truth := run.problem.truth).items():
            assert truth is not None
            found.setdefault(name, []).append(metric(x, truth.expand_as(x), run.value_range))
    return {name: torch.cat(values) for name, values in found.items()}


def of_verdict(verdict: Verdict) -> dict[str, Any]:
    """What JSON says of a verdict."""
    return {"verdict": verdict.as_json(), "verdict_left_out": verdict.left_out}


def write(run: Run, samples: Samples | StoredSamples, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write all files of a reconstruction, complete or not at all; draws on disk stay where they are.

    Returns:
        `metrics` with `files`, their absolute paths by content.
    """
    from midguide.data.images import save_png

    names = kept_in(samples) | {"panel": "panel.png", "mean": "mean.png", "metrics": "metrics.json"}
    metrics = metrics | {"files": {content: str(run.out / name) for content, name in names.items()}}
    with appearing(run) as folder:
        if isinstance(samples, Samples):
            samples.write(folder)
        picture(run, samples, metrics).savefig(folder / names["panel"])
        save_png(folder / names["mean"], samples.mean()[0], run.value_range)
        (folder / names["metrics"]).write_text(output.dump_json(metrics) + "\n", encoding="utf-8")
    return metrics


def kept_in(samples: Samples | StoredSamples) -> dict[str, str]:
    """The files of the draws, from the folder of the results: their store, or those of `Samples.write`."""
    if isinstance(samples, StoredSamples):
        return {"samples": str(samples.path.absolute())}
    return {"samples": "samples.safetensors", "record": "samples.json"}


def picture(run: Run, samples: Samples | StoredSamples, metrics: dict[str, Any]) -> Any:
    """The panel of a run with its numbers in small print."""
    labels = run.labels | {"seed": f"seed {run.seed}"}
    level = _level(labels)
    shown = picture_of_measurement(run.problem)
    captions = {"measurement": f"{shown.caption}, {level}" if shown is not None and shown.caption else level}
    if metrics["psnr_mean"] is not None:
        captions["mean"] = f"{metrics['psnr_mean']:.1f} dB"
    return panel(
        samples,
        measured=None if shown is None else shown.measured,
        measurement=None if shown is None else shown.image,
        value_range=run.value_range,
        captions=captions,
        sample_captions=[f"$\\chi^2$ {value:.2f}" for value in metrics["chi2_samples"]],
        footer="  ·  ".join(str(labels[name]) for name in ("operator", "sampler", "prior", "seed")),
    )


def report(metrics: dict[str, Any], verdict: Verdict, *, as_json: bool, verbose: bool = False) -> None:
    """The numbers on stdout, as a table or as one JSON object, and on stderr where the picture is."""
    if as_json:
        output.print_json(metrics)
    else:
        known = [(text, form.format(metrics[key])) for key, (text, form) in TABLE.items() if metrics[key] is not None]
        output.print_table(("", "value"), [*known, ("verdict", verdict.short())], numbers=("value",))
    tell(verdict, verbose=verbose)
    output.note(f"\npicture: {metrics['files']['panel']}")


def tell(verdict: Verdict, *, verbose: bool) -> None:
    """On stderr what to change where something was found, or all that was compared."""
    if verbose:
        output.note(f"verdict: {verdict}")
    elif verdict.findings:
        output.note(f"verdict: {verdict.line()}")


def _level(labels: dict[str, Any]) -> str:
    """The noise level in small print."""
    if "sigma" in labels:
        return f"$\\sigma_y$ = {labels['sigma']:g}"
    return f"rate {labels['rate']:g}" if "rate" in labels else f"{labels['noise']} noise"


@contextmanager
def appearing(run: Run) -> Iterator[Path]:
    """A temporary folder whose files become the results of a run at the end of the block, or vanish if it fails."""
    with replacing_folder(run.out) as folder:
        yield folder
    if run.stream is None:
        run.progress.unlink(missing_ok=True)
