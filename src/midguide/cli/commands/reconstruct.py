"""`midguide reconstruct`: samples from the posterior of one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midguide.cli import options, output
from midguide.cli.commands.base import COMMANDS
from midguide.cli.completion import names
from midguide.errors import ConfigError, UnsupportedProblem, about

if TYPE_CHECKING:
    from midguide.operators.base import Operator
    from midguide.priors.base import Denoiser
    from midguide.problem import Problem
    from midguide.samplers.base import Sampler
    from midguide.studies.kinds.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to sample."""

    sampler: Annotated[
        str,
        typer.Option(
            autocompletion=names("samplers", "auto"),
            metavar="NAME[:PRESET]",
            help="The method: `midguide list samplers`; auto takes what suits the problem.",
        ),
    ] = "auto"
    steps: options.Steps = None
    budget: options.Budget = None
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the sampler; repeatable.")
    ] = None

    def make(self, problem: Problem) -> Sampler:
        """The sampler with its settings, for a problem."""
        from midguide.catalogue.settings import given, parse_overrides
        from midguide.samplers.base import make_sampler

        changes = parse_overrides(self.set) | given(steps=self.steps)
        return make_sampler(self.sampler, changes, problem, budget=self.budget)

    def check(self) -> None:
        """Refuse what is wrong whatever the problem is, before anything is loaded."""
        from midguide.catalogue.settings import given, parse_overrides
        from midguide.samplers.base import AUTO, make_sampler

        if self.sampler != AUTO:
            make_sampler(self.sampler, parse_overrides(self.set) | given(steps=self.steps))


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """What is measured, and with which noise."""

    operator: Annotated[
        str,
        typer.Option(
            autocompletion=names("operators"),
            metavar="NAME[:PRESET]",
            help="What the instrument does: `midguide list operators`.",
        ),
    ]
    operator_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of the operator; repeatable. Lengths, as std of a blur, are in pixels of a 256x256 one.",
        ),
    ] = None
    noise: Annotated[
        str,
        typer.Option(
            autocompletion=names("likelihoods"), metavar="MODEL", help="The noise: `midguide list likelihoods`."
        ),
    ] = "gaussian"
    sigma: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="Gaussian noise: standard deviation in the prior's value range, 0.05 by default."
        ),
    ] = None
    rate: Annotated[
        float | None, typer.Option(metavar="R", help="Poisson noise: expected counts of the brightest value.")
    ] = None
    noise_set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the noise; repeatable.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Measurement(Instrument):
    """The same, of an image file."""

    measured: Annotated[bool, typer.Option("--measured", help="IMAGE is a measurement, the truth is unknown.")] = False

    def setup(self, seed: int) -> Setup:
        """The instrument and its noise.

        Raises:
            ConfigError: If there is no such noise, or an image file cannot hold what is measured.
        """
        from midguide.catalogue.settings import given, parse_overrides
        from midguide.likelihoods.base import LIKELIHOODS
        from midguide.studies.kinds.setup import Setup

        with about("--noise"):
            LIKELIHOODS.find(self.noise)
        level = given(sigma_y=self.sigma, rate=self.rate) | parse_overrides(self.noise_set)
        try:
            setup = Setup(
                operator=self.operator,
                operator_settings=parse_overrides(self.operator_set),
                operator_seed=seed,
                noise=self.noise,
                noise_settings=level,
            )
        except ConfigError as error:
            hint = "each noise takes its own of --sigma, --rate and --noise-set: `midguide list likelihoods`"
            raise ConfigError(f"--noise {self.noise}: {error.message}", hint=hint) from error
        if self.measured and not setup.model.in_range:
            raise ConfigError(
                f"--measured takes no {self.noise} noise: an image file holds no counts", hint="leave --measured out"
            )
        return setup


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Which part of the image file is used, and at which size."""

    crop: Annotated[
        str | None, typer.Option(metavar="TOP,LEFT,HEIGHT,WIDTH", help="Use this part of IMAGE, in pixels.")
    ] = None
    resize: Annotated[bool, typer.Option("--resize", help="Resize IMAGE to the size of the prior.")] = False
    white: options.White = None
    tile: Annotated[
        bool,
        typer.Option(
            "--tile",
            help="Cover an IMAGE larger than the prior with overlapping tiles. For priors of patches: one of whole "
            "scenes, such as faces, draws a scene in every tile.",
        ),
    ] = False
    overlap: Annotated[
        int | None,
        typer.Option(metavar="N", help="Least overlap of tiles, in pixels; a quarter of a tile by default."),
    ] = None

    def __post_init__(self) -> None:
        self.box()
        if self.tile and self.resize:
            raise ConfigError("--tile keeps the size of IMAGE, --resize does not", hint="leave one of them out")
        if self.overlap is not None and not self.tile:
            raise ConfigError("--overlap is one of tiles", hint="give --tile, too")

    def tiled(self, denoiser: Denoiser, image: Path, setup: Setup, told: list[str], *, measured: bool) -> Denoiser:
        """The prior of images as large as the one in the file, or as large as that of which it is a measurement.

        Raises:
            UnsupportedProblem: If the prior is one of latents or of no images, or the sizes do not fit.
        """
        from midguide.data.images import image_size
        from midguide.priors.tiles import tiled

        if not self.tile:
            return denoiser
        box, shape = self.box(), denoiser.signal_shape
        size = image_size(image, white=self.white) if box is None else box[2:]
        if measured:
            one = _measurement_shape(setup.instrument(denoiser), denoiser)
            size = tuple(n * whole // part for n, whole, part in zip(size, shape[1:], one[1:], strict=True))
        large = tiled(denoiser, size, self.overlap)
        height, width = shape[1:]
        told.append(
            f"{large.tiles} tiles of {width}x{height}, each a call of the prior, cover {size[1]}x{size[0]}: "
            f"made for priors of patches; one of whole scenes draws a scene in every tile"
        )
        return large

    def box(self) -> tuple[int, int, int, int] | None:
        """The numbers of `crop`."""
        if self.crop is None:
            return None
        try:
            top, left, height, width = (int(part) for part in self.crop.split(","))
        except ValueError:
            raise ConfigError(
                f"--crop takes four integers TOP,LEFT,HEIGHT,WIDTH, got {self.crop!r}",
                hint="for example --crop 58,172,118,118",
            ) from None
        if min(top, left) < 0 or min(height, width) < 1:
            raise ConfigError(
                f"--crop {self.crop} is not part of an image", hint="offsets are not negative, sizes at least 1"
            )
        return top, left, height, width


@COMMANDS.register("reconstruct")
@options.grouped
def reconstruct(
    context: typer.Context,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The true image; or with --measured its measurement.")],
    *,
    measurement: Measurement,
    prior: options.Prior = "faces-64",
    method: Method,
    samples: Annotated[int, typer.Option(metavar="K", help="Samples to draw.")] = 4,
    picture: Picture,
    asked: options.PriorOptions,
    drawing: options.Drawing,
    verbose: options.Verbose = False,
) -> None:
    """Draw posterior samples for one image.

    IMAGE is the truth, and the command simulates its measurement to score the answer. With --measured it is the
    measurement itself. Writes samples, panel.png, mean.png and metrics.json, all or nothing. A verdict says what checks
    found in the answer, and what to change.
    """
    output.check_counts(samples=samples, steps=method.steps, budget=method.budget, chunk=drawing.chunk)
    folder = output.out_folder(
        drawing.out or output.default_folder(image.stem, measurement.operator, method.sampler, of=context)
    )
    output.use_threads(context)
    from midguide.cli import runs

    method.check()
    setup = measurement.setup(drawing.seed)
    denoiser = asked.load(prior)
    told: list[str] = []
    denoiser = picture.tiled(denoiser, image, setup, told, measured=measurement.measured)
    problem = _problem(denoiser, setup, image, picture, drawing.seed, told, measured=measurement.measured)
    for line in told:
        output.note(line)
    sampler = method.make(problem)
    run = runs.Run(
        problem=problem,
        sampler=sampler,
        n=samples,
        seed=drawing.seed,
        out=folder,
        labels={
            "sampler": runs.sampler_label(method.sampler, sampler),
            "prior": output.prior_label(prior),
            "operator": measurement.operator,
            **runs.noise_labels(setup),
        },
        chunk=drawing.chunk,
        stream=drawing.stream,
        devices=drawing.devices,
    )
    result = runs.draw(run)
    verdict = result.check()
    metrics = runs.write(run, result, runs.measure(run, result, verdict) | {"remarks": told})
    runs.report(metrics, verdict, as_json=drawing.as_json, verbose=verbose)


def _problem(
    denoiser: Denoiser, setup: Setup, image: Path, picture: Picture, seed: int, told: list[str], *, measured: bool
) -> Problem:
    """The problem whose truth, or whose measurement, is in an image file."""
    from midguide.data.images import load_image
    from midguide.studies.kinds.setup import RANGE

    shape = _measurement_shape(setup.instrument(denoiser), denoiser) if measured else denoiser.signal_shape
    limits = denoiser.signal_range or RANGE
    form = {"resize": picture.resize, "crop": picture.box(), "white": picture.white}
    pixels = load_image(image, shape, value_range=limits, note=told.append, **form)
    return setup.given(denoiser, pixels) if measured else setup.simulate(denoiser, pixels, seed=seed)


def _measurement_shape(operator: Operator, denoiser: Denoiser) -> tuple[int, ...]:
    """The shape of a measurement that an image file can hold: an image, not larger than what it measures.

    Raises:
        UnsupportedProblem: If measurements are not such images.
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
