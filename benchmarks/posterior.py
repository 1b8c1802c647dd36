"""Samplers that tend to the posterior, on the mixture of the MGPS paper: the table of docs/results/posterior.md.

    python benchmarks/posterior.py > docs/results/posterior.md

Rows appear on stderr as they are done; about four minutes on one core. Weighted draws are resampled for the distance.
"""

from __future__ import annotations

import sys

import numpy as np
from exactness import interval

from midguide.exact.problems import mixture_problem
from midguide.inference.loop import sample
from midguide.metrics.distribution import sliced_wasserstein
from midguide.samplers.base import make_sampler

PROBLEMS, DRAWS, STREAM = 10, 2000, 400
ROWS: tuple[tuple[str, dict[str, object]], ...] = (
    ("mmps", {"steps": 25}),
    ("tmpd", {"steps": 100}),
    ("matheron", {"steps": 25}),
    ("matheron:weighted", {"steps": 10}),
    ("matheron:weighted", {"steps": 25}),
    ("matheron:islands", {"steps": 25}),
    ("tds", {"steps": 100}),
    ("tds:islands", {"steps": 100}),
)
DIMENSIONS = (20,)

PAGE = """\
# How near do samplers come to the posterior, when they weigh their draws?

{answer}
Command: `python benchmarks/posterior.py`.

Sliced Wasserstein distance of order 1 (100 slices) from draws of the exact posterior, {draws} draws each.
Ten problems (seeds 0 to 9) of the 25-component mixture, one measured value, sampler seed that of the problem.
Intervals hold 95 % over problems. ESS is the effective sample size of the {draws} draws, the mean over problems.
Moments of the mixture are in closed form, so that no row differentiates the network.
MGPS's preset has 1.73 ± 1.17 on the same problems, with 1,564 forwards and 1,264 vjps ([gmm.md](gmm.md)).

| sampler | steps | forwards | {columns} |
{rule}
{rows}
"""


def measured(spec: str, changes: dict[str, object], dimension: int) -> tuple[list[float], float, float]:
    """The distance on each problem, the mean effective sample size, and the forwards of a draw."""
    distances, sizes, forwards = [], [], 0.0
    for seed in range(PROBLEMS):
        problem = mixture_problem(dimension, seed)
        exact = problem.denoiser.posterior(problem.likelihood).sample(DRAWS, seed=10_000 + seed)  # pyright: ignore
        drawn = sample(make_sampler(spec, changes), problem, DRAWS, seed=seed, stream_size=STREAM)
        distances.append(sliced_wasserstein(drawn.resampled(seed=1).draws[0], exact, order=1, slices=100))
        sizes.append(float(drawn.effective_sample_size()[0]))
        forwards = drawn.cost.network_forwards
    return distances, float(np.mean(sizes)), forwards


def floor(dimension: int) -> list[float]:
    """The distance of exact draws from exact draws."""
    found = []
    for seed in range(PROBLEMS):
        problem = mixture_problem(dimension, seed)
        posterior = problem.denoiser.posterior(problem.likelihood)  # pyright: ignore
        first, second = (posterior.sample(DRAWS, seed=place + seed) for place in (10_000, 20_000))
        found.append(sliced_wasserstein(second, first, order=1, slices=100))
    return found


def main() -> None:
    """Measure all rows and print the page."""
    lines, best = [], {}
    for spec, changes in ROWS:
        cells, forwards = [], 0.0
        for dimension in DIMENSIONS:
            distances, size, forwards = measured(spec, changes, dimension)
            cells += [interval(distances), f"{size:.0f}"]
            best.setdefault(dimension, []).append((float(np.mean(distances)), spec, changes, interval(distances)))
        lines.append([f"`{spec}`", str(changes["steps"]), f"{forwards:.0f}", *cells])
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    lines.append(["exact draws", "", "", *(cell for d in DIMENSIONS for cell in (interval(floor(d)), str(DRAWS)))])
    said = []
    for dimension in DIMENSIONS:
        _, spec, changes, text = min(best[dimension], key=lambda row: row[0])
        said.append(f"{text} for dx = {dimension} (`{spec}`, {changes['steps']} steps)")
    columns = " | ".join(f"dx = {d} | ESS" for d in DIMENSIONS)
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    answer = f"The nearest: {' and '.join(said)}."
    print(
        PAGE.format(
            answer=answer, draws=DRAWS, columns=columns, rule="|---" * (3 + 2 * len(DIMENSIONS)) + "|", rows=rows
        ),
        end="",
    )


if __name__ == "__main__":
    main()
