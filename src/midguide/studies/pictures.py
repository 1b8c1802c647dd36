"""Pictures of a study's stored draws: for each problem, what every sampler makes of the first images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from midguide.plots.measurement import picture_of_measurement
from midguide.plots.reconstructions import Reconstructed, reconstructions
from midguide.problem import Problem
from midguide.studies.spec import Study
from midguide.studies.store import Store
from midguide.studies.units import Unit, stored

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panels(study: Study, store: Store, images: int = 2) -> dict[str, Figure]:
    """One figure for each problem whose samples are images and of which draws are stored, by the problem's label.

    Args:
        study: which problems and samplers.
        store: where the draws are.
        images: so many images of each problem, the first of the file.
    """
    units: dict[str, dict[int, dict[str, Unit]]] = {}
    for unit in study.units:
        if unit.seed == study.head.seeds[0]:
            units.setdefault(unit.problem_label, {}).setdefault(unit.problem_seed, {})[unit.sampler_label] = unit
    made = {}
    for label, by_image in units.items():
        groups = list(by_image.values())[:images]
        some = next(iter(groups[0].values()))
        probe = some.problem.probe(some.problem_seed)
        if len(probe.signal_shape) != 3:
            continue
        shown = [image for group in groups if (image := _reconstructed(group, probe, store)) is not None]
        if shown:
            value_range = probe.denoiser.signal_range or (-1.0, 1.0)
            made[label] = reconstructions(shown, value_range=value_range, title=label)
    return made


def _reconstructed(units: dict[str, Unit], probe: Problem, store: Store) -> Reconstructed | None:
    """One image with the draws of its units; None where none is stored."""
    found = {label: stored(unit, store.samples) for label, unit in units.items()}
    known = next((samples.tensors for samples in found.values() if samples is not None), None)
    if known is None:
        return None
    problem = replace(probe, likelihood=replace(probe.likelihood, y=known["y"]))
    draws = {label: None if samples is None else samples.draws[0] for label, samples in found.items()}
    return Reconstructed(known["truth"][0] if "truth" in known else None, picture_of_measurement(problem), draws)
