"""Box inpainting of held-out faces: does the posterior beat simple fills, and does its spread predict its error?

    python benchmarks/face_box.py DATA/test.zip > tables.md
    python benchmarks/pages.py --take faces-box tables.md

DATA is a zip file or folder of aligned 64x64 faces that the prior has not seen. Progress is kept in
face-box.progress; an interrupted run goes on from it.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from midguide import Problem, load_prior, make_operator, sample
from midguide.data.images import load_image_set
from midguide.inference.observers import Progress
from midguide.metrics.fill import harmonic_fill, mean_fill
from midguide.samplers.base import make_sampler


def interval(values: Tensor) -> str:
    x = values.double().numpy()
    return f"{x.mean():.2f} ± {1.96 * x.std(ddof=1) / np.sqrt(len(x)):.2f}"


def psnr_where(x: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """PSNR over the entries `where`, images in [-1, 1], shape (B, C, H, W) -> (B,)."""
    squared = ((x.clamp(-1, 1) - truth).square() * where).flatten(1).sum(1) / where.flatten(1).sum(1)
    return 10 * torch.log10(4 / squared)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation of two lists without ties."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--prior", default="faces-64-small")
    parser.add_argument("--sampler", default="mgps:faces-64")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--bfloat16", action="store_true", help="run the network in bfloat16")
    options = parser.parse_args()

    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    prior = load_prior(options.prior, dtype=dtype)
    truth = load_image_set(options.data)[: options.images].float() / 127.5 - 1
    operator = make_operator("box-inpainting", prior.event_shape)
    problem = Problem.simulate(prior, operator, truth, sigma_y=0.05, seed=0)
    sampler = make_sampler(options.sampler, {"steps": options.steps})
    drawn = sample(
        sampler,
        problem,
        options.samples,
        chunk=10 * options.samples,
        observers=[Progress()],
        checkpoint="face-box.progress",
    )

    y = problem.likelihood.y
    hidden = ~operator.measured(y).expand_as(y)
    mean, std = drawn.mean(), drawn.std()
    fills = {"mean color": mean_fill(y, ~hidden), "harmonic (Laplace)": harmonic_fill(y, ~hidden)}
    ours = psnr_where(mean, truth, hidden)
    chi_square = problem.expand(options.samples).likelihood.chi_square(drawn.draws.flatten(0, 1))
    chi_square = chi_square.reshape(len(truth), -1).mean(1)
    error, spread = (mean - truth).abs().mean(1), std.mean(1)
    inside = hidden[:, 0]
    pairs = zip(spread, error, inside, strict=True)
    correlation = torch.tensor([rank_correlation(s[where], e[where]) for s, e, where in pairs])

    print("# Box inpainting of held-out faces\n")
    words = f"--sampler {options.sampler} --steps {options.steps}" + " --bfloat16" * options.bfloat16
    print(f"Written by `python benchmarks/face_box.py test.zip {words}`.")
    print(f"{len(truth)} faces that the prior {options.prior} has not seen (the first of the test split),")
    print(
        f"{options.samples} samples each, box of 38x38 of 64x64 hidden, sigma_y = 0.05 in [-1, 1], seed 0. PSNR inside"
    )
    print("the box, data range [-1, 1]; intervals are 95 % over faces.\n")
    print("| fill | PSNR inside the box (dB) | posterior mean better by (dB, paired) |")
    print("|---|---|---|")
    print(f"| posterior mean of {options.samples} samples | {interval(ours)} | |")
    single = torch.stack([psnr_where(drawn.draws[:, j], truth, hidden) for j in range(options.samples)]).mean(0)
    rows = {"one sample (average)": single}
    rows |= {name: psnr_where(fill, truth, hidden) for name, fill in fills.items()}
    for name, values in rows.items():
        print(f"| {name} | {interval(values)} | {interval(ours - values)} |")
    print()
    print("- Rank correlation, over the pixels of the box, of the samples' spread with the error of their mean:")
    print(f"  {interval(correlation)}.")
    print(f"- Chi-square per measured value of a sample: {interval(chi_square)}.")
    inner, outer = (float(std[where].square().mean().sqrt()) for where in (hidden, ~hidden))
    print(f"- Standard deviation of the samples: {inner:.3f} inside the box, {outer:.3f} outside.")
    cost = drawn.cost
    print(
        f"- Cost per sample: {cost.network_forwards:.0f} network forwards, {cost.network_vjps:.0f} vjps; "
        f"{cost.seconds:.0f} seconds for all {len(truth) * options.samples} samples on {torch.get_num_threads()} CPU "
        "threads."
    )


if __name__ == "__main__":
    main()
