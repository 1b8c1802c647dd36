"""Pictures of a study's stored draws: what every sampler makes of the first signals of each problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midguide.catalogue import plugins
from midguide.catalogue.base import Entry
from midguide.errors import MidguideError
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Unit, stored
from midguide.studies.pictures.base import PICTURES, Case, Picture
from midguide.studies.spec.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panels(study: Study, store: Store, images: int = 2) -> dict[str, Figure]:
    """Figures of the problems of which draws are stored, by heading: all that `PICTURES` makes of them.

    Args:
        study: which problems and samplers.
        store: where the draws are.
        images: so many signals of each problem, the first of the file.
    """
    units: dict[str, dict[int, dict[str, Unit]]] = {}
    for unit in study.units:
        if unit.seed == study.head.seeds[0]:
            units.setdefault(unit.problem_label, {}).setdefault(unit.problem_seed, {})[unit.sampler_label] = unit
    made: dict[str, Figure] = {}
    for label, by_seed in units.items():
        cases = [_case(seed, group, store) for seed, group in list(by_seed.items())[:images]]
        for entry in PICTURES.values():
            made |= _drawn(entry, label, cases)
    return made


def _drawn(entry: Entry[Picture], label: str, cases: list[Case]) -> dict[str, Figure]:
    """What a picture makes of a problem; one from outside that fails is left out, with a warning."""
    if entry.origin == "midguide":
        return entry.thing(label, cases)
    try:
        with plugins.outside_code(f"picture `{entry.name}` of {entry.origin}"):
            return dict(entry.thing(label, cases))
    except MidguideError as error:
        plugins.warn(error)
        return {}


def _case(seed: int, units: dict[str, Unit], store: Store) -> Case:
    """One problem with the draws of its units, resampled where they have weights."""
    some = next(iter(units.values()))
    found = {label: stored(unit, store.samples) for label, unit in units.items()}
    equal = {label: None if samples is None else samples.resampled() for label, samples in found.items()}
    return Case(seed, some.problem.probe(seed), equal)
