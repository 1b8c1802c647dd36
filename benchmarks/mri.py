"""MRI of the astronaut with four coils, samplers beside the exact posterior: the table and picture of results/mri.md.

    python benchmarks/mri.py

Rows appear on stderr as they are done; a minute on one core.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from skimage import data
from skimage.transform import resize
from torch import Tensor

from midguide import Problem, make_operator, make_sampler, sample
from midguide.exact.posteriors import Opaque
from midguide.operators.base import LinearOperator
from midguide.priors.field import GaussianField, matern_spectrum

SIZE, COILS, SIGMA, DRAWS, REFERENCE, SEED = 48, 4, 0.05, 24, 64, 0
PRIOR = {"std": 0.4, "length": 12.0, "smoothness": 0.5}
PICTURE, SPREAD = Path("docs/images/mri.png"), 0.2


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        spec: the sampler.
        settings: of it.
        closed: whether it is given the moments of the prior in closed form; else derivatives, as of a network.
    """

    spec: str
    settings: dict[str, Any]
    closed: bool = False

    @property
    def label(self) -> str:
        changed = [f"{name} {value:g}" for name, value in self.settings.items() if name != "steps"]
        return ", ".join([f"`{self.spec}`", *changed, *["closed form"] * self.closed])


ROWS = (
    Row("dps", {"steps": 100}),
    Row("dps", {"steps": 100, "guidance": 1.0}),
    Row("pgdm", {"steps": 25}),
    Row("mgps", {"steps": 50}),
    Row("mmps", {"steps": 50}),
    Row("matheron", {"steps": 25}),
    Row("matheron", {"steps": 5}, closed=True),
)


class Measured(NamedTuple):
    """Draws, and the cells of their line."""

    draws: Tensor
    cells: list[str]


def astronaut() -> Tensor:
    """The photograph as a complex image with a smooth phase, of modulus 0 to 1, shape (1, 2, 48, 48)."""
    gray = data.astronaut() @ [0.299, 0.587, 0.114] / 255
    modulus = torch.from_numpy(resize(gray, (SIZE, SIZE), anti_aliasing=True)).float()
    place = torch.linspace(-1, 1, SIZE)
    phase = math.pi / 3 * (place[:, None] - place[None] ** 2)
    return torch.stack([modulus * phase.cos(), modulus * phase.sin()])[None]


def magnitude(x: Tensor) -> Tensor:
    """The modulus of complex images, shape (..., 2, H, W) -> (..., H, W)."""
    return x.square().sum(-3).sqrt()


def psnr(x: Tensor, truth: Tensor) -> float:
    """Of moduli, in decibels, white being 1."""
    return -10 * math.log10(float((magnitude(x) - magnitude(truth)).square().mean()))


def cells(draws: Tensor, exact: Tensor, fresh: Tensor, mean: Tensor, problem: Problem) -> list[str]:
    """Error of the mean, ratio of deviations, chi-square, what intervals hold of exact draws and of the truth, PSNR."""
    assert problem.truth is not None
    std = exact.var(0).mean().sqrt()
    error = (draws.mean(0) - mean).square().mean().sqrt() / std
    ratio = (draws.var(0).mean()).sqrt() / std
    chi = problem.expand(len(draws)).likelihood.chi_square(draws).mean()
    low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
    held, covered = (((x >= low) & (x <= high)).float().mean() for x in (fresh, problem.truth[0]))
    found = [f"{error:.2f}", f"{ratio:.2f}", f"{chi:.2f}", f"{held:.0%}", f"{covered:.0%}"]
    return [*(cell.replace("%", " %") for cell in found), f"{psnr(draws.mean(0), problem.truth[0]):.1f}"]


def measured(row: Row, problem: Problem, exact: Tensor, fresh: Tensor, mean: Tensor) -> Measured:
    """Draw with a sampler, and judge the draws."""
    prior = problem.denoiser
    asked = problem if row.closed else Problem(Opaque(prior), problem.likelihood, problem.truth)
    drawn = sample(make_sampler(row.spec, row.settings, asked), asked, DRAWS, seed=SEED, progress=False)
    draws, cost = drawn.draws[0], drawn.cost
    calls = [f"{row.settings['steps']}", f"{cost.network_forwards:,.0f}", f"{cost.network_vjps:,.0f}"]
    found = Measured(draws, [row.label, *calls, *cells(draws, exact, fresh, mean, problem)])
    print(" | ".join(found.cells), file=sys.stderr, flush=True)
    return found


def picture(columns: dict[str, tuple[Tensor, Tensor | None]], place: Path, *, brightest: float, spread: float) -> None:
    """Means (here their moduli) above, standard deviations below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(columns), figsize=(1.5 * len(columns), 3.4), layout="constrained")
    for (title, (image, deviation)), (above, below) in zip(columns.items(), axes.T, strict=True):
        above.imshow(image, cmap="gray", vmin=0, vmax=brightest)
        above.set_title(title, fontsize=8)
        if deviation is not None:
            below.imshow(deviation, cmap="magma", vmin=0, vmax=spread)
        for axis in (above, below):
            axis.axis("off")
    figure.savefig(place, dpi=110)


HEAD = (
    *("sampler", "steps", "forwards", "vjps", "error of the mean", "ratio of deviations", "chi-square"),
    *("90 % intervals hold exact draws", "hold the astronaut", "PSNR of the mean"),
)


def main() -> None:
    """Measure all rows, print the table and write the picture."""
    truth = astronaut()
    prior = GaussianField(torch.zeros(2, SIZE, SIZE), matern_spectrum((SIZE, SIZE), **PRIOR))
    scan = make_operator("fourier-coils:mri-4x", prior.event_shape, coils=COILS, seed=SEED)
    assert isinstance(scan, LinearOperator)
    problem = Problem.simulate(prior, scan, truth, sigma_y=SIGMA, seed=SEED)
    posterior = prior.posterior(problem.likelihood)
    mean = posterior.mean.float()
    exact, fresh = posterior.sample(REFERENCE, seed=1), posterior.sample(DRAWS, seed=2)
    print("exact posterior: done", file=sys.stderr, flush=True)
    zero_filled = scan.adjoint(problem.likelihood.y)
    columns: dict[str, tuple[Tensor, Tensor | None]] = {
        "truth": (magnitude(truth[0]), None),
        "zero-filled": (magnitude(zero_filled[0]), None),
        "exact": (magnitude(mean), spread_of(exact)),
    }
    found = [Measured(fresh, ["exact draws", "", "", "", *cells(fresh, exact, exact[:DRAWS], mean, problem)])]
    for row in ROWS:
        found.append(measured(row, problem, exact, fresh, mean))
        if not row.closed:
            columns[row.label.replace("`", "")] = magnitude(found[-1].draws.mean(0)), spread_of(found[-1].draws)
    picture(columns, PICTURE, brightest=1, spread=SPREAD)
    print("\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *(x.cells for x in found))))
    print(f"zero-filled: {psnr(zero_filled[0], truth[0]):.1f} dB", file=sys.stderr)


def spread_of(draws: Tensor) -> Tensor:
    """Standard deviation of complex pixels, shape (n, 2, H, W) -> (H, W)."""
    return draws.var(0).sum(0).sqrt()


if __name__ == "__main__":
    main()
