"""Do unconditional samples of a prior look like recordings? Power by frequency and amplitudes by quantile.

    python benchmarks/ecg_prior.py DATA --prior ecg-256/ecg-256.safetensors > docs/results/ecg-prior.md

DATA is a PTB-XL folder. The samples are compared with the training folds, whose law they should have; beside them
stands the test fold, of which as many windows are taken as there are samples: what two sets of patients differ by.
Progress is kept in ecg-prior.progress; an interrupted run goes on from it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from midguide import Problem, load_prior, sample
from midguide.data.ptbxl import load_split
from midguide.diagnostics.ecg import AMPLITUDE, BANDS_HZ, LEVELS, POWER_DB, Likeness, likeness
from midguide.leads import MODELLED, einthoven_error
from midguide.observers import Progress
from midguide.samplers.unconditional import Unconditional
from midguide.studies.ecg import middle


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_lead(values: Tensor, columns: list[str], form: str) -> str:
    rows = [[lead, *(f"{value:{form}}" for value in row.tolist())] for lead, row in zip(MODELLED, values, strict=True)]
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
        parser.error(f"{options.prior} is no prior of electrocardiograms")
    length = prior.event_shape[1]
    data, others = (middle(load_split(options.data, name, form).signals, length) for name in ("train", "test"))
    picked = torch.linspace(0, len(others) - 1, min(options.samples, len(others))).round().long()
    drawn = sample(
        Unconditional(steps=options.steps),
        Problem.unobserved(prior),
        options.samples,
        chunk=50,
        observers=[Progress("samples")],
        checkpoint="ecg-prior.progress",
    )
    draws = form.unit_mv * drawn.draws[0]
    ours, floor = likeness(draws, data, form.rate_hz), likeness(others[picked], data, form.rate_hz)
    bands = [f"{low:g} to {high:g} Hz" for low, high in BANDS_HZ]
    violation = einthoven_error(draws)
    print(f"""# Samples of `{Path(options.prior).stem}` beside recordings

{options.samples} unconditional samples ({options.steps} steps, seed 0; none chosen) against the middle
{length / form.rate_hz:.2f} s of the {len(data)} recordings of the training folds. Beside them {len(picked)} recordings
of the test fold: what two sets of patients differ by. Written by `benchmarks/ecg_prior.py`.

{
        table(
            ["set", "largest difference in power", "in amplitude", f"within {POWER_DB:g} dB and {AMPLITUDE:g}"],
            [["samples", *largest(ours)], ["recordings, test fold", *largest(floor)]],
        )
    }

Power in decibels: 10 log10 of the samples' mean power over that of the recordings. Amplitude: difference of a quantile
of all values of a lead, in parts of that quantile or of the lead's standard deviation, whichever is larger.

The samples violate III = II - I by {float(violation.median()):.3f} mV at worst in the median sample, {
        float(violation.max()):.3f} mV in the worst: the
relation is learned, not built in (`midguide ecg reconstruct` enforces it).

## Power of the samples over that of the recordings, dB

{by_lead(ours.power_db, bands, "+.1f")}

## Power of the test fold over that of the training folds, dB

{by_lead(floor.power_db, bands, "+.1f")}

## Quantiles of the samples' amplitudes, relative difference

{by_lead(ours.amplitude, [f"{level:g}" for level in LEVELS], "+.2f")}

## Quantiles of the test fold's amplitudes, relative difference

{by_lead(floor.amplitude, [f"{level:g}" for level in LEVELS], "+.2f")}

Drawn in {drawn.cost.seconds:.0f} s; the root mean square of all values is {
        math.sqrt(float(draws.square().mean())):.3f} mV, of the recordings
{math.sqrt(float(data.square().mean())):.3f} mV.""")


if __name__ == "__main__":
    main()
