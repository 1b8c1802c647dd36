"""`midguide reconstruct`: samples from the posterior of one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.errors import ConfigError, UnsupportedProblem, about

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.operators.base import Operator
    from midguide.priors.base import Denoiser
    from midguide.problem import Problem


@COMMANDS.register("reconstruct")
@options.grouped
def reconstruct(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The true image; or with --measured its measurement.")],
    operator: Annotated[
        str, typer.Option(metavar="NAME[:PRESET]", help="What the instrument does: `midguide list operators`.")
    ],
    prior: options.Prior = "faces-64",
    sampler: Annotated[
        str, typer.Option(metavar="NAME[:PRESET]", help="The method: `midguide list samplers`.")
    ] = "mgps",
    steps: options.Steps = None,
    samples: Annotated[int, typer.Option(metavar="K", help="Samples to draw.")] = 4,
    sigma: Annotated[
        float, typer.Option(metavar="S", help="Noise level (standard deviation) in the prior's value range.")
    ] = 0.05,
    noise: Annotated[str, typer.Option(metavar="MODEL", help="gaussian, or poisson: photon counts.")] = "gaussian",
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Poisson noise: expected counts of the brightest value.")
    ] = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
    measured: Annotated[bool, typer.Option("--measured", help="IMAGE is a measurement, the truth is unknown.")] = False,
    crop: Annotated[
        str | None, typer.Option(metavar="TOP,LEFT,HEIGHT,WIDTH", help="Use this part of IMAGE, in pixels.")
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="Resize IMAGE to the size of the prior.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the sampler; repeatable.")
    ] = None,
    operator_settings: Annotated[
        list[str] | None,
        typer.Option("--operator-set", metavar="KEY=VALUE", help="A setting of the operator; repeatable."),
    ] = None,
    chunk: options.Chunk = None,
    *,
    asked: options.PriorOptions,
) -> None:
    """Draw posterior samples for one image.

    IMAGE is taken as the truth and its measurement is simulated, so that the answer can be scored; with --measured it
    is the measurement itself. Writes samples, panel.png, mean.png and metrics.json, all or nothing.
    """
    output.check_counts(samples=samples, steps=steps, chunk=chunk)
    box = _parse_crop(crop)
    _check_noise(noise, sigma, rate, measured)
    folder = output.out_folder(out or output.default_folder(image.stem, operator, sampler))

    output.use_threads(context)
    from midguide.catalogue.settings import parse_override
    from midguide.cli import runs
    from midguide.data.images import load_image
    from midguide.operators.factory import make_operator
    from midguide.samplers.base import make_sampler

    overrides = dict(parse_override(text) for text in settings or ())
    method = make_sampler(sampler, overrides | ({} if steps is None else {"steps": steps}))
    denoiser = asked.load(prior)
    own = dict(parse_override(text) for text in operator_settings or ())
    limits = denoiser.signal_range or (-1.0, 1.0)
    instrument = make_operator(operator, denoiser.signal_shape, seed=seed, value_range=limits, **own)
    if instrument.observations is not None:
        raise ConfigError(
            f"count={instrument.observations} makes an operator for each of several observations, here is one image",
            hint="leave count out; --seed N draws another",
        )
    shape = _measurement_shape(instrument, denoiser) if measured else denoiser.signal_shape
    pixels = load_image(image, shape, value_range=limits, resize=resize, crop=box)
    problem = _problem(denoiser, instrument, pixels, sigma, rate, seed, measured)
    level: dict[str, float] = {"sigma": sigma} if rate is None else {"rate": rate}
    run = runs.Run(
        problem=problem,
        sampler=method,
        n=samples,
        seed=seed,
        out=folder,
        labels={"sampler": sampler, "prior": output.prior_label(prior), "operator": operator, **level},
        chunk=chunk,
    )
    result = runs.draw(run)
    metrics = runs.write(run, result, runs.measure(run, result))
    runs.report(metrics, as_json=as_json)


def _check_noise(noise: str, sigma: float, rate: float | None, measured: bool) -> None:
    from midguide.likelihoods import check_sigma

    if noise not in ("gaussian", "poisson"):
        raise ConfigError(
            f"--noise must be gaussian or poisson, got {noise!r}", hint="gaussian takes --sigma, poisson --rate"
        )
    if (noise == "poisson") != (rate is not None):
        raise ConfigError("--noise poisson and --rate belong together", hint="for example --noise poisson --rate 30")
    if rate is not None and not 0.0 < rate < float("inf"):
        raise ConfigError(f"--rate must be positive, got {rate:g}", hint="the expected counts of the brightest value")
    if rate is not None and measured:
        raise ConfigError(
            "--measured takes no Poisson noise: an image file holds no counts", hint="leave --measured out"
        )
    with about("--sigma"):
        check_sigma(sigma)


def _problem(
    denoiser: Denoiser,
    operator: Operator,
    pixels: Tensor,
    sigma: float,
    rate: float | None,
    seed: int,
    measured: bool,
) -> Problem:
    """The problem whose truth, or whose measurement, is `pixels`."""
    from midguide.likelihoods import GaussianLikelihood, observe_counts
    from midguide.problem import Problem

    if rate is not None:
        limits = denoiser.signal_range or (-1.0, 1.0)
        return Problem.of(denoiser, observe_counts(operator, pixels, rate, seed=seed, value_range=limits), pixels)
    if not measured:
        return Problem.simulate(denoiser, operator, pixels, sigma_y=sigma, seed=seed)
    return Problem.of(denoiser, GaussianLikelihood(operator, pixels, sigma))


def _measurement_shape(operator: Operator, denoiser: Denoiser) -> tuple[int, ...]:
    """The shape of a measurement that an image file can hold: an image, not larger than what it measures.

    Raises:
        UnsupportedProblem: If measurements are no such images.
    """
    import torch

    signal = denoiser.signal_shape
    shape = tuple(operator(torch.zeros(1, *signal)).shape[1:])
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] > signal[1] or shape[2] > signal[2]:
        raise UnsupportedProblem(
            f"--measured needs an operator whose measurements are images, here {signal} becomes {shape}",
            hint="leave --measured out to simulate the measurement, or use the Python interface",
        )
    return shape


def _parse_crop(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        top, left, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--crop takes four integers TOP,LEFT,HEIGHT,WIDTH, got {text!r}", hint="for example --crop 58,172,118,118"
        ) from None
    if min(top, left) < 0 or min(height, width) < 1:
        raise ConfigError(f"--crop {text} is no part of an image", hint="offsets are not negative, sizes at least 1")
    return top, left, height, width
