"""Samplers of deepinv and azula beside ours, on one posterior that is known exactly, with the same prior and calls.

The prior is a Gaussian field of 8x8 pixels with a correlation length of two pixels; half of its pixels are measured
with noise. Each sampler is asked for the same number of steps and has the defaults of its authors. Measured are, over
pixels, the error of the mean in posterior standard deviations and the ratio of the standard deviation to the exact one.

    make interop && PYTHONPATH=src .venv/interop/bin/python benchmarks/peers.py --out results
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midguide import Problem, observe, sample
from midguide.operators.deepinv import from_deepinv, physics_of_deepinv
from midguide.priors import Gaussian
from midguide.priors.interop import to_azula, to_deepinv
from midguide.samplers.base import make_sampler

SHAPE, NOISE, STEPS = (1, 8, 8), 0.05, 100
OURS = ("ddrm", "diffpir", "dps", "mmps", "mgps")


def field() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the prior: values about 0.5, spread 0.15."""
    places = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    distance = torch.cdist(places, places)
    return torch.full((64,), 0.5).double(), 0.15**2 * torch.exp(-distance / 2)


def exact(mean: Tensor, covariance: Tensor, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior, float64."""
    seen = mask.flatten().bool()
    gain = covariance[:, seen] @ torch.linalg.inv(covariance[seen][:, seen] + NOISE**2 * torch.eye(int(seen.sum())))
    centre = mean + gain @ (y.flatten().double()[seen] - mean[seen])
    return centre, (covariance - gain @ covariance[seen]).diagonal().sqrt()


def contestants(
    prior: Gaussian, physics: object, operator: object, y: Tensor, mask: Tensor
) -> dict[str, Callable[[int], Tensor]]:
    """Draws by name of library and sampler."""
    import azula.guidance.dps as dps
    import azula.guidance.mmps as mmps
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler
    from deepinv.optim.data_fidelity import L2
    from deepinv.sampling import DDRM, DPS, DiffPIR

    theirs, azula, problem = to_deepinv(prior), to_azula(prior), Problem.of(prior, observe_as(operator, y))

    def ours(name: str) -> Callable[[int], Tensor]:
        return lambda n: sample(make_sampler(name, {"steps": STEPS}), problem, n=n, seed=0).draws[0]

    def rows(draw: Callable[[Tensor], Tensor], n: int) -> Tensor:
        return torch.cat([draw(row[None]) for row in y.expand(n, *SHAPE)])  # some of theirs couple the rows of a batch

    def azula_dps(n: int) -> Tensor:
        sampler = dps.DPSSampler(azula, y, lambda x: mask * x, steps=STEPS, silent=True)
        return rows(lambda _: sampler(sampler.init((1, *SHAPE))), n)

    def azula_mmps(n: int) -> Tensor:
        guided = mmps.MMPSDenoiser(
            azula, y.expand(n, *SHAPE), lambda x: mask * x, IsotropicCovariance(torch.tensor(NOISE**2))
        )
        sampler = DDPMSampler(guided, steps=STEPS, silent=True)
        return sampler(sampler.init((n, *SHAPE)))

    ddrm = DDRM(theirs, sigmas=np.linspace(1, 0, STEPS))
    diffpir = DiffPIR(theirs, L2(), sigma=NOISE, max_iter=STEPS)
    guided = DPS(theirs, num_steps=STEPS)
    return {
        "deepinv ddrm": lambda n: ddrm(y.expand(n, *SHAPE), physics),
        "deepinv diffpir": lambda n: diffpir(y.expand(n, *SHAPE), physics),
        "deepinv dps": lambda n: guided(y.expand(n, *SHAPE), physics),
        "azula dps": azula_dps,
        "azula mmps": azula_mmps,
        **{f"midguide {name}": ours(name) for name in OURS},
    }


def observe_as(operator: object, y: Tensor) -> object:
    """The likelihood of these measurements."""
    from midguide.likelihoods.gaussian import GaussianLikelihood

    return GaussianLikelihood(operator, y, NOISE)  # pyright: ignore[reportArgumentType]


def measured(draws: Tensor, mean: Tensor, std: Tensor) -> tuple[float, float]:
    """Root mean square of the error of the mean, in standard deviations; mean ratio of standard deviations."""
    flat = draws.detach().double().flatten(1)
    bias = ((flat.mean(0) - mean) / std).square().mean().sqrt()
    return float(bias), float((flat.std(0) / std).mean())


def interval(draws: Tensor, mean: Tensor, std: Tensor, resamples: int = 200) -> list[tuple[float, float]]:
    """95 % by resampling draws, of both figures."""
    generator = torch.Generator().manual_seed(0)
    picks = (torch.randint(len(draws), (len(draws),), generator=generator) for _ in range(resamples))
    found = torch.tensor([measured(draws[pick], mean, std) for pick in picks])
    return [(float(column.quantile(0.025)), float(column.quantile(0.975))) for column in found.T.double()]


def main() -> None:
    """Measure all, print a table, write the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=256, help="draws of each sampler")
    parser.add_argument("--out", type=Path, help="folder for peers.csv")
    options = parser.parse_args()
    physics_module = physics_of_deepinv()
    mean, covariance = field()
    prior = Gaussian(mean.float().reshape(SHAPE), covariance.float())
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(SHAPE, generator=generator) < 0.5).float()
    noise = physics_module.GaussianNoise(NOISE)
    physics = physics_module.Inpainting(SHAPE, mask=mask, noise_model=noise)
    operator = from_deepinv(physics, SHAPE)
    root = torch.linalg.cholesky(covariance)
    truth = (mean + root @ torch.randn(64, generator=generator, dtype=torch.float64)).float().reshape(1, *SHAPE)
    y = observe(operator, truth, NOISE, seed=0).y * mask
    centre, std = exact(mean, covariance, mask, y)
    table = []
    for name, draw in contestants(prior, physics, operator, y, mask).items():
        torch.manual_seed(0)  # of the other libraries; ours has seeds of its own
        draws = draw(options.n)
        figures, ranges = measured(draws, centre, std), interval(draws, centre, std)
        library, sampler = name.split()
        cells = [f"{value:.3f}" for value in (figures[0], *ranges[0], figures[1], *ranges[1])]
        table.append([library, sampler, str(options.n), str(STEPS), *cells])
        print(" ".join(table[-1]), flush=True)
    if options.out:
        head = "library sampler draws steps bias bias_low bias_high spread spread_low spread_high".split()
        with (options.out / "peers.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *table])


if __name__ == "__main__":
    main()
