"""MGPS written a second time, with every detail of the authors' release that ours leaves out, on the same problems.

    OMP_NUM_THREADS=1 python benchmarks/mgps_as_released.py 200

Released: the levels in float32, the times `linspace(0, 999, 300)` without the first (298 transitions, 1,244 gradient
steps; ours are 299 and 1,264), torch's Adam on sums over the batch, one more forward for `D(x_l, l)` at each step.
Shared with ours: the denoiser in closed form and the problems, seeds 0 to 9. About three minutes in 200 dimensions.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from midguide import sample
from midguide.exact.problems import mixture_problem
from midguide.maths.rng import global_seed
from midguide.metrics.distribution import sliced_wasserstein
from midguide.problem import Problem
from midguide.samplers.base import make_sampler
from midguide.studies.report.rows import student

SAMPLES, STEPS, MIDPOINT, RATE = 500, 300, 0.75, 0.1


def main() -> None:
    torch.set_num_threads(1)
    dimension = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print("| problem | as released | midguide |\n|---|---|---|")
    pairs = []
    for seed in range(10):
        problem = mixture_problem(dimension, seed)
        exact = problem.denoiser.posterior(problem.likelihood).sample(SAMPLES, seed=1)  # pyright: ignore
        with global_seed(seed):
            released = sliced_wasserstein(as_released(problem), exact)
        ours = sample(make_sampler("mgps:mixture", {}), problem, SAMPLES, stream_size=SAMPLES)
        pairs.append((released, sliced_wasserstein(ours.draws[0], exact)))
        print(f"| {seed} | {pairs[-1][0]:.2f} | {pairs[-1][1]:.2f} |", flush=True)
    values = np.array(pairs)
    for name, column in (("as released", values[:, 0]), ("midguide", values[:, 1]), ("difference", values @ [1, -1])):
        half = student(len(column) - 1) * column.std(ddof=1) / np.sqrt(len(column))
        print(f"{name}: {column.mean():.2f} ± {half:.2f}")


def as_released(problem: Problem) -> Tensor:
    """Draws of MGPS without warm start, from torch's global random numbers, shape (SAMPLES, d)."""
    denoiser, likelihood = problem.denoiser, problem.likelihood
    kept = torch.cat([torch.ones(1), torch.linspace(0.9999, 0.98, 1000).cumprod(0)])  # alpha^2 by level, float32
    times = torch.linspace(0, 999, STEPS).long().tolist()
    x = torch.randn(SAMPLES, *problem.event_shape)
    x0_hat = denoiser(x, times[-1])
    for i in range(STEPS - 1, 1, -1):
        t, s = times[i], times[i - 1]
        l = max(int(MIDPOINT * s), 1)
        start, _ = bridge(kept, 0, l, t, x0_hat, x)
        mean, std = bridge(kept, 0, l, t, denoiser(x, t), x)
        mu = start.clone().requires_grad_()
        rho = std.log().expand_as(mu).clone().requires_grad_()
        adam = torch.optim.Adam([mu, rho], lr=RATE)
        for _ in range(gradient_steps(i)):
            x_l = mu + rho.exp() * torch.randn_like(mu)
            fit = -likelihood.log_prob(denoiser(x_l, l) if l > 1 else x_l).sum()
            divergence = ((mu - mean).square().sum() + (2 * rho).exp().sum()) / (2 * std.square()) - rho.sum()
            adam.zero_grad()
            (fit + divergence).backward()
            adam.step()
        with torch.no_grad():
            x_l = mu + rho.exp() * torch.randn_like(mu)
            mean, std = bridge(kept, l, s, t, x_l, x)
            x, x0_hat = mean + std * torch.randn_like(x), denoiser(x_l, l)
    return denoiser(x, times[1])


def bridge(kept: Tensor, s: int, r: int, t: int, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of `q(x_r | x_s, x_t)` with coefficients in float32."""
    first, second, whole = kept[r] / kept[s], kept[t] / kept[r], kept[t] / kept[s]
    variance = (1 - second) * (1 - first) / (1 - whole)
    weight = ((1 - first - variance) / (1 - whole)).clamp_min(0).sqrt()
    return weight * x_t + (first.sqrt() - weight * whole.sqrt()) * x_s, variance.sqrt()


def gradient_steps(i: int) -> int:
    """Of the released configuration for the mixture, first match wins."""
    if i <= 20:
        return 2
    return 20 if i >= STEPS - 10 or i % 10 == 0 else 2


if __name__ == "__main__":
    main()
