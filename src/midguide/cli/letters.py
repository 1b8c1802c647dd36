"""The quick demonstration: a letter of which half is hidden, and what it may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from midguide.cli import output

if TYPE_CHECKING:
    from torch import Tensor

    from midguide.problem import Problem

PRIOR, SAMPLER, SEED = "glyphs-32", "auto", 0
NUMBER, BLOCK, SIGMA = 10, 4, 0.4
"""Number of the picture, side of the blocks of which means are measured, noise of each mean."""
SETTINGS = {"steps": 20}
LISTED = 6


def hidden_letter(samples: int, folder: Path, *, as_json: bool, verbose: bool) -> None:
    """Draw what a letter may be, read the draws, and put the known probabilities beside."""
    from midguide.cli import runs
    from midguide.data.glyphs import CHARACTERS, glyph_classes
    from midguide.known.glyph_readings import glyph_readings
    from midguide.metrics.readings import read_glyphs
    from midguide.samplers.base import make_sampler

    problem = _problem()
    sampler = make_sampler(SAMPLER, SETTINGS, problem=problem)
    label = runs.sampler_label(SAMPLER, sampler)
    labels = {"sampler": label, "prior": PRIOR, "operator": "half-mask of blocks", "noise": "gaussian", "sigma": SIGMA}
    run = runs.Run(problem=problem, sampler=sampler, n=samples, seed=SEED, out=folder, labels=labels)
    truth = CHARACTERS[int(glyph_classes(torch.tensor([NUMBER])))]
    output.note(
        f"A letter or digit, with the prior {PRIOR}. The right half is hidden. Of the left half the means of\n"
        f"{BLOCK}x{BLOCK} pixels are known, with noise {SIGMA}. Which one is it?\n"
    )
    result = runs.draw(run)
    known = glyph_readings(problem.likelihood)
    drawn = read_glyphs(result.draws[0]).mean(0)
    verdict = result.check()
    rows = _rows(drawn, known.probability, known.error, samples)
    metrics = runs.measure(run, result, verdict)
    metrics |= {"readings": rows, "truth": truth, "explaining_pictures": known.pictures, "steps": sampler.steps}
    metrics = runs.write(run, result, metrics)
    runs.report(metrics, verdict, as_json=as_json, verbose=verbose)
    if not as_json:
        output.print_table(
            ("reading", "of the draws", "known"), [_line(row) for row in rows], numbers=("of the draws", "known")
        )
    output.note(
        f"Look at how often the draws are read as each character, beside its probability (± one standard error).\n"
        f"Its probability is known by brute force: of 30,000 letters {known.pictures:.0f} explain the measurement.\n"
        f"It is {truth}."
    )


def _problem() -> Problem:
    from midguide.data.glyphs import glyphs
    from midguide.operators.composition import compose
    from midguide.operators.factory import make_operator
    from midguide.priors.loading import load_prior
    from midguide.problem import Problem

    prior = load_prior(PRIOR)
    blocks = make_operator("super-resolution", prior.event_shape, factor=BLOCK)
    side = prior.event_shape[-1] // BLOCK
    operator = compose(make_operator("half-mask", (1, side, side)), blocks)
    return Problem.simulate(prior, operator, glyphs(torch.tensor([NUMBER])), sigma_y=SIGMA, seed=SEED)


def _rows(drawn: Tensor, known: Tensor, error: Tensor, samples: int) -> list[dict[str, Any]]:
    """The likeliest readings by either of the two, the likeliest by what is known first."""
    from midguide.data.glyphs import CHARACTERS

    chosen = sorted(range(len(CHARACTERS)), key=lambda k: -float(drawn[k] + known[k]))[:LISTED]
    spread = (drawn * (1 - drawn) / samples).clamp_min(0).sqrt()
    return [
        {
            "reading": CHARACTERS[k],
            "draws": float(drawn[k]),
            "draws_error": float(spread[k]),
            "known": float(known[k]),
            "known_error": float(error[k]),
        }
        for k in sorted(chosen, key=lambda k: -float(known[k]))
    ]


def _line(row: dict[str, Any]) -> tuple[str, str, str]:
    drawn, known = (f"{row[name]:.2f} ± {row[f'{name}_error']:.2f}" for name in ("draws", "known"))
    return row["reading"], drawn, known
