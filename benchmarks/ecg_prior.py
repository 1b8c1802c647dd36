"""Do unconditional samples of a prior look like recordings? Power by frequency and amplitudes by quantile.

    python benchmarks/ecg_prior.py DATA --prior ecg-256/ecg-256.safetensors > tables.md
    python benchmarks/pages.py --take ecg-prior tables.md

DATA is a PTB-XL folder. Samples of DDIM (eta = 0) and of DDPM (eta = 1) are compared with the training folds, whose law
they should have; beside them stands the test fold, of which as many windows are taken as there are samples: what two
sets of patients differ by. Progress is kept in ecg-prior-ETA.progress; an interrupted run goes on from it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from midguide import Problem, load_prior, sample
from midguide.domains.ecg.checks import AMPLITUDE, BANDS_HZ, LEVELS, POWER_DB, Likeness, likeness
from midguide.domains.ecg.leads import MODELED, einthoven_error
from midguide.domains.ecg.problems import middle
from midguide.domains.ecg.ptbxl import load_split
from midguide.inference.observers import Progress
from midguide.inference.samples import Samples
from midguide.priors.base import Denoiser
from midguide.samplers.unconditional import Unconditional

SAMPLERS = {"DDIM": 0.0, "DDPM": 1.0}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_lead(values: Tensor, columns: list[str], form: str) -> str:
    rows = [[lead, *(f"{value:{form}}" for value in row.tolist())] for lead, row in zip(MODELED, values, strict=True)]
    return table(["lead", *columns], rows)


def largest(found: Likeness) -> list[str]:
    power, amplitude = found.power_db.abs().max(), found.amplitude.abs().max()
    return [f"{float(power):.1f} dB", f"{float(amplitude):.2f}", "yes" if found.agrees else "no"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--prior", default="ecg-256")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()

    prior = load_prior(options.prior)
    form = prior.ecg
    if form is None:
        parser.error(f"{options.prior} is not a prior of electrocardiograms")
    length = prior.event_shape[1]
    data, others = (middle(load_split(options.data, name, form).signals, length) for name in ("train", "test"))
    picked = torch.linspace(0, len(others) - 1, min(options.samples, len(others))).round().long()
    floor = likeness(others[picked], data, form.rate_hz)
    drawn = {name: _drawn(prior, eta, options) for name, eta in SAMPLERS.items()}
    draws = {name: form.unit_mv * samples.draws[0] for name, samples in drawn.items()}
    found = {f"samples, {name}": likeness(x, data, form.rate_hz) for name, x in draws.items()}
    found["recordings, test fold"] = floor
    bands = [f"{low:g} to {high:g} Hz" for low, high in BANDS_HZ]

    print(f"""# Samples of `{Path(options.prior).stem}` beside recordings

{options.samples} unconditional samples ({options.steps} steps, seed 0; none chosen) of each of two samplers against the
middle {length / form.rate_hz:.2f} s of the {len(data)} recordings of the training folds. Beside them {len(picked)}
recordings of the test fold: what two sets of patients differ by. Written by `benchmarks/ecg_prior.py`.
""")
    columns = ["set", "largest difference in power", "in amplitude", f"within {POWER_DB:g} dB and {AMPLITUDE:g}"]
    print(table(columns, [[name, *largest(one)] for name, one in found.items()]))
    print("""
Power in decibels: 10 log10 of the samples' mean power over that of the recordings. Amplitude: difference of a quantile
of all values of a lead, in parts of that quantile or of the lead's standard deviation, whichever is larger.
""")
    columns = ["sampler", "root mean square, mV", "largest III - (II - I), mV", "s"]
    lines = [["recordings", f"{_size(data):.3f}", "-", "-"]]
    for name, x in draws.items():
        worst = float(einthoven_error(x).max())
        lines.append([name, f"{_size(x):.3f}", f"{worst:.0e}", f"{drawn[name].cost.seconds:.0f}"])
    print(table(columns, lines))
    print("\nThat relation is built in: the denoiser answers in the space of recordings.")
    for name, one in found.items():
        print(f"\n## Power over that of the training folds, dB: {name}\n\n{by_lead(one.power_db, bands, '+.1f')}")
        quantiles = by_lead(one.amplitude, [f"{level:g}" for level in LEVELS], "+.2f")
        print(f"\n## Quantiles of amplitudes, relative difference: {name}\n\n{quantiles}")


def _drawn(prior: Denoiser, eta: float, options: argparse.Namespace) -> Samples:
    return sample(
        Unconditional(steps=options.steps, eta=eta, spacing=1.0),
        Problem.unobserved(prior),
        options.samples,
        chunk=50,
        observers=[Progress(f"samples, eta = {eta:g}")],
        checkpoint=f"ecg-prior-{eta:g}.progress",
    )


def _size(x: Tensor) -> float:
    return math.sqrt(float(x.square().mean()))


if __name__ == "__main__":
    main()
