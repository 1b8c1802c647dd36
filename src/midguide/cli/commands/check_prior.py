"""`midguide check-prior`: whether a prior is used as it was trained, measured on a few images or on its own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.completion import names
from midguide.errors import ConfigError, DataError, UnsupportedProblem

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.diagnostics.prior import PriorReport
    from midguide.priors.base import Denoiser

PHOTOGRAPHS = {"astronaut": (58, 172, 118, 118), "chelsea": None, "coffee": None, "rocket": None}
"""Photographs of scikit-image, and the part that is used: of the astronaut the face."""


@COMMANDS.register("check-prior")
@options.grouped
def check_prior(
    context: typer.Context,
    prior: Annotated[
        str,
        typer.Argument(
            autocompletion=names("priors"),
            metavar="PRIOR",
            help="As for --prior: a name, file, folder, repository or FILE.py:FUNCTION.",
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            help="Images to measure on; by default photographs, or draws of the prior where it is of no such images.",
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option("--draws", metavar="N", help="Measure on N draws of the prior itself, whatever it is a prior of."),
    ] = None,
    *,
    asked: options.PriorOptions,
    white: options.White = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Measure a prior's denoising error, and name the convention that is likely wrong.

    Prediction, schedule, value range, scale of latents, order of channels, time index, average of the weights: the
    command compares each with the alternatives. Images like the training data tell most. Draws of the prior itself tell
    of prediction, schedule and dropout left on. The exit code is 1 where it finds something.
    """
    if white is not None and not images:
        raise ConfigError("--white is given, but no images", hint="leave it out, or give the images to measure on")
    if images and draws is not None:
        raise ConfigError("images and --draws were given", hint="measure on the ones or on the others")
    output.use_threads(context)
    from midguide.diagnostics.draws import DRAWS, NOT_TOLD, check_draws
    from midguide.diagnostics.prior import network_of

    denoiser = asked.load(prior)
    if draws is None and not images and not _is_photographic(denoiser.signal_shape):
        draws = DRAWS
    if draws is None:
        again = lambda last: asked.load(prior, averaged=last)  # noqa: E731
        report, count = _on_images(denoiser, images or [], white, seed, again)
    else:
        report, count = check_draws(network_of(denoiser), n=draws, seed=seed), draws
    if as_json:
        output.print_json(_as_json(prior, report, count, None if draws is None else NOT_TOLD))
    else:
        _print(report)
    if draws is not None:
        output.note(f"measured on {draws} draws of the prior itself, which cannot tell: {NOT_TOLD}")
    if report.findings:
        raise typer.Exit(1)


def _on_images(
    denoiser: Denoiser,
    images: list[Path],
    white: float | None,
    seed: int,
    again: Callable[[bool], Denoiser],
) -> tuple[PriorReport, int]:
    """The report on these images, or on photographs, and how many there are.

    Args:
        denoiser: the prior.
        images: files.
        white: its value in them; by default the largest of their type.
        seed: of the noise.
        again: the prior with the average of its weights, or with the last, where its file holds both.
    """
    import torch

    from midguide.data.images import load_image
    from midguide.diagnostics import prior as diagnostics
    from midguide.diagnostics.autoencoder import check_autoencoder

    other = None
    if which := denoiser.provenance.get("weights"):  # the file holds two sets of them
        other = diagnostics.network_of(again(which == "last"))
    shape, limits = denoiser.signal_shape, denoiser.signal_range or (-1.0, 1.0)
    if images:
        form = {"value_range": limits, "resize": True, "white": white, "note": output.note}
        data = torch.cat([load_image(path, shape, **form) for path in images])
    else:
        data = photographs(shape, limits)
    report = diagnostics.check_prior(*diagnostics.network_and_data(denoiser, data), seed=seed, other=other)
    if denoiser.autoencoder is not None:
        report = replace(report, findings=(*check_autoencoder(denoiser.autoencoder, data), *report.findings))
    return report, len(data)


def _is_photographic(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def photographs(event_shape: tuple[int, ...], value_range: tuple[float, float]) -> Tensor:
    """A face, a cat, a cup and a rocket (scikit-image) in the shape of a prior of images, shape (4, C, H, W).

    Raises:
        UnsupportedProblem: If the prior's events are not images of 1 or 3 channels.
    """
    import torch

    from midguide.data.images import load_image

    if not _is_photographic(event_shape):
        raise UnsupportedProblem(f"there are no photographs of shape {event_shape}", hint="measure on draws")
    try:
        from skimage import data
    except ImportError as error:
        raise DataError(
            f"cannot read the photographs of scikit-image: {error}", hint="install midguide again"
        ) from error
    folder = Path(data.__file__).parent
    files = {next(folder.glob(f"{name}.*")): crop for name, crop in PHOTOGRAPHS.items()}
    settings = {"value_range": value_range, "resize": True, "note": lambda text: None}  # what they state is known
    return torch.cat([load_image(file, event_shape, crop=crop, **settings) for file, crop in files.items()])


def _as_json(prior: str, report: PriorReport, count: int, not_told: str | None) -> dict[str, Any]:
    words, factor = report.next_best
    return {
        "prior": prior,
        **({"images": count} if not_told is None else {"draws": count, "not_told": not_told}),
        "findings": [finding._asdict() for finding in report.findings],
        "next_best": {"reading": words, "errors_larger_by": factor},
        "levels": [row._asdict() for row in report.levels],
    }


def _print(report: PriorReport) -> None:
    columns = ("noise / spread", "error / variance", "linear estimator", "mean square of eps")
    rows = [(f"{r.ratio:.3f}", f"{r.error:.4f}", f"{r.linear:.4f}", f"{r.noise:.3f}") for r in report.levels]
    output.print_table(columns, rows, numbers=columns)
    for finding in report.findings:
        gain = f" (errors smaller by a factor of {finding.gain:.2f})" if finding.gain > 1 else ""
        output.note(f"likely mistake: {finding.message}{gain}")
    if not report.findings:
        output.note(_verdict(*report.next_best))


def _verdict(words: str, factor: float) -> str:
    """What is said where nothing was found, of the best of the other readings and how much larger its errors are."""
    from midguide.diagnostics.prior import THRESHOLD

    if factor < math.exp(THRESHOLD):  # which is not more than chance explains
        return f"nothing speaks against the declared conventions; another {words} fits about as well"
    return f"the declared conventions fit best; the next, another {words}, has errors {factor:.2f} times as large"
