"""Accuracy against network calls: the page results/frontier.md, and its figure.

    midguide study run experiments/frontier.toml --out exact
    midguide study report exact --csv > results/data/frontier.csv
    midguide study run experiments/frontier-faces.toml --out faces --weights DIR
    midguide study report faces --csv > results/data/frontier-faces.csv
    python benchmarks/frontier.py > results/frontier.md

Reads the two CSV files, writes docs/images/frontier.png, and prints the page.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from midguide.operators.matrix import Matrix
from midguide.priors.gaussian import Gaussian
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.samplers.budget import total_calls

RESULTS = Path("results")
FIGURE = Path("docs/images/frontier.png")
SW, W2 = "sliced_wasserstein_1[slices=100]", "gaussian_w2"
PROBLEMS = {  # label, its metric, dimension, measured values
    "mixture, dx = 20": (SW, 20, 1),
    "mixture, dx = 200": (SW, 200, 1),
    "mixture, dy = 10": (SW, 20, 10),
    "Gaussian": (W2, 20, 10),
}
SHOWN = {  # the lines that have a color
    "mgps": "#e76f51",
    "matheron:islands": "#b5179e",
    "mmps": "#4361ee",
    "smcdiff:islands": "#2a9d8f",
    "dps": "#8d6e63",
    "ddrm": "#e9b000",
}
FLOOR = "exact (floor)"
LOST = 1000.0
"""A distance above which a mean says only that draws diverge."""
ENOUGH = 20
"""Samplers that must be there at a budget for one of them to be called the nearest."""
LPIPS = "lpips_like_sample[net=squeezenet1.1,weights=caffe,v=0.1,resize=none]"
NAMES = {
    SW: "sliced Wasserstein distance from exact draws",
    W2: "2-Wasserstein distance of the moments",
    LPIPS: "LPIPS-like distance of a draw from the truth",
    "psnr_sample[range=1]": "PSNR of a draw, dB",
    "chi_square": "chi-square per measured value",
    "truth_coverage[level=0.9,by=rank]": "share of the truth inside 90 % intervals",
}
"""What a page calls metrics."""

HEAD = """\
# How near does each sampler come to the posterior, for how many network calls?

On the mixture with one value measured (dx = 20, ten problems) `matheron:islands` has 0.39 ± 0.23 with 25 forwards.
A network would pay 125 calls for that; exact draws have 0.32. Without derivatives `smcdiff:islands` is nearest:
0.52 ± 0.20 with 100 forwards. No sampler without weights comes below 1.7; `mgps` has 1.86 ± 1.37 with 997 calls.
Command: `midguide study run experiments/frontier.toml`, then `python benchmarks/frontier.py`.

![Error over network calls](../docs/images/frontier.png)

The nearest sampler on each problem at each budget, with the calls that a network would take and the problems:
"""

READING = """\
Sliced Wasserstein distance of order 1 (100 slices) or 2-Wasserstein distance of the moments, from exact draws.
512 draws of each sampler; means over n problems, with the 95 % interval of Student's t from three on.
A column says how many problems most of its cells average, a cell where it has another number.
The columns of the tables are budgets of network calls, forwards and vjps of one sample together.
A sampler at a budget has the steps that come nearest from below; [studies.md](../docs/studies.md#budgets) has the rule.

These priors give their covariance in closed form, with the forward. A network would take vjps for it.
"A network's calls" are those of the same settings there. The figure and the first table have these on their axis.
"diverges": on some problem there are no finite draws, or the mean distance is above 1,000.
ESS is the effective sample size of 512 weighted draws at the largest budget.
"""

OUTLOOK = """\
## What the figures say

- Where the posterior has several modes (one value measured of the mixture), weights decide. Samplers without weights
  stay at 1.7 to 8 up to 1,000 calls: their draws have the wrong weights of the modes.
- More calls serve the particle methods: `tds` has 1.45 ± 0.56 with 100 calls and 0.57 ± 0.19 with 1,000,
  `split-gibbs-smc:mixture` 2.18 ± 1.18 and 0.63 ± 0.34. DPS and LGD move away from the posterior after 25 calls.
- With ten values measured the posterior has one mode, and most samplers come near it with 50 calls or more.
- Ten problems of 2,000 draws each for the weighted samplers are in [posterior.md](posterior.md): `matheron:islands`
  0.212 ± 0.085 with 25 forwards, `smcdiff:islands` 0.455 ± 0.212 with 100 forwards and no derivative.
- On ten faces, at 100 calls, the LPIPS-like distance does not tell `matheron:fast`, `mmps`, `ddrm` and `pgdm` apart
  (0.072 to 0.075). With 25 calls methods without derivatives lead: `ddnm` 0.085, `mmps` 0.109.
- Chi-square does: at 100 calls 1.06 (`matheron:fast`), 0.99 (`mmps`), 1.03 (`ddrm`), 0.98 (`mgps`) against 1.46
  (`pgdm`) and 3.0 (`dps`). `ddnm`, made for noiseless data, has 0.54 there, and 0.17 at 300 calls.

## What `auto` takes from it

| problem | choice | why |
|---|---|---|
| exact moments, linear, up to 64 measured values | `matheron:weighted` | nearest for its forwards; no groups |
| exact moments otherwise | `matheron` | exact on Gaussians at every number of steps |
| a network, linear, Gaussian noise | `matheron:fast`, 50 steps | validation faces, below |
| a network, nonlinear, Gaussian noise | `mmps:nonlinear` | [faces-second-order.md](faces-second-order.md) |
| noise that is not Gaussian | `mgps` | its fit takes any noise model |
| a prior of latents | `mgps:ffhq-latent` | the best means in [faces-latent.md](faces-latent.md) |

On ten validation faces (two draws each) `matheron:fast` in 50 steps, 148 calls, minus `mmps`, 256 calls, is in the
LPIPS-like distance -0.003 ± 0.013 (box), -0.014 ± 0.024 (half mask), -0.005 ± 0.010 (x4) and 0.003 ± 0.003 (blur);
its chi-square is 0.83 to 1.00, that of `mmps` 0.82 to 0.90. With 33 steps it loses 1.6 ± 0.2 dB on the blur.

A network of which few values are measured may have a posterior of several modes. `auto` takes `matheron:fast` there,
too, whose modes have the wrong weights. `smcdiff:islands` costs no derivative and is the one to compare with.

## Limits

- Problems: ten of the mixture with dx = 20, five of each other kind.
- Intervals are those of few problems, which differ much. `-` is a sampler that does not fit the budget.
- A sampler at a budget keeps its other settings. One that is tuned for the budget may do better.
- Moments of these priors are exact. Those of a network come from a Krylov space of three vectors.
- Faces: one task (box inpainting), ten faces, two draws each, `faces-64-small` in bfloat16, LPIPS-like with Caffe's
  SqueezeNet. At a budget of 1,000 only some samplers ran.
  Coverage of two draws says little; [faces-box.md](faces-box.md) has eight draws of MGPS.
"""


class LikeANetwork(Gaussian):
    """A prior whose moments cost vjps."""

    exact_moments = False


@dataclass(frozen=True)
class Cell:
    """What was measured of one sampler at one budget; calls are those that a network would take."""

    sampler: str
    budget: int
    mean: float | None
    ci95: float | None
    n: int
    calls: float
    size: float | None


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a report."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def cells(rows: Iterable[dict[str, str]], problem: str, metric: str) -> list[Cell]:
    """The cells of one problem and metric that have a budget."""
    found = []
    for row in rows:
        name, _, budget = row["sampler"].partition(", budget ")
        if (row["problem"], row["metric"]) == (problem, metric) and budget:
            values = [float(row[key]) if row[key] else None for key in ("mean", "ci95", "effective_sample_size")]
            calls = as_network(name, int(budget), row, problem)
            found.append(Cell(name, int(budget), values[0], values[1], int(row["n"]), calls, values[2]))
    return found


def as_network(spec: str, budget: int, row: dict[str, str], problem: str) -> float:
    """Calls of the same settings where moments are those of a network, and not in closed form."""
    if problem not in PROBLEMS:
        return sum(float(row[key] or "nan") for key in ("network_forwards", "network_vjps"))
    _, dimension, measured = PROBLEMS[problem]
    exact, network = (
        Problem.simulate(
            prior(torch.zeros(dimension), 1.0),
            Matrix.create(torch.eye(dimension)[:measured], (dimension,)),
            torch.zeros(1, dimension),
            sigma_y=1.0,
        )
        for prior in (Gaussian, LikeANetwork)
    )
    return total_calls(make_sampler(spec, problem=exact, budget=budget), network)


def figure(exact: list[dict[str, str]]) -> None:
    """Error over calls, a panel for each problem, on logarithmic axes."""
    panels = [(problem, metric) for problem, (metric, *_) in PROBLEMS.items() if cells(exact, problem, metric)]
    fig, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.4), squeeze=False, layout="constrained")
    for axis, (problem, metric) in zip(axes[0], panels, strict=True):
        _panel(axis, comparable(cells(exact, problem, metric)), _floor(exact, problem, metric))
        axis.set_title(problem, fontsize=11)
        axis.set_ylabel(NAMES[metric])
    lines = {name: color for name, color in SHOWN.items()}
    handles = [Line2D([], [], color=color, marker="o", ms=4, label=name) for name, color in lines.items()]
    handles += [Line2D([], [], color="0.75", label="the other samplers")]
    handles += [Line2D([], [], color="k", ls="--", label="exact draws (the floor)")]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    fig.savefig(FIGURE, dpi=110)


def _panel(axis: Axes, found: list[Cell], floor: float | None) -> None:
    """One problem: a line for each sampler; what diverges leaves the picture."""
    names = sorted({cell.sampler for cell in found}, key=lambda name: name in SHOWN)
    for name in names:
        line = [cell for cell in found if cell.sampler == name and cell.mean is not None]
        x, y = [cell.calls for cell in line], [cell.mean or 0.0 for cell in line]
        if name in SHOWN:
            axis.plot(x, y, color=SHOWN[name], marker="o", ms=4, lw=2, zorder=3)
        else:
            axis.plot(x, y, color="0.75", lw=1)
    means = [cell.mean for cell in found if cell.mean]
    if floor is not None:
        axis.axhline(floor, color="k", ls="--", lw=1)
        means.append(floor)
    axis.set(xscale="log", yscale="log", xlabel="network calls of one sample (forwards + vjps)")
    if means:
        axis.set_ylim(0.7 * min(means), min(3 * sorted(means)[len(means) // 2], 1.4 * max(means)))
    axis.spines[["top", "right"]].set_visible(False)


def _floor(rows: list[dict[str, str]], problem: str, metric: str) -> float | None:
    wanted = (problem, metric, FLOOR)
    return next((float(row["mean"]) for row in rows if (row["problem"], row["metric"], row["sampler"]) == wanted), None)


def table(found: list[Cell], floor: float | None) -> list[str]:
    """Samplers by budgets, the nearest first; a failure is said. Two problems are too few for an interval."""
    budgets = sorted({cell.budget for cell in found})
    by_name: dict[str, dict[int, Cell]] = {}
    for cell in found:
        by_name.setdefault(cell.sampler, {})[cell.budget] = cell

    usual = {budget: _usual(found, budget) for budget in budgets}
    column = max(budgets, key=lambda budget: (len(comparable(found, budget)), usual[budget]))

    def rank(name: str) -> float:
        cell = by_name[name].get(column)
        return float("inf") if cell is None or cell.mean is None else cell.mean

    header = ["sampler", *(f"{budget} (n = {usual[budget]})" for budget in budgets), "ESS", "a network's calls"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in sorted(by_name, key=rank):
        line = by_name[name]
        last = line[max(line)]
        size = "" if last.size is None else f"{last.size:.0f}"
        calls = " / ".join(f"{line[b].calls:.0f}" if b in line else "-" for b in budgets)
        lines.append(f"| `{name}` | {' | '.join(_entry(line.get(b), usual[b]) for b in budgets)} | {size} | {calls} |")
    return lines if floor is None else [*lines, f"| exact draws | {floor:.2f}{' |' * (len(budgets) + 2)}"]


def _entry(cell: Cell | None, usual: int | None = None) -> str:
    if cell is None:
        return "-"
    if cell.mean is None or cell.mean > LOST:
        return "diverges"
    digits = 0 if cell.mean >= 100 else 3 if cell.ci95 is not None and cell.ci95 < 0.05 else 2
    spread = "" if cell.ci95 is None or cell.n < 3 else f" ± {cell.ci95:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}" + (f" (n = {cell.n})" if usual not in (None, cell.n) else "")


def nearest(exact: list[dict[str, str]]) -> list[str]:
    """The nearest sampler of each problem at each budget, with the calls of a network, as a table."""
    budgets = sorted(
        {cell.budget for problem, (metric, *_) in PROBLEMS.items() for cell in cells(exact, problem, metric)}
    )
    lines = [f"| problem | {' | '.join(f'budget {budget}' for budget in budgets)} | exact draws |"]
    lines.append("|---" * (len(budgets) + 2) + "|")
    for problem, (metric, *_) in PROBLEMS.items():
        found = comparable(cells(exact, problem, metric))
        entries = []
        for budget in budgets:
            there = [cell for cell in found if cell.budget == budget and cell.mean is not None]
            there = there if len(there) >= ENOUGH else []
            best = min(there, key=lambda cell: cell.mean or 0.0, default=None)
            entries.append(
                "-" if best is None else f"`{best.sampler}` {_entry(best)} ({best.calls:.0f} calls, n = {best.n})"
            )
        floor = _floor(exact, problem, metric)
        lines.append(f"| {problem} | {' | '.join(entries)} | {'' if floor is None else f'{floor:.2f}'} |")
    return lines


def comparable(found: list[Cell], budget: int | None = None) -> list[Cell]:
    """The cells that average about as many problems as most at their budget: problems differ more than samplers do."""
    wanted = [cell for cell in found if budget in (None, cell.budget)]
    most = max((_usual(found, cell.budget) for cell in found), default=0)
    least = 3 if most >= 3 else 1  # those of one problem do not compare with those of five
    return [cell for cell in wanted if cell.n >= max(least, _usual(found, cell.budget) - 1)]


def _usual(found: list[Cell], budget: int) -> int:
    return Counter(cell.n for cell in found if cell.budget == budget).most_common(1)[0][0]


def main() -> None:
    exact, faces = read(RESULTS / "data" / "frontier.csv"), read(RESULTS / "data" / "frontier-faces.csv")
    figure(exact)
    print(HEAD)
    print("\n".join(nearest(exact)) + "\n")
    print(READING)
    for problem, (metric, *_) in PROBLEMS.items():
        found = cells(exact, problem, metric)
        print(f"## {problem}: {NAMES[metric]}\n")
        print("\n".join(table(found, _floor(exact, problem, metric))) + "\n")
    for problem in dict.fromkeys(row["problem"] for row in faces):
        for metric in dict.fromkeys(row["metric"] for row in faces):
            found = cells(faces, problem, metric)
            print(f"## Faces, {problem}: {NAMES.get(metric, metric)}\n")
            print("\n".join(table(found, None)) + "\n")
    print(OUTLOOK, end="")


if __name__ == "__main__":
    main()
