"""Nuclei under a microscope: their picture and their number, from blurred photon counts; tables of results/nuclei.md.

    python benchmarks/nuclei.py tables IMAGES     held-out micrographs, a zip file or folder
    python benchmarks/nuclei.py picture           one truth drawn from the prior

The instrument is known as in a laboratory: its point-spread function is the mean of noisy pictures of beads. Counts are
Poisson, with a background. The number of nuclei of a picture is that of its connected bright parts of `LEAST` pixels or
more; draws give each number its probability. `--prior` takes another file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from exactness import interval
from skimage import measure
from skimage.restoration import richardson_lucy
from torch import Tensor

from midguide import Problem, load_prior, make_operator, make_sampler, sample
from midguide.data.images import load_gray_images
from midguide.likelihoods import observe_counts
from midguide.metrics.image import psnr
from midguide.operators.base import Operator
from midguide.plots.panel import panel
from midguide.priors.base import Denoiser
from midguide.training.base import load_recipe
from midguide.training.crops import Pictures

RATE, BACKGROUND = 20.0, 2.0
"""Photons of a white pixel, and those that come anyway."""
WIDTHS, KERNEL = (2.0, 1.4), 15
"""Standard deviations of the true point-spread function in pixels, and the side of its picture."""
BEADS, BEAD = 50, 300.0
"""Pictures of beads, and the photons at the peak of one."""
BRIGHT, LEAST = 0.25, 12
"""From which part of white on a pixel is nucleus, and the fewest pixels of one."""
ITERATIONS = 30
SAMPLERS = ("mgps", "mgps:faces-64", "dps")


def true_spread() -> np.ndarray:
    """The point-spread function, an ellipse, which the reconstruction does not see."""
    y, x = np.mgrid[:KERNEL, :KERNEL] - KERNEL // 2
    along, across = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    return np.exp(-0.5 * ((along / WIDTHS[0]) ** 2 + (across / WIDTHS[1]) ** 2))


def measured_spread(rng: np.random.Generator) -> np.ndarray:
    """What beads say of it: the mean of their counts, less the background, never negative."""
    counts = rng.poisson(BEAD * true_spread() + BACKGROUND, (BEADS, KERNEL, KERNEL))
    return np.clip(counts.mean(0) - BACKGROUND, 0.0, None)


def instrument(spread: np.ndarray, shape: tuple[int, ...]) -> Operator:
    """The blur of a point-spread function."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "spread.npy", spread)
        return make_operator("convolution-reflect", shape, path=str(Path(folder) / "spread.npy"))


def number(pictures: Tensor) -> Tensor:
    """Nuclei of each picture in [-1, 1], shape (n, 1, H, W): an integer each."""
    found = []
    for picture in pictures[:, 0].numpy():
        parts = measure.label((picture + 1) / 2 >= BRIGHT, connectivity=1)
        found.append(int((np.bincount(parts.ravel())[1:] >= LEAST).sum()))
    return torch.tensor(found, dtype=torch.float64)


@dataclass(frozen=True)
class Bench:
    """What is measured by which instrument, and as which it is known."""

    prior: Denoiser
    true: Operator
    known: Operator

    @classmethod
    def of(cls, prior: Denoiser) -> Bench:
        spread = measured_spread(np.random.default_rng(0))
        return cls(prior, *(instrument(k, prior.event_shape) for k in (true_spread(), spread)))

    def problem(self, truth: Tensor) -> Problem:
        """Counts of a truth, each with noise of its own, to be read with the measured point-spread function."""
        seen = observe_counts(self.true, truth, RATE, background=BACKGROUND, seed=0)
        return Problem(self.prior, replace(seen, operator=self.known), truth)

    def deconvolved(self, problem: Problem) -> Tensor:
        """Richardson and Lucy's answer, in [-1, 1]."""
        spread = measured_spread(np.random.default_rng(0))
        light = (problem.likelihood.y.numpy()[:, 0] - BACKGROUND).clip(0.0) / RATE
        answers = [richardson_lucy(each, spread / spread.sum(), num_iter=ITERATIONS) for each in light]
        return 2 * torch.tensor(np.stack(answers), dtype=torch.float32)[:, None] - 1


def held_out(path: Path, count: int) -> Tensor:
    """Pictures as the prior knows them, from images that it has not seen."""
    form = load_recipe("nuclei-64").crops
    pictures = Pictures.cut(load_gray_images(path, white=None, note=print), form, where=path)
    every = pictures.events()
    return every[:: max(len(every) // count, 1)][:count]


def scores(draws: Tensor, truth: Tensor) -> list[Callable[[], list[float]]]:
    """For each truth, of draws of shape (n, draws, 1, H, W): PSNR of the mean, and how well the number is known."""
    counts = torch.stack([number(each) for each in draws])
    right = number(truth)
    mean = draws.mean(1)
    low, high = counts.quantile(0.05, 1), counts.quantile(0.95, 1)
    spread = (counts[:, :, None] - counts[:, None]).abs().mean((1, 2)) / 2
    return [
        lambda: psnr(mean, truth).tolist(),
        lambda: (counts.mean(1) - right).tolist(),
        lambda: (counts.mean(1) - right).abs().tolist(),
        lambda: ((counts - right[:, None]).abs().mean(1) - spread).tolist(),
        lambda: ((right >= low) & (right <= high)).double().tolist(),
        lambda: counts.std(1).tolist(),
    ]


def tables(bench: Bench, truth: Tensor, draws: int, samplers: list[str]) -> None:
    """A row for each sampler, and one for Richardson and Lucy's answer."""
    problem = bench.problem(truth)
    right = number(truth)
    print(f"{len(truth)} pictures of {right.min():.0f} to {right.max():.0f} nuclei, {right.mean():.1f} on average")
    heads = ["answer", "PSNR of the mean, dB", "number less the true one", "off by", "CRPS", "in the 90 % interval"]
    heads += ["std", "chi-square", "calls", "s"]
    print("|", " | ".join(heads), "|")
    print("|", " | ".join("---" for _ in heads), "|")
    for name in samplers:
        started = time.process_time()
        drawn = sample(make_sampler(name), problem, draws, seed=0, progress=False)
        seconds = time.process_time() - started
        rows = problem.expand(draws).likelihood.chi_square(drawn.draws.flatten(0, 1)).reshape(len(truth), draws)
        cells = [interval(score()) for score in scores(drawn.draws, truth)]
        cost = drawn.cost
        calls = f"{cost.network_forwards:g} + {cost.network_vjps:g}"
        print(
            f"| `{name}` |",
            " | ".join([*cells, interval(rows.mean(1).tolist()), calls, f"{seconds:.0f}"]),
            "|",
            flush=True,
        )
    answer = bench.deconvolved(problem)
    cells = [interval(score()) for score in scores(answer[:, None], truth)[:3]]
    print("| Richardson-Lucy |", " | ".join([*cells, "", "", "", "", "", ""]), "|")


def picture(bench: Bench, sampler: str, out: Path) -> None:
    """A truth drawn from the prior, its counts, and draws with the number of nuclei of each."""
    truth = sample(make_sampler("unconditional:ddpm", {"steps": 250}), Problem.unobserved(bench.prior), 1, seed=7)
    clean = truth.draws[0].clamp(-1, 1)
    problem = bench.problem(clean)
    drawn = sample(make_sampler(sampler), problem, 16, seed=0, progress=False)
    counts = number(drawn.draws[0])
    light = 2 * (problem.likelihood.y - BACKGROUND) / RATE - 1
    shown = replace(drawn, tensors=drawn.tensors | {"y": light, "truth": clean})
    share = ", ".join(f"{int(n)}: {float((counts == n).double().mean()):.0%}" for n in counts.unique())
    figure = panel(
        replace(shown, draws=drawn.draws[:, :4]),
        captions={"truth": f"{int(number(clean)[0])} nuclei", "measurement": "photons"},
        sample_captions=[f"{int(n)} nuclei" for n in counts[:4]],
        footer=f"{RATE:g} photons where white, {BACKGROUND:g} besides  ·  {sampler}  ·  nuclei of 16 draws {share}",
    )
    figure.savefig(out)
    print(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tables", "picture"))
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--prior", default="nuclei-64")
    parser.add_argument("--count", type=int, default=32, help="pictures")
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--sampler", action="append")
    parser.add_argument("--out", type=Path, default=Path("docs/images/nuclei.png"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench.of(load_prior(given.prior))
    if given.what == "picture":
        picture(bench, (given.sampler or SAMPLERS)[0], given.out)
    elif given.images is None:
        sys.exit("tables of which images?")
    else:
        tables(bench, held_out(given.images, given.count), given.draws, given.sampler or list(SAMPLERS))


if __name__ == "__main__":
    main()
