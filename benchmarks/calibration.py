"""The figure and the tables of results/calibration.md, from what `midguide calibrate` and `tune` wrote.

    python benchmarks/calibration.py OUT/calibration.json ... --figure docs/images/calibration.png

Prints a Markdown table for each file. The figure has the ranks by the log-likelihood, by sampler, as differences of
distribution functions with the band that exact draws leave with probability 0.05.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from midguide.calibration import band, points_for, share_below

SHOWN = ("log-likelihood", "depth", "value-1")


def table(found: dict[str, Any]) -> str:
    """One line for each sampler."""
    header = ["sampler", "verdict", "CRPS", "energy score", "chi-square", "calls"]
    lines = [header, ["---"] * len(header)]
    for each in found["samplers"]:
        scores = [_score(each["scores"], name) for name in ("crps", "energy_score", "chi_square")]
        calls = each["cost"].get("network_forwards", 0) + each["cost"].get("network_vjps", 0)
        lines.append([f"`{each['label']}`", each["verdict"], *scores, f"{calls:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(found: dict[str, Any]) -> Figure:
    """Differences of distribution functions, a column for each sampler."""
    samplers, draws = found["samplers"], found["draws"]
    made = Figure(figsize=(2.4 * len(samplers), 1.9 * len(SHOWN)), dpi=110, layout="constrained")
    grid = made.subplots(len(SHOWN), len(samplers), squeeze=False, sharex=True, sharey=True)
    points = points_for(draws)
    for column, each in enumerate(samplers):
        for row, name in enumerate(SHOWN):
            axes = grid[row, column]
            u = np.array(each["ranks"].get(name, []))
            if len(u):
                lines = band(len(u), points)
                axes.fill_between(lines.points, lines.low - lines.points, lines.high - lines.points, color="0.88")
                axes.plot(lines.points, share_below(u, points) - lines.points, lw=1)
            else:
                axes.text(0.5, 0.06, "not defined for\nweighted draws", ha="center", fontsize=8, color="0.4")
            axes.axhline(0, color="0.5", lw=0.7)
            axes.tick_params(labelsize=7)
            axes.set_title(each["label"] if row == 0 else "", fontsize=9)
            if column == 0:
                axes.set_ylabel(f"{name}\nshare below - uniform", fontsize=8)
            if row == len(SHOWN) - 1:
                axes.set_xlabel("rank of the truth", fontsize=8)
    return made


def _score(scores: dict[str, Any], name: str) -> str:
    return f"{scores[name]['mean']:.3g} ± {scores[name]['ci95']:.1g}" if name in scores else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path, help="of the first file")
    given = parser.parse_args()
    found = [json.loads(path.read_text("utf-8")) for path in given.files]
    for path, each in zip(given.files, found, strict=True):
        print(f"{path}: {each['n']} problems, {each['draws']} draws, seed {each['seed']}\n\n{table(each)}\n")
    if given.figure:
        figure(found[0]).savefig(given.figure)


if __name__ == "__main__":
    main()
