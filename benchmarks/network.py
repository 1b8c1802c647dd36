"""What samplers cost beside a network, the prior `faces-64-small`: the table of results/network-cost.md.

    OMP_NUM_THREADS=1 python benchmarks/network.py
    OMP_NUM_THREADS=1 python benchmarks/network.py --steps 10 --repeats 1 --operators box-inpainting mmps tmpd

Half an hour on one core, a third of it conjugate gradients. One process, one thread.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import replace

import torch
from mixture import least
from torch import Tensor

from midguide import Problem, load_prior, make_operator, sample
from midguide.diffusion.schedules import Time
from midguide.errors import ConvergenceWarning, UnsupportedProblem
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.priors.base import Denoiser
from midguide.priors.wrapped import Wrapped
from midguide.samplers.base import make_sampler
from midguide.storage.machine import keep_freed_memory

OPERATORS = ("box-inpainting", "super-resolution", "gaussian-blur", "motion-blur", "motion-blur-decomposed", "jpeg")
OPERATORS += ("phase-retrieval", "nonlinear-blur")
SPECS = ("mgps:faces-64", "dps", "pgdm", "ddnm", "ddnm-plus", "ddrm", "diffpir", "red-diff", "mmps", "tmpd", "matheron")
SPECS += ("tds", "ald", "copaint", "daps", "ding", "ilvr", "lgd", "mgdm", "pnp-dm", "repaint", "score-sde", "sda")
SPECS += ("snips",)


class Recorded(Wrapped):
    """A denoiser that notes the time of each call, whether it was differentiated, and how often."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.calls: list[tuple[Time, list[None] | None]] = []

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        x0 = self.inner(x, t)
        products: list[None] | None = [] if x0.requires_grad else None
        if products is not None:
            x0.register_hook(lambda _: products.append(None))
        self.calls.append((t, products))
        return x0


def bare_calls(prior: Denoiser, x: Tensor, calls: list[tuple[Time, list[None] | None]]) -> None:
    """The calls that were recorded and their derivatives, alone."""
    for t, products in calls:
        if products is None:
            with torch.no_grad():
                prior(x, t)
            continue
        _, pullback = autodiff.vjp(lambda u, t=t: prior(u, t), x)
        for _ in products:
            pullback(x)


def ratio(spec: str, problem: Problem, steps: int, repeats: int, rows: int) -> float:
    """Seconds of a sampler over those of its calls of the network."""
    recorded = Recorded(problem.denoiser)
    sampler = make_sampler(spec, {"steps": steps})

    def run() -> None:
        recorded.calls.clear()
        sample(sampler, replace(problem, denoiser=recorded), rows)

    whole = least(run, repeats)
    x = Rng([(0, i) for i in range(rows)]).normal(torch.empty(rows, *problem.event_shape))
    return whole / least(lambda: bare_calls(problem.denoiser, x, recorded.calls), repeats)


def cell(spec: str, problem: Problem, *settings: int) -> str:
    try:
        return f"{ratio(spec, problem, *settings):.2f}"
    except UnsupportedProblem:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samplers", nargs="*", default=SPECS)
    parser.add_argument("--operators", nargs="+", default=OPERATORS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4, help="samples in the batch")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # what it costs counts here, also where it does not converge
    prior = load_prior("faces-64-small")
    truth = Rng([(0, "truth")]).uniform(torch.empty(1, *prior.event_shape)) * 2 - 1
    problems = [
        Problem.simulate(prior, make_operator(name, prior.event_shape), truth, sigma_y=0.05)
        for name in options.operators
    ]
    print("| sampler |", " | ".join(options.operators), "|")
    print("|---" * (len(options.operators) + 1) + "|")
    for spec in options.samplers:
        cells = (cell(spec, problem, options.steps, options.repeats, options.rows) for problem in problems)
        print(f"| `{spec}` |", " | ".join(cells), "|", flush=True)
        print(f"{spec} done", file=sys.stderr)


if __name__ == "__main__":
    main()
