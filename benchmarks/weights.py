"""What becomes of the weights of particles with many measured values: the tables of results/weights.md.

    python benchmarks/weights.py
    python benchmarks/weights.py size                          one section: size, steps, remedies or faces

Rows appear on stderr as they are done; about ten minutes on one core, most of it the network of the faces.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from exactness import table
from torch import Tensor

from midguide import load_prior
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.maths.weights import effective_size, normalized
from midguide.operators import Identity, Mask
from midguide.priors.base import Denoiser
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.studies.report.rows import student

SIZES = (1, 10, 100, 1000, 4000)
SEEDS, DRAWS = 3, 32
MATHERON = 64  # measured values at most

INDEPENDENT: dict[str, dict[str, object]] = {
    "tds": {},
    "matheron:weighted": {},
    "mcgdiff": {},
    "smcdiff": {},
    "fps": {"weigh_paths": True},
    "split-gibbs-smc": {},
}


def white(size: int) -> Gaussian:
    """Independent entries of variance one."""
    return Gaussian(torch.zeros(size), 1.0)


def uneven(size: int) -> Gaussian:
    """Independent entries whose variances fall from 1 to 0.001, as those of images do over frequencies."""
    return Gaussian(torch.zeros(size), torch.logspace(0, -3, size))


def mixture(size: int) -> GaussianMixture:
    """Four Gaussians of variance 0.1 around means that are draws of the white prior."""
    return GaussianMixture(torch.ones(4), white(size).sample(4, seed=99), 0.1)


def observed(prior: Gaussian | GaussianMixture, noise: float, seed: int) -> Problem:
    """All entries of a draw, with noise."""
    return Problem.simulate(prior, Identity(), prior.sample(1, seed=1000 + seed), sigma_y=noise, seed=seed)


PROBLEMS = ((white, 0.5), (white, 0.05), (mixture, 0.05))


def interval(values: Sequence[float], digits: int = 2) -> str:
    half = student(len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def spread(drawn: Samples) -> float:
    """Standard deviation of the log-weights."""
    return 0.0 if drawn.log_weight is None else float(drawn.log_weight[0].std())


def size_of(drawn: Samples) -> float:
    return float(drawn.effective_sample_size()[0])


def cell(problems: Sequence[Problem], spec: str, changes: dict[str, object]) -> str:
    """Standard deviation of log-weights and effective sample size, means over problems."""
    found = [sample(make_sampler(spec, changes), p, DRAWS, seed=7, stream_size=DRAWS) for p in problems]
    sizes = [size_of(drawn) for drawn in found]
    return f"{np.mean([spread(drawn) for drawn in found]):.1f}; {interval(sizes, 0)}"


def by_size() -> None:
    print("## Independent weighted draws, by the number of measured values\n")
    print(f"In each cell: the standard deviation of the log-weights; the effective sample size of {DRAWS} draws.")
    print(f"All entries are measured; {SEEDS} problems a cell, 95 % intervals over them. `white`: independent entries")
    print("of variance 1. `mixture`: four Gaussians of variance 0.1.")
    print("Default settings; `fps` with its paths weighed. `matheron` weighs up to 64 values.\n")
    for make, noise in PROBLEMS:
        rows = []
        for spec, changes in INDEPENDENT.items():
            cells = []
            for size in SIZES:
                problems = [observed(make(size), noise, seed) for seed in range(SEEDS)]
                possible = not spec.startswith("matheron") or size <= MATHERON
                cells.append(cell(problems, spec, changes) if possible else "-")
            rows.append([f"`{spec}`", *cells])
            print(make.__name__, noise, *rows[-1], sep=" | ", file=sys.stderr, flush=True)
        print(f"### `{make.__name__}`, noise {noise:g}\n")
        table(["sampler", *(f"{size:,}" for size in SIZES)], rows)


def by_steps() -> None:
    print("## More steps\n")
    print("Standard deviation of the log-weights on the white prior, 10 measured values, noise 0.05; means over")
    print(f"{SEEDS} problems, {DRAWS} draws each.\n")
    steps, rows = (50, 200, 800), []
    for spec in ("tds", "mcgdiff", "smcdiff", "split-gibbs-smc"):
        cells = []
        for count in steps:
            changes = {"steps": count // 5 if spec.startswith("split") else count}
            problems = [observed(white(10), 0.05, seed) for seed in range(SEEDS)]
            found = [sample(make_sampler(spec, changes), p, DRAWS, seed=7, stream_size=DRAWS) for p in problems]
            cells.append(f"{np.mean([spread(drawn) for drawn in found]):.1f}")
        rows.append([f"`{spec}`", *cells])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    table(["sampler", *(f"{count} steps" for count in steps)], rows)
    print("`split-gibbs-smc` has a fifth as many levels, each with a walk of ten steps.\n")


@dataclass(frozen=True)
class Remedy:
    """A sampler and what to make of its weights.

    Args:
        spec: the sampler.
        changes: to its settings.
        temper: what to do with the log-weights.
        keep: how many of the measured values to use, those of the largest prior variance first; all by default.
    """

    spec: str
    changes: dict[str, object]
    temper: Callable[[Tensor], Tensor] = lambda log_weight: log_weight
    keep: int | None = None


def to_quarter(log_weight: Tensor) -> Tensor:
    """The weights to the largest power at which they count as a quarter of the draws, at most 1."""
    low, high = 0.0, 1.0
    for _ in range(40):
        power = (low + high) / 2
        enough = float(effective_size(normalized(power * log_weight))) >= len(log_weight) / 4
        low, high = (power, high) if enough else (low, power)
    return high * log_weight


REMEDIES = {
    "`tds`, 100 steps": Remedy("tds", {}),
    "`tds`, weights to a power, ESS a quarter": Remedy("tds", {}, to_quarter),
    "`tds`, without weights": Remedy("tds", {}, torch.zeros_like),
    "`tds`, the 5 most variable values alone": Remedy("tds", {}, keep=5),
    "`tds`, 400 steps": Remedy("tds", {"steps": 400}),
    "`tds`, islands of 16": Remedy("tds:islands", {}),
    "`tds`, one filter": Remedy("tds", {"particles": 64}),
    "`mcgdiff`, one filter": Remedy("mcgdiff", {"particles": 64}),
    "`mcgdiff`, one filter, 400 steps": Remedy("mcgdiff", {"particles": 64, "steps": 400}),
    "`mcgdiff`, 400 steps, without weights": Remedy("mcgdiff", {"steps": 400}, torch.zeros_like),
    "`smcdiff`, one filter": Remedy("smcdiff", {"particles": 64}),
    "`smcdiff`, one filter, 400 steps": Remedy("smcdiff", {"particles": 64, "steps": 400}),
    "`smcdiff`, 400 steps, without weights": Remedy("smcdiff", {"steps": 400}, torch.zeros_like),
    "`fps`, one path with a filter": Remedy("fps", {"particles": 64}),
    "`split-gibbs-smc`, 20 levels": Remedy("split-gibbs-smc", {}),
    "`split-gibbs-smc`, 20 levels, without weights": Remedy("split-gibbs-smc", {}, torch.zeros_like),
    "`split-gibbs-smc`, 80 levels": Remedy("split-gibbs-smc", {"steps": 80}),
    "`split-gibbs-smc`, one filter, 20 levels": Remedy("split-gibbs-smc", {"particles": 64}),
    "`split-gibbs-smc`, one filter, 80 levels": Remedy("split-gibbs-smc", {"particles": 64, "steps": 80}),
    "`split-gibbs-smc`, one filter, 20 levels of 10 moves": Remedy("split-gibbs-smc", {"particles": 64, "moves": 10}),
}


def judged(problem: Problem, remedy: Remedy) -> tuple[float, float, float, float]:
    """Effective size, draws that the error of the mean is worth, ratio of variances, forwards."""
    asked = problem
    if remedy.keep is not None:
        mask = Mask(torch.arange(problem.event_shape[0]) < remedy.keep)
        asked = replace(problem, likelihood=replace(problem.likelihood, operator=mask))
    drawn = sample(make_sampler(remedy.spec, remedy.changes), asked, 64, seed=7, stream_size=64)
    assert drawn.log_weight is not None
    log_weight = remedy.temper(drawn.log_weight[0])
    weights, x = normalized(log_weight), drawn.draws[0].double()
    posterior = problem.denoiser.posterior(problem.likelihood)  # pyright: ignore[reportAttributeAccessIssue]
    variance = posterior.covariance_matrix().diagonal()
    mean = weights @ x
    error = ((mean - posterior.mean).square() / variance).mean()
    ratio = ((weights @ (x - posterior.mean).square()) / variance).mean()
    return float(effective_size(weights)), float(1 / error), float(ratio), drawn.cost.network_forwards


def remedies() -> None:
    print("## What helps\n")
    print(f"The uneven prior, all entries measured with noise 0.1, 64 draws; means over {SEEDS} problems.")
    print(
        "`ESS`: the effective sample size that the weights say. `worth`: as many exact draws have an error of the mean"
    )
    print("like these. `variance`: around the exact mean, over the posterior's. Exact draws: 64, 64 and 1.\n")
    sizes = (10, 100)
    rows = []
    for name, remedy in REMEDIES.items():
        cells, forwards = [], 0.0
        for size in sizes:
            found = [judged(observed(uneven(size), 0.1, seed), remedy) for seed in range(SEEDS)]
            ess, worth, ratio, forwards = np.mean(found, 0)
            cells += [f"{ess:.1f}", f"{worth:.1f}", f"{ratio:.2f}"]
        rows.append([name, f"{forwards:.0f}", *cells])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    titles = [
        f"{size:,} values: ESS" if part == "ESS" else part for size in sizes for part in ("ESS", "worth", "variance")
    ]
    table(["", "forwards", *titles], rows)


def faces() -> None:
    print("## The network `faces-64-small`\n")
    print(
        "Random entries of a face are measured, noise 0.05 (values from -1 to 1, 12,288 entries); the face is a draw of"
    )
    print(
        "the prior itself. 8 independent weighted draws of one face, 50 steps. In each cell: the standard deviation of"
    )
    print("the log-weights; the effective sample size.\n")
    prior = load_prior("faces-64-small")
    truth = sample(make_sampler("unconditional", {"steps": 50}), Problem.unobserved(prior), 1, seed=3).draws[0, 0]
    rows = []
    for spec in ("tds", "mcgdiff"):
        cells = []
        for size in SIZES:
            drawn = sample(make_sampler(spec, {"steps": 50}), of_face(prior, truth, size), 8, seed=7)
            cells.append(f"{spread(drawn):.1f}; {size_of(drawn):.1f}")
        rows.append([f"`{spec}`", *cells])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    table(["sampler", *(f"{size:,}" for size in SIZES)], rows)


def of_face(prior: Denoiser, truth: Tensor, size: int) -> Problem:
    """As many random entries of a face, with noise."""
    mask = torch.zeros(truth.numel(), dtype=torch.bool)
    mask[torch.from_numpy(np.random.default_rng(size).permutation(truth.numel())[:size])] = True
    return Problem.simulate(prior, Mask(mask.reshape(truth.shape)), truth[None], sigma_y=0.05)


SECTIONS = {"size": by_size, "steps": by_steps, "remedies": remedies, "faces": faces}


def main() -> None:
    """Print the sections that were asked for, all by default."""
    for name in sys.argv[1:] or SECTIONS:
        SECTIONS[name]()


if __name__ == "__main__":
    main()
