"""What samplers cost beside the denoiser, on the 25-component mixture: the tables of results/mixture-cost.md.

    OMP_NUM_THREADS=1 python benchmarks/mixture.py > tables.md
    python benchmarks/pages.py --take mixture-cost tables.md

Half a minute on one idle core. Everything is measured in one process, with one thread.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from midguide.diffusion.schedules import Time
from midguide.exact.problems import mixture_problem
from midguide.inference.loop import sample
from midguide.maths import autodiff
from midguide.maths.rng import Rng
from midguide.priors.base import Denoiser
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.storage.machine import keep_freed_memory
from midguide.studies.sources.sampled import Sampled

SAMPLES, TIME = 2000, 500
SPECS = ("mgps:mixture", "dps:linear", "pgdm:stable", "ddnm", "ddnm-plus:paper", "ddrm:paper", "diffpir")
SPECS += ("red-diff:authors", "unconditional")
REFERENCE = {20: 4.4, 200: 20.0}
"""Seconds of the MGPS authors' code with a closed-form denoiser, where the product below takes 20 to 30 ms."""

HEAD = """# Cost on the mixture

Written by `OMP_NUM_THREADS=1 python benchmarks/mixture.py`: {samples:,} samples, one core, on which a
1000x1000x1000 float32 product takes {product:.1f} ms.

- Seconds: processor time of the one thread, on an idle core the time on the clock; of one chunk of samples, times the
  number of chunks.
- Calls: the same calls of the denoiser, at the same times and with the same derivatives, alone.
- Numbers: drawing as many standard normal numbers as the sampler draws, alone.
- Ratio: seconds over calls. Floor: calls and numbers over calls, the ratio of a sampler that does nothing else.

What stands beside the calls is random numbers, optimizer and arithmetic on the state, which no network of practical
size would leave visible: beside one it is a few hundredths ([network-cost.md](network-cost.md)).
"""


def least(call: Callable[[], object], repeats: int = 101) -> float:
    """The least processor time of a call, in seconds."""
    call()
    return min(processor_time(call) for _ in range(repeats))


def processor_time(call: Callable[[], object]) -> float:
    """Processor time of one call, in seconds: other work on the machine does not count."""
    started = time.process_time()
    call()
    return time.process_time() - started


def noisy(problem: Problem, rows: int) -> Tensor:
    """Samples of the prior at the noise of `TIME`, shape (rows, d)."""
    prior = problem.denoiser
    x = prior.schedule.level(TIME).alpha * prior.sample(rows)
    return x + prior.schedule.level(TIME).sigma * Rng([(0, "noise")], rows).normal(x)


class DenoiserTimes(NamedTuple):
    """Seconds of `SAMPLES` samples: a forward, a forward with its vjp, and two yardsticks.

    The plain arithmetic: the product of the samples with the means in float64, which the logits need, a softmax over
    the components, and the product of the weights with the means. The barest: a product in float32 and a softmax.
    """

    forward: float
    with_vjp: float
    plain: float
    barest: float


def denoiser_times(problem: Problem) -> DenoiserTimes:
    prior, x = problem.denoiser, noisy(problem, SAMPLES)
    means = prior.sample(25)
    double = means.double()

    def plain() -> Tensor:
        return torch.softmax((x.double() @ double.mT).float().clamp_(-60, 0), 1) @ means

    with torch.no_grad():
        forward, bare = least(lambda: prior(x, TIME)), least(plain)
        barest = least(lambda: torch.softmax(x @ means.mT, 1))
    return DenoiserTimes(forward, least(lambda: with_vjp(prior, x, TIME)), bare, barest)


def number_times(count: int = 100_000) -> dict[str, float]:
    """Nanoseconds of one standard normal number in float32, by who draws it, in blocks that stay in the cache."""
    mine, theirs = torch.Generator().manual_seed(0), np.random.Generator(np.random.SFC64(0))
    block, array, half = torch.empty(count), np.empty(count, np.float32), count // 2

    def box_muller() -> Tensor:
        bits = torch.from_numpy(theirs.integers(0, 2**64, size=half, dtype=np.uint64).view(np.int32))
        first, second = bits.view(2, half).float()
        radius = first.mul_(2.0**-32).add_(0.5 + 2.0**-26).clamp_max_(1).log_().mul_(-2).sqrt_()
        angle = second.mul_(2 * math.pi * 2.0**-32)
        return torch.cat((radius * torch.cos(angle), radius * torch.sin(angle)))

    draws = {
        "torch": lambda: block.normal_(generator=mine),
        "NumPy's SFC64": lambda: theirs.standard_normal(out=array, dtype=np.float32),
        "bits of SFC64 and Box and Muller's formula in torch": box_muller,
    }
    return {name: 1e9 * least(draw) / count for name, draw in draws.items()}


def with_vjp(prior: Denoiser, x: Tensor, t: Time) -> Tensor:
    return autodiff.vjp(lambda u: prior(u, t), x)[1](x)


class Recorded(Denoiser):
    """A denoiser that notes the time of each call, and whether its derivative may be asked for."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.schedule, self.event_shape = inner, inner.schedule, inner.event_shape
        self.calls: list[tuple[Time, bool]] = []

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        x0 = self.inner(x, t)
        self.calls.append((t, x0.requires_grad))
        return x0


def bare_calls(prior: Denoiser, x: Tensor, calls: list[tuple[Time, bool]]) -> None:
    """The calls that were recorded, alone."""
    for t, differentiated in calls:
        if differentiated:
            with_vjp(prior, x, t)
        else:
            with torch.no_grad():
                prior(x, t)


def measure(spec: str, problem: Problem, rows: int, stream: int) -> tuple[list[float], list[tuple[Time, bool]]]:
    """Of one chunk: the seconds of the sampler, of its calls alone and of its random numbers alone; and the calls."""
    sampler, prior, x, rng = (
        make_sampler(spec, {}),
        problem.denoiser,
        noisy(problem, rows),
        Rng([(0, i) for i in range(rows // stream)], stream),
    )
    recorded, drawn, normal = Recorded(prior), [], Rng.normal

    def counted(self: Rng, like: Tensor) -> Tensor:
        drawn.append(like.shape)
        return normal(self, like)

    def run() -> None:
        with mock.patch.object(Rng, "normal", counted):
            sample(sampler, Problem(recorded, problem.likelihood), rows, stream_size=stream)

    def numbers() -> None:
        for _ in drawn:
            rng.normal(x)

    calls = partial(bare_calls, prior, x, recorded.calls)
    return [processor_time(part) for part in (run, calls, numbers)], recorded.calls


def sampler_row(spec: str, problem: Problem) -> str:
    """One sampler's seconds beside those of its calls of the denoiser and of its random numbers."""
    stream = Sampled(make_sampler(spec, {})).stream(problem, SAMPLES)
    rows = min(2 * stream, SAMPLES)
    times, calls = measure(spec, problem, rows, stream)
    total, bare, drawing = (value * (SAMPLES // rows) for value in times)
    counts = f"{len(calls)} | {sum(differentiated for _, differentiated in calls)}"
    seconds = f"{total:.2f} | {bare:.2f} | {drawing:.2f}"
    return f"| {spec} | {counts} | {seconds} | {total / bare:.2f} | {(bare + drawing) / bare:.2f} |"


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    square = torch.eye(1000)
    product = least(lambda: square @ square) * 1e3
    print(HEAD.format(samples=SAMPLES, product=product))
    print(
        "One standard normal number, alone:",
        ", ".join(f"{n} {ns:.1f} ns" for n, ns in number_times().items()),
        end=".\n\n",
    )
    for dimension in (20, 200):
        problem = mixture_problem(dimension, 0)
        forward, derived, plain, barest = (value * 1e3 for value in denoiser_times(problem))
        print(f"## dx = {dimension}\n")
        print(f"Denoiser: forward {forward:.2f} ms, with vjp {derived:.2f} ms; product, softmax and product")
        print(f"alone {plain:.2f} ms: ratio {forward / plain:.2f}; a float32 product and a softmax")
        print(f"alone {barest:.2f} ms: ratio {forward / barest:.2f}.\n")
        print("| sampler | forwards | vjps | seconds | calls | numbers | ratio | floor |")
        print("|---|---|---|---|---|---|---|---|")
        for spec in SPECS:
            print(sampler_row(spec, problem), flush=True)
            print(f"{spec} in {dimension} dimensions done", file=sys.stderr)
        print(
            f"\nThe MGPS authors' code took {REFERENCE[dimension]:g} s for such a problem with a closed-form denoiser,"
        )
        print("on one core of a machine where the product takes 20 to 30 ms.\n")


if __name__ == "__main__":
    main()
