"""The leaderboard of samplers on known posteriors: page, figure and pictures, from the table of the package.

    midguide benchmark --all --csv > src/midguide/known/leaderboard.csv    # resumable; runs what is missing
    python benchmarks/leaderboard.py                                       # the page, its HTML twin, the figure
    python benchmarks/leaderboard.py --pictures                            # draws of letters too, a few minutes

Writes results/leaderboard.md and leaderboard-lines.html, docs/images/leaderboard.png and, with --pictures,
docs/images/glyph-posteriors.png.
"""

from __future__ import annotations

import csv
import sys
from math import inf
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata, spearmanr

from midguide.exact.posteriors import error_of, posterior_of
from midguide.inference.loop import sample
from midguide.known.base import KNOWN
from midguide.known.finite_sample import effective_components
from midguide.samplers.base import make_sampler
from midguide.samplers.budget import within_budget
from midguide.studies.benchmark import DRAWS, SEEDS, Line, every_problem, ours
from midguide.studies.kinds.known import KnownProblem
from midguide.studies.leaderboard import Mean, as_html, as_markdown, families, figure, means

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = Path(__file__).parents[1] / "results"
FACES = RESULTS / "data" / "frontier-faces.csv"
COMPARED = 100
"""Network calls at which the order here is held against that by LPIPS-like on faces."""
SHOWN = ("mgps", "mmps", "matheron", "smcdiff", "ddrm", "dps")
"""Samplers of the picture."""
PICTURED, SEED, COLUMNS = "glyphs-blocks", 2, 8

PAGE = """\
# How near do samplers come to posteriors that are known?

{answer}
Command: `python benchmarks/leaderboard.py`; the numbers are those of `midguide benchmark --all --csv`.
Your own sampler stands beside these with `midguide benchmark FILE.py:MySampler`.

![Distance from the posterior over network calls](../docs/images/leaderboard.png)

Lower left is better. Zero is as near as exact draws, one as far as draws of the prior, which ignore the observation.
Each point is a mean over the problems of its panel. Gray lines are samplers without a name here.
[leaderboard-lines.html](leaderboard-lines.html) has every line: sampler, problem, budget.
A click on a heading sorts it.

## Real images with a known posterior

{images}

![Draws of letters whose posterior is known](../docs/images/glyph-posteriors.png)

Above: draws for one measurement at 100 calls; in yellow their chi-square per measured value.
All are clean letters that explain the measurement, so that neither the eye nor the chi-square finds much wrong.
Only the known posterior shows how often each should come.

## Every sampler, by family of problems

Error: 0 exact, 1 as the prior. Gap and coverage are those at the largest budget that the sampler has.

{tables}
## How it was measured

- Problems: `midguide list known`; {draws} draws of each. Problems of each kind: {seeds}.
  Samplers with larger groups of particles draw as many as their groups ask for.
- Budgets here: {budgets} network calls of a draw, forwards and vector-Jacobian products together (`samplers.budget`).
  All other settings are the defaults. A row is empty where the cheapest setting costs more.
- Samplers see of a prior what a network shows: its denoiser and derivatives, no moments in closed form.
- Error: `sqrt((e - floor) / (e_prior - floor))`, e the energy distance from exact draws, floor that of exact draws.
- Gap: expected squared error of the mean of the draws above the least possible one.
  The mean of {draws} exact draws has {floor:.2f} dB.
- Coverage: share of exact draws inside the central 90 % intervals of {draws} draws, entry by entry.
  Exact draws have about {cover:.0f} %, since quantiles of {draws} draws are inside their true places.
- Intervals hold 95 % over problems of the same kinds (Student's t, pooled over the kinds of a family).
- Exact posteriors: closed form (Gaussian, mixture, images, box); quadrature (nonlinear); Gibbs (Levy).
  The last refinement of the quadrature moved the mean by at most {quadrature:.0e} deviations.
  Gibbs chains have a split R-hat below 1.02, and a standard error of the mean of at most {gibbs:.3f} deviations.
  Tests hold each against independent numerics.

## Limits

- {fewest} to {most} problems of a kind are few: differences between neighbors in a table are mostly noise.
- At {largest} calls methods that are made for a thousand are cut short; `--budget 1000` of the command adds a budget.
- Priors are exact. What a trained network adds to the error is not in these numbers.
- Presets that are tuned for one kind of problem are mostly left out: `midguide benchmark mgps:faces-64` adds one.
"""


def answer(lines: list[Line]) -> str:
    """The first lines of the page: which sampler is nearest, on what, at which cost."""
    said = []
    groups = families(lines)
    linear = [p for name, problems in groups.items() if name not in ("images", "nonlinear") for p in problems]
    for words, problems in (("real images", groups["images"]), ("other linear problems", linear)):
        best = [mean for mean in means(lines, problems) if mean.budget][0]
        said.append(
            f"On {words} the nearest is `{best.sampler}` with an error of {plain(best)} at {best.calls:.0f} calls"
        )
    return ".\n".join(said) + "."


def plain(mean: Mean) -> str:
    return f"{mean.error:.2f}" + (f" ± {mean.error_ci95:.2f}" if mean.error_ci95 is not None else "")


def images(lines: list[Line]) -> str:
    """What the order of samplers is on images, and whether it is that of LPIPS on faces."""
    problems = families(lines)["images"]
    parts = ["How many images explain y (effective number of components, seeds 0 to 5; median, least and most):", ""]
    for name in problems:
        found = [effective_components(posterior_of(KNOWN.make(name, {}, seed))) for seed in range(6)]  # pyright: ignore
        parts.append(f"- `{name}`: {median(found):.0f} ({min(found):.0f} to {max(found):.0f}).")
    found = means(lines, problems)
    budget = max(mean.budget for mean in found)
    ranked = [mean for mean in found if mean.budget == budget]
    order = ", ".join(f"`{mean.sampler}` {mean.error:.2f}" for mean in ranked)
    parts += ["", f"The order at {budget} calls: {order}.", ""]
    parts += beside_faces({mean.sampler: mean.error for mean in found if mean.budget == COMPARED})
    return "\n".join(parts)


def beside_faces(errors: dict[str, float]) -> list[str]:
    """Whether LPIPS-like on held-out faces orders methods as the known posterior does, at the same number of calls."""
    lpips = lpips_of_faces()
    both = sorted(errors.keys() & lpips.keys(), key=lambda name: errors[name])
    ours, theirs = (rankdata([measure[name] for name in both]) for measure in (errors, lpips))
    rho = float(spearmanr(ours, theirs).statistic)
    rng = np.random.default_rng(0)
    picks = [rng.integers(len(both), size=len(both)) for _ in range(2000)]
    low, high = np.nanquantile([spearmanr(ours[pick], theirs[pick]).statistic for pick in picks], (0.025, 0.975))
    moved = sorted(zip(theirs - ours, both, ours, theirs, strict=True))
    said = "`{1}` (place {2:.0f} here, {3:.0f} there)"
    better, worse = ([said.format(*row) for row in rows] for rows in (moved[:3], moved[::-1][:3]))
    nearest = sorted(both, key=lambda name: lpips[name])[:5]
    return [
        f"LPIPS-like on ten held-out faces ({COMPARED} calls, box, learned prior; [frontier.md](frontier.md)) orders "
        f"{len(both)} of these methods too.",
        f"Rank correlation {rho:.2f} (95 % interval {low:.2f} to {high:.2f}, bootstrap over methods).",
        f"First there: {', '.join(f'`{name}` {lpips[name]:.3f}' for name in nearest)}.",
        f"Much better by LPIPS than by the posterior: {', '.join(better)}.",
        f"Much worse by LPIPS: {', '.join(worse)}.",
        "LPIPS sees whether one draw resembles the truth, not whether draws come as often as they should.",
        "Terms differ: the noise is 0.05 there and 0.3 here, and some methods run there with a preset for images.",
    ]


def lpips_of_faces() -> dict[str, float]:
    """Mean LPIPS-like of a draw, by method; of several presets the best."""
    found: dict[str, float] = {}
    with FACES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            spec, _, budget = row["sampler"].partition(", budget ")
            if row["metric"].startswith("lpips_like") and budget == str(COMPARED):
                name = spec.partition(":")[0]
                found[name] = min(found.get(name, inf), float(row["mean"]))
    return found


def worst_errors() -> tuple[float, float]:
    """The largest stated errors of posteriors by quadrature and by Gibbs, over the problems of the table."""
    found: dict[str, list[float]] = {}
    for name in every_problem():
        family = str(KNOWN[name].facts["family"])
        if family in ("nonlinear", "Levy process"):
            found.setdefault(family, []).extend(error_of(posterior_of(KNOWN.make(name, {}, s))) for s in range(SEEDS))
    return max(found["nonlinear"]), max(found["Levy process"])


def glyph_picture() -> Figure:
    """Draws of the exact posterior and of samplers, for one measurement."""
    kind = KnownProblem(problem=PICTURED)
    problem = kind.build(SEED)
    rows = {"exact": posterior_of(problem).sample(COLUMNS, seed=1)}
    for name in SHOWN:
        sampler = within_budget(make_sampler(name, {}), problem, 100)
        count = -(-COLUMNS // sampler.needs.group) * sampler.needs.group
        rows[name] = sample(sampler, problem, count, seed=SEED).resampled(COLUMNS, seed=1).draws[0]
        print(f"{name} drawn", file=sys.stderr)
    made = Figure(figsize=(9.2, 8.2), dpi=100, layout="constrained")
    axes = made.subplots(len(rows), COLUMNS + 2)
    misfit = {name: problem.expand(COLUMNS).likelihood.chi_square(draws.float()) for name, draws in rows.items()}
    seen = torch.nn.functional.interpolate(problem.likelihood.y.float(), scale_factor=8)
    for i, (name, draws) in enumerate(rows.items()):
        pictures = [problem.truth[0], seen[0], *draws] if i == 0 else [None, None, *draws]
        for place, picture in zip(axes[i], pictures, strict=True):
            place.set_axis_off()
            if picture is not None:
                place.imshow(picture[0].float().numpy(), cmap="gray", vmin=-1.1, vmax=1.1)
        for place, value in zip(axes[i][2:], misfit[name].tolist(), strict=True):
            place.text(0.98, 0.02, f"{value:.1f}", transform=place.transAxes, color="yellow", ha="right", fontsize=7)
        axes[i][1].text(1.0, 0.5, name, transform=axes[i][1].transAxes, ha="right", va="center", fontsize=10)
    axes[0][0].set_title("truth", fontsize=9)
    axes[0][1].set_title("measured", fontsize=9)
    axes[0][1].texts[0].remove()
    axes[0][2].set_title("exact draws", fontsize=9, loc="left")
    return made


def main() -> None:
    """Write the page and what belongs to it."""
    torch.set_num_threads(1)
    lines = ours()
    quadrature, gibbs = worst_errors()
    exact = [line for line in lines if line.sampler == "exact"]
    seeds = {line.problem: line.seeds for line in lines}
    budgets = sorted({line.budget for line in lines} - {0})
    page = PAGE.format(
        answer=answer(lines),
        images=images(lines),
        tables=as_markdown(lines),
        seeds=", ".join(f"`{name}` {count}" for name, count in seeds.items()),
        fewest=min(seeds.values()),
        most=max(seeds.values()),
        largest=max(budgets),
        draws=DRAWS,
        budgets=", ".join(map(str, budgets)),
        floor=sum(line.gap for line in exact) / len(exact),
        cover=100 * sum(line.coverage for line in exact) / len(exact),
        quadrature=quadrature,
        gibbs=gibbs,
    )
    (RESULTS / "leaderboard.md").write_text(page, "utf-8")
    (RESULTS / "leaderboard-lines.html").write_text(as_html(lines), "utf-8")
    figure(lines).savefig(DOCS / "images" / "leaderboard.png")
    if "--pictures" in sys.argv:
        glyph_picture().savefig(DOCS / "images" / "glyph-posteriors.png")


if __name__ == "__main__":
    main()
