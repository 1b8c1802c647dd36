"""What samplers of deepinv, azula and ours cost on a GPU beside bare calls of the same network: `faces-64`, 16 rows.

    python benchmarks/gpu_peers.py --out OUT

Each draws by DPS with as many steps. A row has the seconds of a run, of the same network calls alone, and their ratio,
the quickest of five of each by turns. azula and deepinv see the network through `to_azula` and `to_deepinv`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_speed import Noted, alone, prior_of, seconds

from midguide import Problem, make_operator, observe, sample
from midguide.operators.deepinv import physics_of_deepinv
from midguide.priors.interop import to_azula, to_deepinv
from midguide.samplers.base import make_sampler

ROWS, STEPS, NOISE, TIMES = 16, 20, 0.05, 5


def contestants(prior: Noted, device: str) -> dict[str, Callable[[], Any]]:
    """A run of each library."""
    module = physics_of_deepinv()  # mends the import
    from azula.guidance.dps import DPSSampler
    from deepinv.sampling import DPS

    shape = prior.event_shape
    operator = make_operator("box-inpainting", shape)
    truth = torch.zeros(1, *shape, device=device)
    problem = Problem.simulate(prior, operator, truth, sigma_y=NOISE)
    observed = observe(operator, truth, NOISE, seed=0).y
    y = observed.expand(ROWS, *observed.shape[1:])
    mask = torch.ones(shape, device=device)
    mask[:, 16:48, 16:48] = 0.0
    physics = module.Inpainting(shape, mask=mask, noise_model=module.GaussianNoise(NOISE), device=device)
    theirs = DPS(to_deepinv(prior).to(device), num_steps=STEPS, device=device)
    place = torch.device(device)
    sampler = DPSSampler(to_azula(prior).to(device), y, operator, steps=STEPS, silent=True, device=place)
    ours = make_sampler("dps", {"steps": STEPS})
    return {
        "midguide": lambda: sample(ours, problem, ROWS, progress=False),
        "azula": lambda: sampler(sampler.init((ROWS, *shape))),
        "deepinv": lambda: theirs(mask * truth.expand(ROWS, *shape), physics),
    }


def row(name: str, run: Callable[[], Any], prior: Noted, device: str) -> dict[str, Any]:
    """Seconds of a run and of its calls alone."""
    run()  # wakes up kernels
    prior.calls.clear()
    run()
    calls, x = list(prior.calls), torch.randn(ROWS, *prior.event_shape, device=device)
    pairs = [(seconds(run, device), seconds(lambda: alone(prior.inner, x, calls), device)) for _ in range(TIMES + 1)]
    whole, bare = (min(part) for part in zip(*pairs[1:], strict=True))
    return {"library": name, "calls": len(calls), "seconds": whole, "bare": bare, "ratio": round(whole / bare, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mode", default="fp32", help="what the network computes in, as in gpu_speed.py")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = Noted(prior_of("faces-64", given.mode, device))
    rows = [row(name, run, prior, device) | {"mode": given.mode} for name, run in contestants(prior, device).items()]
    with (given.out / "peers.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)
    print(*map(json.dumps, rows), sep="\n", flush=True)


if __name__ == "__main__":
    main()
