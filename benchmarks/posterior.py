"""Samplers that tend to the posterior, on the mixture of the MGPS paper: the table of results/posterior.md.

    python benchmarks/posterior.py > tables.md
    python benchmarks/pages.py --take posterior tables.md
    python benchmarks/posterior.py particles                     the second table alone

Rows appear on stderr as they are done; about five minutes on one core. Weighted draws are resampled for the distance.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from exactness import interval

from midguide.exact.problems import mixture_problem
from midguide.inference.loop import sample
from midguide.metrics.distribution import sliced_wasserstein
from midguide.priors.mixture import GaussianMixture
from midguide.priors.wrapped import Wrapped
from midguide.samplers.base import make_sampler

PROBLEMS, DRAWS, STREAM = 10, 2000, 400
DIMENSIONS = (20, 200)
GOALS = {20: 0.25, 200: 0.45}


class AsNetwork(Wrapped):
    """A prior whose covariances come from vjps, as a network's do."""

    exact_moments = False


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        spec: the sampler.
        settings: of it.
        vjps: covariances from vjps of the denoiser, in place of closed forms.
        derivatives: with closed forms, what stands for them: products `C A^T` of a step, one for each measured value.
    """

    spec: str
    settings: dict[str, object]
    vjps: bool = False
    derivatives: int = 0


ROWS = (
    Row("matheron:islands", {"steps": 25}, derivatives=1),
    Row("mmps", {"steps": 25}, vjps=True),
    Row("matheron", {"steps": 16, "directions": 2}, vjps=True),
    Row("matheron:weighted", {"steps": 16, "directions": 2}, vjps=True),
    Row("matheron:islands", {"steps": 16, "directions": 2}, vjps=True),
    Row("matheron:islands", {"steps": 25, "directions": 2}, vjps=True),
    Row("tds:islands", {"steps": 100}),
)

PARTICLES = (
    (Row("mcgdiff:islands", {"steps": 100}), "16"),
    (Row("mcgdiff", {"steps": 300, "particles": DRAWS}), "2,000"),
    (Row("smcdiff:islands", {"steps": 100}), "16"),
    (Row("smcdiff", {"steps": 100, "particles": DRAWS}), "2,000"),
    (Row("fps:smc", {"steps": 100}), "16"),
    (Row("split-gibbs-smc:islands", {"steps": 20}), "4"),
    (Row("split-gibbs-smc:mixture", {"steps": 20}), "16"),
    (Row("split-gibbs-smc:mixture", {"steps": 20, "particles": DRAWS}), "2,000"),
)

PARTICLES_PAGE = """
## Particles without derivatives

The same ten problems at dx = 20. `split-gibbs-smc:mixture` has twenty levels of ten moves, each a walk of ten steps.
Independent trials on these problems: MCGDiff, 300 steps, 0.81 ± 0.50; SMC over split Gibbs, 20 levels of 10 moves,
0.38 ± 0.23. `fps` has a limit of its own: it counts the noise of y anew at each level.
Command: `python benchmarks/posterior.py particles`.

| sampler | steps | particles | forwards | dx = 20 | ESS |
|---|---|---|---|---|---|
{rows}
"""

ANSWER = """\
Five to eight times nearer than the preset of MGPS. Within 50 forwards and 50 derivatives:

- covariances in closed form: {};
- covariances from vjps alone: {}.
"""

PAGE = """\
# How near do samplers come to the posterior, when they weigh their draws?

{answer}
Command: `python benchmarks/posterior.py`.

Sliced Wasserstein distance of order 1 (100 slices) from draws of the exact posterior, {draws} draws each.
Ten problems (seeds 0 to 9) of the 25-component mixture, one measured value, sampler seed that of the problem.
Intervals hold 95 % over problems. ESS is the effective sample size of the {draws} draws, the mean over problems.
MGPS's preset has 1.73 ± 1.17 and 2.01 ± 0.86 there, with 1,564 forwards and 1,264 vjps ([gmm.md](gmm.md)).

| sampler | steps | covariance | forwards | derivatives | {columns} |
{rule}
{rows}

## What is counted

- `closed form`: the mixture knows the covariance of `p(x_0 | x_t)`. A step costs one evaluation of its moments.
  The column says what stands for it: the product of the covariance with the measured direction, one a step.
  The square root and the solves of a step are closed forms, too, for which a network has no equal.
- `vjps`: the covariance comes from vjps of the denoiser alone, as for a network, and all of them are counted.
  A step of weighted draws takes one for the measured value and `directions = 2` more.
- `none`: no derivative at all.

## Limits

- Two directions are enough on this mixture, since its modes lie in a plane: other priors may take more.
- Distances of ten problems spread widely: intervals of rows that differ by less than a third overlap.
- Goals, by the means: {goal20} (dx = 20) and {goal200} (dx = 200) within 50 forwards and 50 derivatives.
  {verdict}
"""


def measured(row: Row, dimension: int) -> tuple[list[float], float, tuple[float, float]]:
    """The distance on each problem, the mean effective sample size, and the calls of a draw."""
    distances, sizes, calls = [], [], (0.0, 0.0)
    for seed in range(PROBLEMS):
        problem = mixture_problem(dimension, seed)
        prior = cast(GaussianMixture, problem.denoiser)
        exact = prior.posterior(problem.likelihood).sample(DRAWS, seed=10_000 + seed)
        asked = replace(problem, denoiser=AsNetwork(prior)) if row.vjps else problem
        drawn = sample(make_sampler(row.spec, row.settings), asked, DRAWS, seed=seed, stream_size=STREAM)
        distances.append(sliced_wasserstein(drawn.resampled(seed=1).draws[0], exact, order=1, slices=100))
        sizes.append(float(drawn.effective_sample_size()[0]))
        calls = drawn.cost.network_forwards, drawn.cost.network_vjps
    forwards, vjps = calls
    return distances, float(np.mean(sizes)), (forwards, vjps + row.derivatives * forwards)


def floor(dimension: int) -> list[float]:
    """The distance of exact draws from exact draws."""
    found = []
    for seed in range(PROBLEMS):
        problem = mixture_problem(dimension, seed)
        posterior = cast(GaussianMixture, problem.denoiser).posterior(problem.likelihood)
        first, second = (posterior.sample(DRAWS, seed=place + seed) for place in (10_000, 20_000))
        found.append(sliced_wasserstein(second, first, order=1, slices=100))
    return found


def best(found: dict[int, list[tuple[float, Row, str]]], vjps: bool) -> str:
    """The nearest rows within 50 forwards and 50 derivatives, in words."""
    said = []
    for dimension, rows in found.items():
        _, row, text = min((r for r in rows if r[1].vjps == vjps), key=lambda r: r[0])
        said.append(f"{text} for dx = {dimension} (`{row.spec}`, {row.settings['steps']} steps)")
    return " and\n  ".join(said)


def particles() -> None:
    """Measure the particle samplers and print their section."""
    lines = []
    for row, group in PARTICLES:
        distances, size, (forwards, _) = measured(row, 20)
        cells = [f"`{row.spec}`", str(row.settings["steps"]), group, f"{forwards:,.0f}", interval(distances)]
        lines.append(f"| {' | '.join([*cells, f'{size:.0f}'])} |")
        print(lines[-1], file=sys.stderr, flush=True)
    print(PARTICLES_PAGE.format(rows="\n".join(lines)), end="")


def main() -> None:
    """Measure all rows and print the page."""
    if "particles" in sys.argv[1:]:
        return particles()
    lines: list[list[str]] = []
    found: dict[int, list[tuple[float, Row, str]]] = {dimension: [] for dimension in DIMENSIONS}
    for row in ROWS:
        cells, calls = [], (0.0, 0.0)
        for dimension in DIMENSIONS:
            distances, size, calls = measured(row, dimension)
            cells += [interval(distances), f"{size:.0f}"]
            if max(calls) <= 50:
                found[dimension].append((float(np.mean(distances)), row, interval(distances)))
        form = "vjps" if row.vjps else "closed form" if row.derivatives else "none"
        lines.append([f"`{row.spec}`", str(row.settings["steps"]), form, *(f"{c:.0f}" for c in calls), *cells])
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    exact = [cell for d in DIMENSIONS for cell in (interval(floor(d)), str(DRAWS))]
    lines.append(["exact draws", "", "", "", "", *exact])
    met = {
        vjps: all(min(r[0] for r in found[d] if r[1].vjps == vjps) <= goal for d, goal in GOALS.items())
        for vjps in (False, True)
    }
    words = {True: "met", False: "not met"}
    answer = ANSWER.format(best(found, False), best(found, True))
    print(
        PAGE.format(
            answer=answer,
            draws=DRAWS,
            columns=" | ".join(f"dx = {d} | ESS" for d in DIMENSIONS),
            rule="|---" * (5 + 2 * len(DIMENSIONS)) + "|",
            rows="\n".join(f"| {' | '.join(line)} |" for line in lines),
            goal20=GOALS[20],
            goal200=GOALS[200],
            verdict=f"With closed forms they are {words[met[False]]}, from vjps alone {words[met[True]]}.",
        ),
        end="",
    )
    particles()


if __name__ == "__main__":
    main()
