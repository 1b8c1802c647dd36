"""What samplers cost beside a network, the prior `faces-64`: the table of docs/results/network-cost.md.

    OMP_NUM_THREADS=1 python benchmarks/network.py > docs/results/network-cost.md

Seventeen minutes on one core, a third of them conjugate gradients. One process, one thread.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import torch
from mixture import Recorded, bare_calls, least

from midguide import Problem, load_prior, make_operator, sample
from midguide.errors import ConvergenceWarning, UnsupportedProblem
from midguide.maths.rng import Rng
from midguide.samplers.base import make_sampler
from midguide.storage.machine import keep_freed_memory

ROWS, STEPS, REPEATS = 4, 20, 3
OPERATORS = ("box-inpainting", "super-resolution", "gaussian-blur", "motion-blur", "motion-blur-decomposed", "jpeg")
OPERATORS += ("phase-retrieval", "nonlinear-blur")
SPECS = ("mgps:faces-64", "dps", "pgdm", "ddnm", "ddnm-plus", "ddrm", "diffpir", "red-diff")

HEAD = f"""# Cost beside a network

Written by `OMP_NUM_THREADS=1 python benchmarks/network.py`: the shipped prior `faces-64`, a noise image of 64x64
pixels, {ROWS} samples, {STEPS} steps, one core. Processor time of the sampler over that of the calls of the network
that it makes (the same times, the same derivatives) alone; the least of {REPEATS} runs of each. An empty cell: the
sampler does not take the operator.
"""


def ratio(spec: str, problem: Problem) -> float:
    """Seconds of a sampler over those of its calls of the network."""
    recorded = Recorded(problem.denoiser)
    sampler = make_sampler(spec, {"steps": STEPS})

    def run() -> None:
        recorded.calls.clear()
        sample(sampler, replace(problem, denoiser=recorded), ROWS)

    whole = least(run, REPEATS)
    x = Rng([(0, i) for i in range(ROWS)]).normal(torch.empty(ROWS, *problem.event_shape))
    return whole / least(lambda: bare_calls(problem.denoiser, x, recorded.calls), REPEATS)


def cell(spec: str, problem: Problem) -> str:
    try:
        return f"{ratio(spec, problem):.2f}"
    except UnsupportedProblem:
        return ""


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # what it costs counts here, also where it does not converge
    prior = load_prior("faces-64")
    truth = Rng([(0, "truth")]).uniform(torch.empty(1, *prior.event_shape)) * 2 - 1
    print(HEAD)
    print("| operator |", " | ".join(SPECS), "|")
    print("|---" * (len(SPECS) + 1) + "|")
    for name in OPERATORS:
        problem = Problem.simulate(prior, make_operator(name, prior.event_shape), truth, sigma_y=0.05)
        print(f"| {name} |", " | ".join(cell(spec, problem) for spec in SPECS), "|", flush=True)
        print(f"{name} done", file=sys.stderr)


if __name__ == "__main__":
    main()
