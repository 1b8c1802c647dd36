"""Every sampler against posteriors that are known exactly: the tables of results/exactness.md.

    python benchmarks/exactness.py > tables.md
    python benchmarks/pages.py --take exactness tables.md

About half an hour on one core. Seeds are fixed; intervals are 95 % over problems.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields, replace
from functools import partial

import numpy as np
import torch

from midguide import Samples, sample
from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import DiscreteVP
from midguide.exact.accuracy import GaussianAccuracy, gaussian_accuracy
from midguide.exact.laws import Law, mgps_law, posterior_law, unconditional_law
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.maths.optim import Adam
from midguide.metrics.distribution import sliced_wasserstein
from midguide.samplers.base import make_sampler
from midguide.samplers.mgps import MGPS
from midguide.samplers.unconditional import Unconditional
from midguide.studies.report.rows import student

FEW = StepRule(default=2, cleanest=(20, 2), noisiest=(10, 20), every=(10, 20))
PLAIN = MGPS(steps=300, midpoint=0.75, warm_start=None, gradient_steps=FEW, optimizer=Adam(rate=0.1))

OTHERS = {
    "DPS 0.1, 1000": "dps:linear",
    "DPS annealed, 300": "dps:annealed",
    "PGDM, 1000": "pgdm:stable",
    "PGDM, paper weighting, 1000": "pgdm:paper",
    "PGDM score, 100": "pgdm:score",
    "DDNM, 1000": "ddnm",
    "DDNM+, 1000": "ddnm-plus:paper",
    "DDRM, 200": "ddrm:paper",
    "DiffPIR, 1000": "diffpir",
    "RED-diff, 1000": "red-diff:authors",
    "mmps, 64": "mmps",
    "mmps, DDPM, 64": "mmps:ddpm",
    "mmps, 33": "mmps:fast",
    "tmpd, 100": "tmpd",
    "matheron, 25": "matheron",
    "tds, 100": "tds",
    "tds, islands, 100": "tds:islands",
    "mcgdiff, islands, 100": "mcgdiff:islands",
    "smcdiff, islands, 100": "smcdiff:islands",
    "fps, 100": "fps:smc",
    "split-gibbs-smc, 20": "split-gibbs-smc:mixture",
}
"""Samplers of the first table beside MGPS, by the name and steps that the row has."""

TOWARDS = {
    "matheron, 25": "matheron",
    "matheron, weighted, 25": "matheron:weighted",
    "matheron, islands, 25": "matheron:islands",
    "mmps, 64": "mmps",
    "tds, islands, 100": "tds:islands",
    "mcgdiff, islands, 100": "mcgdiff:islands",
    "smcdiff, islands, 100": "smcdiff:islands",
    "fps, 100": "fps:smc",
    "split-gibbs-smc, 20": "split-gibbs-smc:mixture",
}
"""Samplers that claim to tend to the posterior, and `mmps`, on the mixture."""


def interval(values: Sequence[float]) -> str:
    half = student(len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def draw(sampler: object, problem: object, n: int) -> Samples:
    return sample(sampler, problem, n, stream_size=n)  # pyright: ignore[reportArgumentType]


def unweighted(drawn: Samples) -> torch.Tensor:
    """The draws of the one observation, resampled where they have weights."""
    return (drawn if drawn.log_weight is None else drawn.resampled(seed=1)).draws[0]


def gaussian_rows() -> None:
    samplers = {
        "unconditional, 300": Unconditional(steps=300, spacing=1.0),
        "MGPS, 50": make_sampler("mgps"),
        "MGPS isotropic, 50": make_sampler("mgps:isotropic"),
        "MGPS fast, 14": make_sampler("mgps:fast"),
        "MGPS 0.50, 300": replace(PLAIN, midpoint=0.5),
        "MGPS 0.60, 300": replace(PLAIN, midpoint=0.6),
        "MGPS 0.75, 300": PLAIN,
        "MGPS 1.00, 300": replace(PLAIN, midpoint=1.0),
        "MGPS 0.60, 300, warm start": replace(PLAIN, midpoint=0.6, warm_start=0.7),
        "MGPS 0.60, 300, recompute": replace(PLAIN, midpoint=0.6, recompute=True),
        "MGPS 0.60, 100, 50 gradient steps": replace(
            PLAIN, steps=100, midpoint=0.6, gradient_steps=StepRule(default=50), optimizer=Adam(rate=0.02)
        ),
    } | {name: make_sampler(spec, {}) for name, spec in OTHERS.items()}
    problems = []
    for seed in range(10):
        dimension = (2, 4, 8, 16)[seed % 4]
        problems.append(random_gaussian_problem(dimension, max(1, dimension // 2), seed, 0.3, dtype=torch.float64))
    found: dict[str, list[GaussianAccuracy]] = {"exact against exact (floor)": []}
    cost = {"exact against exact (floor)": ("0", "0")}
    for problem in problems:
        prior = problem.denoiser
        posterior = prior.posterior(problem.likelihood)
        exact = gaussian_accuracy(posterior.sample(2000, seed=1), posterior, prior)
        found["exact against exact (floor)"].append(exact)
        for name, sampler in samplers.items():
            drawn = draw(sampler, problem, 2000)
            found.setdefault(name, []).append(gaussian_accuracy(unweighted(drawn), posterior, prior))
            cost[name] = f"{drawn.cost.network_forwards:.0f}", f"{drawn.cost.network_vjps:.0f}"
        print(f"Gaussian problem of dimension {prior.dimension} done", file=sys.stderr)
    print("## Gaussian priors in 2 to 16 dimensions\n")
    print("10 problems (`random_gaussian_problem(d, d // 2, seed, 0.3)`, d = 2, 4, 8, 16, seeds 0 to 9), 2,000 samples")
    print("each, sampler seed 0. Cost per sample; of the last problem.\n")
    names = [field.name.replace("_", " ") for field in fields(GaussianAccuracy)]
    rows = []
    for name, results in found.items():
        columns = np.array([astuple(result) for result in results]).T
        rows.append([name, *(interval(column) for column in columns), *cost[name]])
    table(["sampler", *names, "forwards", "vjps"], rows)
    reuse, again = (
        np.array([r.relative_w2 for r in found[n]]) for n in ("MGPS 0.60, 300", "MGPS 0.60, 300, recompute")
    )
    print("Reusing the last gradient step's prediction against recomputing it (`recompute=True`), paired difference of")
    print(f"the relative W2: {interval(reuse - again)}.\n")


def unconditional_rows() -> None:
    problem = random_gaussian_problem(8, 4, 0, 0.3, dtype=torch.float64)
    fine = DiscreteVP(DiscreteVP.linear(8000, 1e-4 / 8, 0.04 / 8).alphas_cumprod, floor=1e-10)
    problem.denoiser.schedule = fine
    prior = Law.of(problem.denoiser)
    print("## Unconditional sampling tends to the prior at first order\n")
    print("Closed-form law of the samples, dimension 8, W2 from the prior; a schedule of 8,000 levels that ends at")
    print("alpha = 5e-5, so that neither the levels nor the start hide the order.\n")
    rows = []
    for steps in (25, 50, 100, 200, 400, 800):
        samplers = [Unconditional(steps=steps, eta=eta, spacing=s) for s in (1.0, 2.0) for eta in (1.0, 0.0)]
        errors = [unconditional_law(sampler, problem).w2(prior) for sampler in samplers]
        rows.append([str(steps), *(f"{error:.4f}" for error in errors)])
    ways = ("DDPM (eta = 1)", "DDIM (eta = 0)")
    table(["steps", *(f"{way}, {times} times" for times in ("even", "quadratic") for way in ways)], rows)


def midpoint_rows() -> None:
    midpoints = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)
    print("## The midpoint (Example 3.2, Figure 2 of the MGPS paper)\n")
    print("W2 between the closed-form law of the surrogate and the posterior; d = 100, 50 measurements, sigma_y = 0.1,")
    print("300 steps, 10 problems (seeds 0 to 9); with the exact midpoint target, and with its best Gaussian of")
    print("independent coordinates, which is what MGPS fits.\n")
    errors: dict[tuple[float, bool], list[float]] = {}
    best, floor = [], []
    for seed in range(10):
        problem = random_gaussian_problem(100, 50, seed, 0.1, dtype=torch.float64)
        posterior = posterior_law(problem)
        floor.append(posterior.w2(posterior))
        for midpoint in midpoints:
            for mean_field in (False, True):
                law = mgps_law(replace(PLAIN, midpoint=midpoint), problem, mean_field=mean_field)
                errors.setdefault((midpoint, mean_field), []).append(law.w2(posterior))
        best.append(min(midpoints, key=lambda m: errors[m, False][-1]))
        print(f"midpoint curve {seed} done", file=sys.stderr)
    rows = [["exact against exact (floor)", interval(floor), interval(floor)]]
    rows += [[f"{m:.2f}", interval(errors[m, False]), interval(errors[m, True])] for m in midpoints]
    table(["midpoint", "exact target", "independent coordinates"], rows)
    print(f"Minimum of each problem at: {', '.join(f'{m:g}' for m in best)}.\n")


def mixture_rows(problems: int = 20, n: int = 2000) -> None:
    samplers: dict[str, Callable[[], object]] = {
        "MGPS, 50": lambda: make_sampler("mgps"),
        "MGPS fast, 14": lambda: make_sampler("mgps:fast"),
        "MGPS 0.75, 300": lambda: PLAIN,
        "MGPS 0.75, 300, recompute": lambda: replace(PLAIN, recompute=True),
        "MGPS 0.50, 300": lambda: replace(PLAIN, midpoint=0.5),
        "MGPS 1.00, 300": lambda: replace(PLAIN, midpoint=1.0),
        "DPS 0.1, 1000": lambda: make_sampler("dps:linear", {}),
        "unconditional, 300": lambda: Unconditional(steps=300, spacing=1.0),
    } | {name: partial(make_sampler, spec) for name, spec in TOWARDS.items()}
    found: dict[str, list[float]] = {"exact against exact (floor)": []}
    cost = {"exact against exact (floor)": ("0", "0")}
    for seed in range(problems):
        problem = mixture_problem(20, seed)
        posterior = problem.denoiser.posterior(problem.likelihood)
        exact = posterior.sample(n, seed=1)
        found["exact against exact (floor)"].append(sliced_wasserstein(posterior.sample(n, seed=2), exact))
        for name, sampler in samplers.items():
            drawn = draw(sampler(), problem, n)
            found.setdefault(name, []).append(sliced_wasserstein(unweighted(drawn), exact))
            cost[name] = f"{drawn.cost.network_forwards:.0f}", f"{drawn.cost.network_vjps:.0f}"
        print(f"mixture problem {seed} done", file=sys.stderr)
    print("## The 25-component mixture (Table 1 of the MGPS paper), dx = 20, dy = 1\n")
    print(
        f"Sliced Wasserstein of order 1, 100 slices, {n} samples each; `mixture_problem(20, seed)`, {problems} seeds.\n"
    )
    reference = {
        "exact against exact (floor)": "0.16 ± 0.04",
        "MGPS 0.75, 300": "1.81 ± 0.60",
        "MGPS 0.75, 300, recompute": "1.81 ± 0.60",
        "MGPS 0.50, 300": "5.13 ± 0.98",
        "MGPS 1.00, 300": "3.89 ± 1.13",
        "DPS 0.1, 1000": "5.13 ± 1.46",
    }
    rows = [[name, interval(values), reference.get(name, "-"), *cost[name]] for name, values in found.items()]
    table(["sampler", "here", "authors' implementation, 25 problems", "forwards", "vjps"], rows)
    gap = np.array(found["MGPS 0.75, 300"]) - np.array(found["MGPS 0.75, 300, recompute"])
    print(f"Reusing the last gradient step's prediction against recomputing it, paired difference: {interval(gap)}.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("# Exactness\n")
    print("Written by `python benchmarks/exactness.py`. Intervals are 95 % over problems. Relative W2: distance of the")
    print("draws' Gaussian from the posterior over that of the prior, so 0 is exact and 1 ignores the observation.\n")
    gaussian_rows()
    unconditional_rows()
    midpoint_rows()
    mixture_rows()
