"""Numbers about the first draws of all images of a cell together, such as a Fréchet distance, from the stored draws.

Of weighted draws one is drawn by weight, with seed 0, in place of the first.

A number is kept in OUT/sets with its checksum, named by what it depends on. It has no interval: resampling images
repeats some of them, which biases distances between sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from midguide.catalogue import plugins
from midguide.catalogue.base import short
from midguide.errors import DataError, MidguideError
from midguide.metrics.base import SET_METRICS
from midguide.storage.code import code_of
from midguide.storage.files import replacing
from midguide.storage.record import fingerprint
from midguide.studies.engine.draws import Draws, stored_code
from midguide.studies.engine.store import STUDY, Store
from midguide.studies.engine.units import Unit, stored
from midguide.studies.spec.study import Study


class SetValue(NamedTuple):
    """A metric of one cell, over one draw of each of the `images` of its problems."""

    problem: str
    sampler: str
    metric: str
    value: float | None
    images: int


def measure_sets(study: Study, store: Store) -> tuple[list[SetValue], list[str]]:
    """The metrics `set_metrics` of a study's cells, and what could not be computed.

    Args:
        study: which metrics and cells.
        store: where the draws are.
    """
    cells: dict[tuple[str, str], list[Unit]] = {}
    for unit in study.units if study.head.set_metrics else ():
        if (store.samples / unit.draws_address).exists():
            cells.setdefault((unit.problem_label, unit.sampler_label), []).append(unit)
    values, notes = [], []
    for (problem, sampler), units in cells.items():
        images = len({unit.problem_seed for unit in units})
        for metric in study.head.set_metrics:
            try:
                value = _kept(store, metric, units)
            except MidguideError as error:
                value = None
                notes.append(f"{short(metric)}, {problem}, {sampler}: {error.message}")
            values.append(SetValue(problem, sampler, short(metric), value, images))
    return values, notes


def _kept(store: Store, metric: str, units: Sequence[Unit]) -> float:
    """The value that is stored for these draws, or else computed and stored."""
    made = SET_METRICS.make(metric)
    source = plugins.source_digest(made)
    codes = [code_of(made), *(stored_code(unit.draws_address, store.samples) for unit in units)]
    depends = [short(metric), made.record(), [unit.draws_address for unit in units], *([source] if source else [])]
    depends.append([code.sha256 for code in codes if code])
    place = store.folder / "sets" / f"{fingerprint(depends)}.json"
    if (known := _read(place)) is not None:
        return known
    value = _computed(store, metric, units)
    plain: dict[str, Any] = {"metric": short(metric), "value": value}
    with replacing(place) as temporary:
        temporary.write_text(json.dumps(plain | {"sha256": fingerprint(plain)}) + "\n", encoding="utf-8")
    return value


def _read(place: Path) -> float | None:
    """The number in a file; None where there is none, or it is damaged. Those of earlier versions have no checksum."""
    try:
        plain = STUDY.json(place)
        sha256 = plain.pop("sha256", None)
        return float(plain["value"]) if sha256 in (None, fingerprint(plain)) else None
    except (MidguideError, AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None


def _computed(store: Store, metric: str, units: Sequence[Unit]) -> float:
    found: dict[int, Draws] = {}
    for unit in units:
        samples = stored(unit, store.samples)
        if samples is None or "truth" not in samples.tensors:
            raise DataError(f"{store.samples / unit.draws_address} holds no draws with their truth")
        found.setdefault(unit.problem_seed, samples)
    draws = torch.cat([samples.resampled(1).draws[0] for samples in found.values()])
    truths = torch.cat([samples.tensors["truth"] for samples in found.values()])
    problem = units[0].problem.probe(units[0].problem_seed)
    return SET_METRICS.make(metric)(draws, truths, problem.denoiser.signal_range or (-1.0, 1.0))
