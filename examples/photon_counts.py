"""A portrait from photon counts: every pixel has counted a few photons, about 20 where it is white.

    python examples/photon_counts.py [--rate 20] [--samples 4] [--steps 100] [--out photon-counts.png]

The likelihood is Poisson's, without any Gaussian surrogate: MGPS only asks for the gradient of `log p(y | x)`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from midguide import Problem, load_prior, sample
from midguide.data.examples import portrait
from midguide.inference.observers import Progress
from midguide.likelihoods import observe_counts
from midguide.metrics.image import psnr
from midguide.operators import Identity
from midguide.plots.panel import panel
from midguide.samplers.base import make_sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default="faces-64")
    parser.add_argument("--sampler", default="mgps:faces-64")
    parser.add_argument("--rate", type=float, default=20.0, help="expected photons of a white pixel")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", default="photon-counts.png")
    options = parser.parse_args()

    prior = load_prior(options.prior)
    truth = portrait(prior.event_shape[-1])
    problem = Problem(prior, observe_counts(Identity(), truth, options.rate, seed=0), truth)
    sampler = make_sampler(options.sampler, {"steps": options.steps})
    result = sample(sampler, problem, options.samples, seed=0, observers=[Progress(options.sampler)])

    brightness = 2 * result.tensors["y"] / options.rate - 1  # the best guess at each pixel from its own count
    chi_square = problem.expand(options.samples).likelihood.chi_square(result.draws[0])
    quality = {"measurement": float(psnr(brightness, truth)), "mean": float(psnr(result.mean(), truth))}
    picture = panel(
        replace(result, tensors=result.tensors | {"y": brightness, "truth": truth}),
        captions={name: f"{value:.1f} dB" for name, value in quality.items()},
        sample_captions=[f"$\\chi^2$ {value:.2f}" for value in chi_square.tolist()],
        footer=f"photon counts, {options.rate:g} where white  ·  {options.sampler}  ·  {options.prior}  ·  seed 0",
    )
    picture.savefig(options.out)
    print(f"PSNR {quality['mean']:.1f} dB (counts alone {quality['measurement']:.1f} dB), {options.out}")


if __name__ == "__main__":
    main()
