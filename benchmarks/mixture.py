"""What samplers cost beside the denoiser, on the 25-component mixture: the tables of docs/results/mixture-cost.md.

    OMP_NUM_THREADS=1 python benchmarks/mixture.py > docs/results/mixture-cost.md

About two minutes on one idle core. Everything is measured in one process, with one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from midguide import autodiff
from midguide.data.toy import mixture_problem
from midguide.problem import Problem
from midguide.samplers.base import Sampler
from midguide.studies.presets import make_sampler
from midguide.studies.sources import Sampled

SAMPLES, TIME = 2000, 500
SPECS = ("mgps:mixture", "dps:linear", "pgdm:stable", "ddnm", "ddnm-plus:paper", "ddrm:paper", "diffpir")
SPECS += ("red-diff:authors", "unconditional")
REFERENCE = {20: 4.4, 200: 20.0}
"""Seconds of the MGPS authors' code with a closed-form denoiser, where the product below takes 20 to 30 ms."""


def seconds(call: Callable[[], object], repeats: int = 101) -> float:
    """The median time of a call."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


def denoiser_times(problem: Problem, rows: int) -> tuple[float, float, float]:
    """Of `SAMPLES` samples in chunks of `rows`: a forward, a forward with its vjp, and the plain arithmetic.

    The plain arithmetic: the product of the samples with the means in float64, which the logits need, a softmax over
    the components, and the product of the weights with the means.
    """
    prior, chunks = problem.denoiser, SAMPLES // rows
    x = prior.schedule.level(TIME).alpha * prior.sample(rows) + torch.randn(rows, *prior.event_shape)
    means = torch.randn(25, *prior.event_shape)
    double = means.double()

    def plain() -> torch.Tensor:
        return torch.softmax((x.double() @ double.mT).float().clamp_(-60, 0), 1) @ means

    def with_vjp() -> torch.Tensor:
        return autodiff.vjp(lambda u: prior(u, TIME), x)[1](x)

    with torch.no_grad():
        forward, bare = seconds(lambda: prior(x, TIME)), seconds(plain)
    return forward * chunks, seconds(with_vjp) * chunks, bare * chunks


def sampler_row(spec: str, problem: Problem) -> str:
    """One sampler's seconds beside those of its calls of the denoiser, measured before and after."""
    sampler: Sampler = make_sampler(spec, {})
    source = Sampled(sampler)
    rows = source.chunk(problem, SAMPLES)
    before = denoiser_times(problem, rows)
    cost = source.draw(problem, SAMPLES, [0]).cost
    after = denoiser_times(problem, rows)
    forward, with_vjp = (min(pair) for pair in zip(before[:2], after[:2], strict=True))
    bare = (cost.network_forwards - cost.network_vjps) * forward + cost.network_vjps * with_vjp
    counts = f"{cost.network_forwards:.0f} | {cost.network_vjps:.0f}"
    return f"| {spec} | {counts} | {cost.seconds:.2f} | {bare:.2f} | {cost.seconds / bare:.2f} |"


def main() -> None:
    torch.set_num_threads(1)
    square = torch.randn(1000, 1000)
    product = seconds(lambda: square @ square)
    print("# Cost on the mixture\n")
    print(f"Written by `OMP_NUM_THREADS=1 python benchmarks/mixture.py`: {SAMPLES:,} samples, one core, on which a")
    print(f"1000x1000x1000 float32 product takes {product * 1e3:.1f} ms. Calls: the time of the denoiser calls that a")
    print("sampler counts, made alone, in the same chunks. What stands beside them is random numbers, optimiser and")
    print("arithmetic on the state, which no network of practical size would leave visible.\n")
    for dimension in (20, 200):
        problem = mixture_problem(dimension, 0)
        forward, with_vjp, plain = denoiser_times(problem, SAMPLES)
        print(f"## dx = {dimension}\n")
        print(
            f"Denoiser: forward {forward * 1e3:.2f} ms, with vjp {with_vjp * 1e3:.2f} ms; product, softmax and product"
        )
        print(f"alone {plain * 1e3:.2f} ms: ratio {forward / plain:.2f}.\n")
        print("| sampler | forwards | vjps | seconds | calls | ratio |\n|---|---|---|---|---|---|")
        for spec in SPECS:
            print(sampler_row(spec, problem), flush=True)
            print(f"{spec} in {dimension} dimensions done", file=sys.stderr)
        print(
            f"\nThe MGPS authors' code took {REFERENCE[dimension]:g} s for such a problem with a closed-form denoiser,"
        )
        print("on one core of a machine where the product takes 20 to 30 ms.\n")


if __name__ == "__main__":
    main()
