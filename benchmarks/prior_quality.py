"""How far samples of a prior of images are from data, into its card, and a grid of unchosen samples into the docs.

    python benchmarks/prior_quality.py glyphs-32
    python benchmarks/prior_quality.py faces-64 --data test.zip --dtype bfloat16
    python benchmarks/prior_quality.py own.safetensors --data test.zip

Kernel and Fréchet distance of features, beside that of two halves of the data: samples of the data's own law have zero
on average. Few steps of DDPM add a distance of their own, even ones (`--spacing 1`) the most. `glyphs-32` is compared
with pictures of its generator that it was not trained on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from midguide import load_prior
from midguide.data.glyphs import glyphs
from midguide.data.images import load_image_set, save_png
from midguide.inference.loop import sample
from midguide.plots.grid import grid
from midguide.priors import cards
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.storage.files import replacing
from midguide.training.quality import quality
from midguide.training.sources import scaled

SHOWN, SCALE = 40, 3
"""Samples in the grid, and how much each pixel of theirs is enlarged."""


def data_of(prior: str, data: Path | None, channels: int) -> Tensor:
    """Images that the prior was not trained on, in [-1, 1]."""
    if prior == "glyphs-32":
        return glyphs(torch.arange(1024, 2048))  # the first 128 chose among the averages
    if data is None:
        raise SystemExit(f"{prior} needs --data")
    return scaled(load_image_set(data)[:, :channels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--spacing", type=float, help="of the times; by default as `midguide sample` does")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--docs", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    prior = load_prior(given.prior, dtype=given.dtype)
    sampler = Unconditional(steps=given.steps, spacing=given.spacing)
    draws = sample(sampler, Problem.unobserved(prior), given.n, chunk=128).draws[0].clamp(-1, 1)
    shown = draws[:SHOWN].repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)
    save_png(given.docs / f"{Path(given.prior).stem}.png", grid(shown, columns=10))
    found = asdict(quality(draws, data_of(given.prior, given.data, draws.shape[1])))
    found |= {"steps": given.steps, "spacing": given.spacing}
    print(json.dumps(found, indent=2))
    path = cards.weights_of(given.prior) if given.prior in cards.shipped() else Path(given.prior)
    table = json.loads(path.with_suffix(".json").read_text("utf-8")) | {"quality": found}
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(table, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
