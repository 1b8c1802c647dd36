"""Letters whose right half is hidden: what may they be? Several readings explain what is left.

    python examples/readings.py [--letters 4] [--samples 8] [--out readings.png]

The prior `glyphs-32` has never seen these letters: the first 4,096 pictures of its generator are kept back.
"""

from __future__ import annotations

import argparse

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from midguide import Problem, load_prior, make_operator, make_sampler, sample
from midguide.data.glyphs import glyphs
from midguide.inference.observers import Progress

LETTERS = (1, 12, 13, 14, 17)
"""Numbers of pictures with letters or digits that are read in several ways by halves."""


def picture(truth: Tensor, measured: Tensor, draws: Tensor, hidden: Tensor) -> Figure:
    """A row for each letter: truth, what is left of it, and draws; shapes (N, H, W), and (N, n, H, W) for draws."""
    rows, columns = len(draws), 2 + draws.shape[1]
    figure = Figure(figsize=(columns, rows + 0.35), facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.3 / (rows + 0.35), bottom=0.01, wspace=0.06, hspace=0.06)
    gray = mpl.colormaps["gray"].with_extremes(bad="#c8d0dc")
    for i, row in enumerate(axes):
        seen = measured[i].masked_fill(hidden, torch.nan)
        for axis, image in zip(row, (truth[i], seen, *draws[i]), strict=True):
            axis.imshow(image.numpy(), cmap=gray, vmin=-1, vmax=1)
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("truth", "measured", "samples"), strict=False):
        axis.set_title(title, fontsize=9, loc="left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", default="readings.png")
    options = parser.parse_args()

    prior = load_prior("glyphs-32")
    operator = make_operator("half-mask", prior.event_shape)
    truth = glyphs(torch.tensor(LETTERS[: options.letters]))
    problem = Problem.simulate(prior, operator, truth, sigma_y=0.05)
    result = sample(make_sampler("auto", problem=problem), problem, options.samples, observers=[Progress()])
    y = problem.likelihood.y
    hidden = ~operator.measured(y).expand(y.shape)[0, 0]
    figure = picture(truth[:, 0], y[:, 0], result.draws[:, :, 0], hidden)
    figure.savefig(options.out, dpi=130)
    print(f"picture: {options.out}")
    print(result.check())


if __name__ == "__main__":
    main()
