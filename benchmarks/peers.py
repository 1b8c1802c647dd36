"""Samplers of deepinv and azula beside ours at the same number of network calls, on two posteriors known exactly.

Pictures of 8x8 pixels. `field`: a Gaussian prior, half of the pixels measured. `mixture`: eight Gaussians, two pixels
measured, so that the posterior has several modes. All libraries see the denoiser of the same prior, in the range of
values that each asks for, and none sees more of it than a network shows. Every sampler has the steps that come nearest
to the budget from below; its other settings are the defaults of its authors, or those that its row names.

The error is the sliced Wasserstein distance of order 2 from exact draws, over that of draws of the prior: 0 is exact,
1 ignores the measurement.

    make interop && PYTHONPATH=src .venv/interop/bin/python benchmarks/peers.py --out results/data
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from exactness import interval
from torch import Tensor

from midguide import Problem, observe, sample
from midguide.diffusion.schedules import Time
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.metrics.distribution import sliced_wasserstein
from midguide.operators.deepinv import physics_of_deepinv
from midguide.operators.mask import Mask
from midguide.operators.matrix import Matrix
from midguide.priors import Gaussian, GaussianMixture
from midguide.priors.base import Denoiser
from midguide.priors.interop import to_azula, to_deepinv
from midguide.priors.wrapped import Wrapped
from midguide.samplers.base import make_sampler
from midguide.samplers.budget import OverBudget, within_budget

SHAPE, SPREAD, NOISE = (1, 8, 8), 0.3, 0.1
ALONE = 4
"""A sampler that couples the rows of a batch draws one by one, and so many times fewer."""


class Counted(Wrapped):
    """A prior as a network shows it: its denoiser alone, whose calls and derivatives are counted."""

    exact_moments = False

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.calls = 0

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        x0 = self.inner(x, t)
        self.calls += 1
        if x0.requires_grad:
            x0.register_hook(self._derivative)
        return x0

    def _derivative(self, _: Tensor) -> None:
        self.calls += 1


class Settings(NamedTuple):
    """Network calls of one draw, and draws."""

    budget: int
    n: int


@dataclass(frozen=True)
class Task:
    """One observation: values in -1..1 for azula and us, in 0..1 for deepinv."""

    prior: Counted
    pixels: Counted
    mask: Tensor
    y: Tensor
    exact: Tensor
    again: Tensor
    unguided: Tensor

    def error(self, draws: Tensor) -> float:
        """Sliced distance from exact draws, over that of draws of the prior."""
        near, far = (sliced_wasserstein(x.detach(), self.exact, order=2) for x in (draws, self.unguided))
        return near / far

    @property
    def problem(self) -> Problem:
        rows = Matrix.create(torch.eye(64)[self.mask.flatten().bool()], event_shape=SHAPE)
        return Problem.of(self.prior, GaussianLikelihood(rows, self.measured(self.y), NOISE))

    @property
    def physics(self) -> Any:
        module = physics_of_deepinv()
        return module.Inpainting(SHAPE, mask=self.mask, noise_model=module.GaussianNoise(NOISE / 2))

    @property
    def measured(self) -> Callable[[Tensor], Tensor]:
        """The measured pixels as a vector, which azula's solvers ask for."""
        return lambda x: x.flatten(1)[:, self.mask.flatten().bool()]


Draw = partial[Tensor]
"""Draws of a sampler: of a task, with so many steps (ours: at that budget), so many of them; values in -1..1."""


def task(kind: str, seed: int, n: int) -> Task:
    """The prior, what is measured, and draws of the exact posterior and of the prior."""
    places = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    covariance = SPREAD**2 * torch.exp(-torch.cdist(places, places) / 2)
    if kind == "field":
        prior, pixels = (Gaussian(torch.full(SHAPE, m), s**2 * covariance) for m, s in ((0.0, 1.0), (0.5, 0.5)))
    else:
        means = Gaussian(torch.zeros(SHAPE), covariance).sample(8, seed=100 + seed)
        prior, pixels = (
            GaussianMixture(torch.ones(8), s * means + m, (s * NOISE) ** 2) for m, s in ((0, 1), (0.5, 0.5))
        )
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(64).index_fill(0, order[: 32 if kind == "field" else 2], 1.0).reshape(SHAPE)
    y = observe(Mask(mask.bool()), prior.sample(1, seed=seed), NOISE, seed=seed).y
    posterior = prior.posterior(GaussianLikelihood(Mask(mask.bool()), y, NOISE))
    known = posterior.sample(n, seed=1), posterior.sample(n, seed=2), prior.sample(n, seed=3)
    return Task(Counted(prior), Counted(pixels), mask, y, *known)


def ours(name: str, equal: bool, task: Task, budget: int, n: int) -> Tensor:
    drawn = sample(within_budget(make_sampler(name), task.problem, budget), task.problem, n=n, seed=0)
    return (drawn.resampled(seed=1) if equal and drawn.log_weight is not None else drawn).draws[0]


def deepinv(make: Callable[[Any, int], Any], task: Task, steps: int, n: int) -> Tensor:
    y = (task.y + 1) / 2 * task.mask
    return 2 * make(to_deepinv(task.pixels), steps)(y.expand(n, *SHAPE), task.physics).detach().float() - 1


def sde(fidelity: Any, denoiser: Any, steps: int) -> Any:
    """deepinv's posterior diffusion with the process and solver of its `DPS`."""
    from deepinv.sampling import DDPMSolver, PosteriorDiffusion, VariancePreservingDiffusion

    solver = DDPMSolver(timesteps=torch.linspace(1, 0, steps, dtype=torch.float64))
    return PosteriorDiffusion(fidelity, denoiser, VariancePreservingDiffusion(), solver)


def azula(make: Callable[[Any, Task, int, Tensor], Any], together: bool, task: Task, steps: int, n: int) -> Tensor:
    def draw(rows: int) -> Tensor:
        sampler = make(to_azula(task.prior), task, steps, task.measured(task.y.expand(rows, *SHAPE)))
        return sampler(sampler.init((rows, *SHAPE)))

    return draw(n) if together else torch.cat([draw(1) for _ in range(-(-n // ALONE))]).repeat(ALONE, 1, 1, 1)[:n]


def contestants() -> dict[tuple[str, str], Draw]:
    """What is compared, by library and sampler."""
    physics_of_deepinv()  # mends the import
    from azula.guidance import diffpir, dps, mmps, pgdm, tmpd
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DDRM, DPS, DiffPIR, MomentMatchingDataFidelity, PiGDMDataFidelity

    def guided(make: Callable[[Any, Tensor, Callable], Any]) -> Callable[..., Any]:
        return lambda d, task, steps, y: DDPMSampler(make(d, y, task.measured), steps=steps, silent=True)

    def lifted(task: Task, y: Tensor) -> Tensor:
        return torch.zeros(len(y), 64).index_copy(1, task.mask.flatten().nonzero()[:, 0], y).reshape(-1, *SHAPE)

    def moments(iterations: int) -> Callable[..., Any]:
        noise = IsotropicCovariance(torch.tensor(NOISE**2))
        return guided(lambda d, y, A: mmps.MMPSDenoiser(d, y, A, noise, iterations=iterations))

    theirs = {
        "ddrm": lambda d, steps: DDRM(d, sigmas=np.linspace(1, 0, steps)),
        "diffpir": lambda d, steps: DiffPIR(d, L2(), sigma=NOISE / 2, max_iter=steps),
        "dps": lambda d, steps: DPS(d, num_steps=steps),
        "dps, annealed": lambda d, steps: DPS(d, num_steps=steps, guidance="annealed"),
        "pigdm": lambda d, steps: sde(PiGDMDataFidelity(), d, steps),
        "moment matching": lambda d, steps: sde(MomentMatchingDataFidelity(), d, steps),
    }
    guides = {
        "dps": lambda d, task, steps, y: dps.DPSSampler(d, y, task.measured, steps=steps, silent=True),
        "pgdm": lambda d, task, steps, y: pgdm.PGDMSampler(
            d, y, task.measured, partial(lifted, task), steps=steps, silent=True
        ),
        "diffpir": guided(lambda d, y, A: diffpir.DiffPIRDenoiser(d, y, A, NOISE**2)),
        "tmpd": guided(lambda d, y, A: tmpd.TMPDenoiser(d, y, A, NOISE**2)),
        "mmps": moments(1),
        "mmps, 3 iterations": moments(3),
    }
    names = (
        "ddrm",
        "diffpir",
        "dps",
        "pgdm:score",
        "tmpd",
        "mmps",
        "mgps",
        "matheron",
        "matheron:weighted",
        "smcdiff:islands",
    )
    return (
        {("deepinv", name): partial(deepinv, make) for name, make in theirs.items()}
        | {("azula", name): partial(azula, make, name != "dps") for name, make in guides.items()}  # dps couples rows
        | {("midguide", name): partial(ours, name, True) for name in names}
    )


def cost(draw: Draw, task: Task, steps: int, group: int = 1) -> int:
    """Network calls of one draw, forwards and derivatives together; draws of a group are one batch."""
    task.prior.calls = task.pixels.calls = 0
    draw(task, steps, group)
    return task.prior.calls + task.pixels.calls


def affordable(draw: Draw, task: Task, budget: int) -> int:
    """The most steps of theirs within a budget: each costs as much."""
    few, more = (cost(draw, task, steps) for steps in (5, 10))
    return 10 + int((budget - more) / ((more - few) / 5))


def coupling(draw: Draw, task: Task, steps: int, group: int) -> float:
    """How far the first draw of a seed moves when three more, or three more groups, are drawn with it."""
    found = []
    for n in (group, 4 * group):
        torch.manual_seed(0)
        found.append(draw(task, steps, n)[0])
    return float((found[0] - found[1]).abs().max())


def row(library: str, name: str, draw: Draw, tasks: dict[str, list[Task]], settings: Settings) -> list[str]:
    """The errors on both posteriors, the calls, and how far a draw depends on its batch."""
    errors, calls, steps, group = [], [], 0, 16 if name.endswith(":islands") else 1
    for of in tasks.values():
        try:
            steps = settings.budget if library == "midguide" else affordable(draw, of[0], settings.budget)
            calls.append(cost(draw, of[0], steps, group))
            torch.manual_seed(0)  # of the other libraries; ours has seeds of its own
            errors.append(interval([t.error(draw(t, steps, settings.n)) for t in of]))
        except OverBudget:
            errors.append("over budget")
    batch = draw if library == "deepinv" else partial(draw.func, draw.args[0], library == "azula")  # not resampled
    moved = coupling(batch, tasks["mixture"][0], steps, group)
    return [library, f"`{name}`", *errors, " / ".join(dict.fromkeys(map(str, calls))), f"{moved:.0e}"]


def main() -> None:
    """Measure all, print the rows, write the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=("deepinv", "azula", "midguide"), help="rows of one only")
    parser.add_argument("--n", type=int, default=128, help="draws of each sampler and observation")
    parser.add_argument("--observations", type=int, default=8)
    parser.add_argument("--budget", type=int, default=100, help="network calls of one draw")
    parser.add_argument("--out", type=Path, help="folder for peers-1.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {
        kind: [task(kind, seed, options.n) for seed in range(options.observations)] for kind in ("field", "mixture")
    }
    table = []
    for (library, name), draw in contestants().items():
        if options.library not in (None, library):
            continue
        table.append(row(library, name, draw, tasks, Settings(options.budget, options.n)))
        print(" | ".join(table[-1]), file=sys.stderr, flush=True)
    table.append(["exact draws", "", *(interval([t.error(t.again) for t in of]) for of in tasks.values()), "", ""])
    print(" | ".join(table[-1]), file=sys.stderr)
    if options.out:
        head = ["library", "sampler", "field", "mixture", "calls", "a draw moves by"]
        with (options.out / "peers-1.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *table])


if __name__ == "__main__":
    main()
