"""Pictures of a study's stored draws: what every sampler makes of the first images or recordings of each problem."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from midguide.domains.ecg.leads import EcgFormat, twelve_leads
from midguide.domains.ecg.plots import ecg_paper
from midguide.domains.ecg.scores import expected_coverage, hidden_of_twelve, interval
from midguide.plots.measurement import picture_of_measurement
from midguide.plots.reconstructions import Reconstructed, reconstructions
from midguide.problem import Problem
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Unit, stored
from midguide.studies.spec.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panels(study: Study, store: Store, images: int = 2) -> dict[str, Figure]:
    """Figures of the problems of which draws are stored, by heading.

    Of images one figure for each problem; of electrocardiograms one page for each sampler and recording.

    Args:
        study: which problems and samplers.
        store: where the draws are.
        images: so many images or recordings of each problem, the first of the file.
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
        if EcgFormat.of(probe.denoiser.signal) is not None:
            made |= {f"{label}, {name}": page for group in groups for name, page in _pages(group, store).items()}
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


def _pages(units: dict[str, Unit], store: Store) -> dict[str, Figure]:
    """ECG paper with the median of the draws of each unit, their band and the truth; for one recording."""
    pages = {}
    for name, unit in units.items():
        samples, problem = stored(unit, store.samples), unit.problem.probe(unit.problem_seed)
        form = EcgFormat.of(problem.denoiser.signal)
        if samples is None or form is None:
            continue
        nine = form.unit_mv * samples.draws[0].double()
        truth = form.unit_mv * samples.tensors["truth"][0].double() if "truth" in samples.tensors else None
        observed = problem.likelihood.operator.measured(problem.likelihood.y)[0].expand(nine.shape[1:])
        twelve = twelve_leads(nine)
        title = f"{name}: median of {len(nine)} draws with their {100 * expected_coverage(len(nine)):.0f} % band"
        pages[f"{name}, recording {unit.problem_seed}"] = ecg_paper(
            twelve.quantile(0.5, dim=0),
            rate_hz=form.rate_hz,
            band=interval(twelve),
            truth=None if truth is None else twelve_leads(truth),
            observed=~hidden_of_twelve(observed),
            title=title,
            footer="no medical device: what is hidden (gray) is drawn, not observed",
        )
    return pages
