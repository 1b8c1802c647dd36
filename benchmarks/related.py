"""The rest of the related work against posteriors that are known exactly: the tables of results/related-work.md.

    python benchmarks/related.py > tables.md
    python benchmarks/pages.py --take related-work tables.md
    python benchmarks/related.py daps "pnp-dm, 50 x 20"      rows that begin so

Rows appear on stderr as they are done; about ten minutes on one core. Problems, samples, seeds and intervals are those
of benchmarks/exactness.py and experiments/gmm-quick.toml.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import cast

import numpy as np
import torch
from exactness import draw, interval, table

from midguide.errors import NumericalError
from midguide.exact.accuracy import GaussianAccuracy, gaussian_accuracy
from midguide.exact.problems import mixture_problem, random_gaussian_problem
from midguide.inference.cost import Cost
from midguide.metrics.distribution import sliced_wasserstein
from midguide.priors.gaussian import Gaussian
from midguide.priors.mixture import GaussianMixture
from midguide.samplers.base import make_sampler

PROBLEMS, DRAWS = 10, 2000

ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "repaint, 250 x 10": ("repaint", {}),
    "ilvr, 250": ("ilvr", {}),
    "score-sde, 500 + 1": ("score-sde", {}),
    "pnp-dm, 50 x 20": ("pnp-dm", {}),
    "pnp-dm, 50 x 20, 10 moves": ("pnp-dm", {"moves": 10, "last_moves": 10}),
    "daps, 100 x 3": ("daps", {"steps": 100, "ode_steps": 3}),
    "daps, 200 x 5": ("daps:1k", {}),
    "lgd, 1000": ("lgd", {}),
    "lgd, 1000, spread 0 (DPS)": ("lgd", {"draws": 1, "spread": 0.0}),
    "sda, 256 + 0": ("sda", {"corrections": 0}),
    "sda, 256 + 1": ("sda", {}),
    "sda:paper, 256 + 1": ("sda:paper", {}),
    "ald, 500 x 3": ("ald", {}),
    "snips, 500 x 5": ("snips", {}),
    "copaint, 250": ("copaint", {}),
    "mgdm, 100 x 20": ("mgdm", {}),
    "mgdm:mixture, 100 x 20": ("mgdm:mixture", {}),
    "ding, 50": ("ding", {}),
    "ding, 300": ("ding", {"steps": 300}),
}
KNOWN = {
    "pnp-dm, 50 x 20": "5.3",
    "daps, 100 x 3": "5.09 ± 1.83",
    "mgdm, 100 x 20": "4.16 ± 1.12 (2240 and 410 calls)",
}
"""Figures of independent trials on the same problems."""

Row = list[str]


def gaussians(names: Sequence[str]) -> list[Row]:
    """Accuracy on the Gaussian problems of the first table of exactness.md, a row for each sampler."""
    rows = []
    for name in names:
        results, cost = [], None
        for seed in range(PROBLEMS):
            dimension = (2, 4, 8, 16)[seed % 4]
            problem = random_gaussian_problem(dimension, max(1, dimension // 2), seed, 0.3, dtype=torch.float64)
            try:
                drawn = draw(make_sampler(*ROWS[name]), problem, DRAWS)
            except NumericalError:
                continue
            prior, cost = cast(Gaussian, problem.denoiser), drawn.cost
            results.append(gaussian_accuracy(drawn.draws[0], prior.posterior(problem.likelihood), prior))
        columns = np.array([astuple(result) for result in results]).T
        said = [interval(column) for column in columns] if len(results) == PROBLEMS else ["diverges"] * 5
        rows.append([name, *said, *_calls(cost)])
        print("Gaussian", *rows[-1], sep=" | ", file=sys.stderr, flush=True)
    return rows


def mixtures(names: Sequence[str]) -> list[Row]:
    """Sliced Wasserstein on the mixture problems, a row for each sampler."""
    rows = []
    for name in names:
        errors, cost = [], None
        for seed in range(PROBLEMS):
            problem = mixture_problem(20, seed)
            prior = cast(GaussianMixture, problem.denoiser)
            exact = prior.posterior(problem.likelihood).sample(DRAWS, seed=1)
            try:
                drawn = draw(make_sampler(*ROWS[name]), problem, DRAWS)
            except NumericalError:
                continue
            cost = drawn.cost
            errors.append(sliced_wasserstein(drawn.draws[0], exact))
        said = interval(errors) if len(errors) == PROBLEMS else f"diverges on {PROBLEMS - len(errors)} problems"
        rows.append([name, said, KNOWN.get(name, "-"), *_calls(cost)])
        print("mixture", *rows[-1], [round(e, 2) for e in errors], sep=" | ", file=sys.stderr, flush=True)
    return rows


def _calls(cost: Cost | None) -> Row:
    return ["-", "-"] if cost is None else [f"{cost.network_forwards:.0f}", f"{cost.network_vjps:.0f}"]


def page(gaussian: list[Row], mixture: list[Row]) -> None:
    """The page in Markdown, on stdout."""
    best = min((row for row in mixture if "±" in row[1]), key=lambda row: float(row[1].split()[0]))
    print("# The rest of the related work\n")
    print("How near do the other methods of the literature come to the posterior, at their usual settings?")
    print(f"None is near on the mixture: the best is `{best[0]}` with {best[1]}; exact draws have 0.17, MGPS 1.7.")
    print(
        "Command: `python benchmarks/related.py`. Ten problems a row, 2,000 draws each, 95 % intervals over problems.\n"
    )
    print("## The 25-component mixture, dx = 20, dy = 1\n")
    print("Sliced Wasserstein of order 1, 100 slices, from exact draws: the problems of [gmm-quick](gmm-quick.md).\n")
    table(["sampler", "sliced Wasserstein", "independent trial", "forwards", "vjps"], mixture)
    print("## Gaussian priors in 2 to 16 dimensions\n")
    print("Problems, draws and columns: the first table of [exactness](exactness.md). A relative W2 of 0 is exact.\n")
    heads = [field.name.replace("_", " ") for field in fields(GaussianAccuracy)]
    table(["sampler", *heads, "forwards", "vjps"], gaussian)
    print("## Limits\n")
    print("- The rate of `mgdm:mixture` is the better of two that were tried on these mixtures.")
    print(
        "- The default `gamma` and `step_size` of `sda` were chosen after the paper's had diverged on these mixtures."
    )
    print("  The bound of its corrections was chosen after they had diverged on these Gaussians in few dimensions.")
    print(
        '- `mgdm` and `ding` are written from memory of their papers: see "Differences from the paper" in their files.'
    )
    print("- `repaint`, `ilvr` and `score-sde` take y for noiseless; the noise of these Gaussians is 0.3.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = [name for name in ROWS if not sys.argv[1:] or any(name.startswith(word) for word in sys.argv[1:])]
    page(gaussians(wanted), mixtures(wanted))
