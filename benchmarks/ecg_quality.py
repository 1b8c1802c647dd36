"""How far samples of a prior of electrocardiograms are from recordings of the test fold, into its card.

    python benchmarks/ecg_quality.py PTBXL

Features of our own, named `ecg-bands-and-heights`: of each of the nine leads the logarithm of the power in four bands
and of the peak-to-peak, standardized over the validation fold. Kernel and Fréchet distance, beside those of the
validation fold from the test fold: other patients, the same law. Samples are those of DDIM at even times, which these
networks do best with (results/ecg-prior.md).
"""

from __future__ import annotations

import argparse
import json
import math

import torch
from torch import Tensor

from midguide import load_prior, sample
from midguide.domains.ecg.checks import band_power
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.problems import middle
from midguide.domains.ecg.ptbxl import load_split
from midguide.metrics.sets import frechet_distance, kernel_distance
from midguide.priors import cards
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.storage.files import replacing

FEATURES = "ecg-bands-and-heights"
FLOOR = 1e-6
BLOCKS = 10


def features(signals: Tensor, rate_hz: float) -> Tensor:
    """Logarithms of powers and heights, shape (n, 9, time) in mV -> (n, 45)."""
    power = torch.stack([band_power(signal[None], rate_hz) for signal in signals]).flatten(1)
    height = signals.double().amax(2) - signals.double().amin(2)
    return torch.cat([power.clamp_min(FLOOR).log(), height.clamp_min(FLOOR).log()], dim=1)


def half_width(drawn: Tensor, real: Tensor) -> float:
    """Half width at 95 % of the kernel distance, from ten blocks of samples, each with its own part of the data."""
    parts = zip(drawn.chunk(BLOCKS), real.chunk(BLOCKS), strict=True)
    each = torch.tensor([kernel_distance(a, b) for a, b in parts], dtype=torch.float64)
    return 2.26 * float(each.std()) / math.sqrt(BLOCKS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--prior", default="ecg-256")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--eta", type=float, default=0.0, help="1 is DDPM, 0 is DDIM")
    parser.add_argument("--spacing", type=float, default=1.0, help="of the times; 1 for even ones")
    given = parser.parse_args()
    prior = load_prior(given.prior)
    form, length = EcgFormat.of(prior.signal), prior.event_shape[1]
    if form is None:
        parser.error(f"{given.prior} is not a prior of electrocardiograms")
    validation, test = (middle(load_split(given.data, name, form).signals, length) for name in ("val", "test"))
    sampler = Unconditional(steps=given.steps, eta=given.eta, spacing=given.spacing)
    drawn = sample(sampler, Problem.unobserved(prior), given.n, chunk=128).draws[0]
    known = features(validation, form.rate_hz)
    mean, spread = known.mean(0), known.std(0)
    ours, others, real = (
        (features(signals, form.rate_hz) - mean) / spread for signals in (drawn * form.unit_mv, validation, test)
    )
    found = {
        "samples": len(ours),
        "data": len(real),
        "features": FEATURES,
        "kid": kernel_distance(ours, real),
        "kid_interval": half_width(ours, real),
        "kid_of_data": kernel_distance(others, real),
        "fid": frechet_distance(ours, real),
        "fid_of_data": frechet_distance(others, real),
        "steps": given.steps,
        "spacing": given.spacing,
        "eta": given.eta,
    }
    print(json.dumps(found, indent=2))
    path = cards.weights_of(given.prior).with_suffix(".json")
    table = json.loads(path.read_text("utf-8")) | {"quality": found}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(table, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
