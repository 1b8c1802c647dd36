"""What a classifier makes of a study's draws: the last table of the MGPS paper's electrocardiograms.

The classifier sees the twelve leads of each draw. A threshold decides on the mean of its outputs over the draws of a
recording. That threshold comes from real windows of the same length, of records that are in no problem (fold 9). The
first row is its result on the true windows: expect no reconstruction to do better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from midguide.domains.ecg.accuracy import accuracy_interval, area_under_curve, balanced_accuracy, choose_threshold
from midguide.domains.ecg.classifier import EcgClassifier
from midguide.domains.ecg.leads import twelve_leads
from midguide.domains.ecg.problems import EcgProblem
from midguide.errors import ConfigError, DataError, MidguideError
from midguide.studies.engine.store import Store
from midguide.studies.engine.units import Unit, stored
from midguide.studies.spec.study import Study

TRUTH = "truth"


class Diagnosis(NamedTuple):
    """How well one class is told from what one sampler drew; None where records of either kind are missing.

    `records` have draws and known labels, `positive` of them have the diagnosis; `low` and `high` are the ends of the
    bootstrap 95 % interval of the balanced accuracy.
    """

    problem: str
    sampler: str
    diagnosis: str
    balanced_accuracy: float | None
    low: float | None
    high: float | None
    auc: float | None
    records: int
    positive: int
    threshold: float


def diagnose(study: Study, store: Store, classifier: EcgClassifier, rule: str | float = "balanced") -> list[Diagnosis]:
    """Balanced accuracies, for each problem and class: of the true windows first, then of each sampler's draws.

    Args:
        study: which problems and samplers; problems of other kinds are passed over.
        store: where the draws are.
        classifier: what to ask.
        rule: how thresholds are chosen: see `choose_threshold`.

    Raises:
        ConfigError: If the classifier is made for recordings of another form.
        DataError: If there is no problem of electrocardiograms with stored draws and labels, or too few records to
            choose a threshold on.
    """
    found = []
    for problem in dict.fromkeys(unit.problem_label for unit in study.units):
        units = [unit for unit in study.units if unit.problem_label == problem]
        if isinstance(units[0].problem, EcgProblem):
            found += _problem(problem, units[0].problem, units, store, classifier, rule)
    if not found:
        raise DataError(
            f"{store.folder} has no stored draws of electrocardiograms whose {classifier.spec.targets} are known",
            hint="run a study of such problems with keep_samples = true",
        )
    return found


def _problem(
    label: str, kind: EcgProblem, units: Sequence[Unit], store: Store, classifier: EcgClassifier, rule: str | float
) -> Iterator[Diagnosis]:
    """The rows of one problem."""
    _check_form(kind, classifier)
    answers = {unit.problem_seed: kind.labels(unit.problem_seed, classifier.spec.targets) for unit in units}
    truths = {seed: answer for seed, answer in answers.items() if answer is not None}
    rows: dict[str, dict[int, Tensor]] = {}
    for unit in units:
        samples = stored(unit, store.samples) if unit.problem_seed in truths else None
        if samples is not None:
            draws = kind.form.unit_mv * samples.resampled().draws[0]
            scores = classifier.probabilities(twelve_leads(draws)).mean(0)
            rows.setdefault(unit.sampler_label, {})[unit.problem_seed] = scores
    if not rows:
        return
    seeds = sorted(set().union(*rows.values()))
    rows = {TRUTH: dict(zip(seeds, _of_truths(kind, seeds, classifier), strict=True)), **rows}
    thresholds = _thresholds(kind, classifier, rule)
    for column, diagnosis in enumerate(classifier.spec.classes):
        for sampler, by_seed in rows.items():
            scores = torch.stack([scores[column] for scores in by_seed.values()])
            labels = torch.stack([truths[seed][column] for seed in by_seed])
            yield _row(label, sampler, diagnosis, scores, labels, thresholds[column])


def _row(problem: str, sampler: str, diagnosis: str, scores: Tensor, labels: Tensor, threshold: float) -> Diagnosis:
    count, positive = len(labels), int(labels.sum())
    if positive in (0, count):
        return Diagnosis(problem, sampler, diagnosis, None, None, None, None, count, positive, threshold)
    accuracy = balanced_accuracy(scores, labels, threshold)
    low, high = accuracy_interval(scores, labels, threshold)
    auc = area_under_curve(scores, labels)
    return Diagnosis(problem, sampler, diagnosis, accuracy, low, high, auc, count, positive, threshold)


def _thresholds(kind: EcgProblem, classifier: EcgClassifier, rule: str | float) -> list[float]:
    """One for each class, from the true windows of recordings to validate."""
    if not isinstance(rule, str):
        return [float(rule)] * len(classifier.spec.classes)
    others, seeds = kind.to_validate()
    labeled, answers = [], []
    for seed in seeds:
        answer = others.labels(seed, classifier.spec.targets)
        if answer is not None and _is_whole(others, seed):
            labeled.append(seed)
            answers.append(answer)
    if not labeled:
        raise DataError("no labeled record to choose thresholds on", hint="give a number as the threshold")
    scores, labels = _of_truths(others, labeled, classifier), torch.stack(answers)
    return [choose_threshold(own, truth, rule) for own, truth in zip(scores.T, labels.T, strict=True)]


def _of_truths(kind: EcgProblem, seeds: Sequence[int], classifier: EcgClassifier) -> Tensor:
    """Probabilities from true windows, shape (N, classes)."""
    return classifier.probabilities(twelve_leads(torch.stack([kind.window_mv(seed) for seed in seeds])))


def _is_whole(kind: EcgProblem, seed: int) -> bool:
    try:
        kind.window_mv(seed)
    except MidguideError:
        return False
    return True


def _check_form(kind: EcgProblem, classifier: EcgClassifier) -> None:
    ours, theirs = kind.form, classifier.spec.ecg
    if (ours.rate_hz, ours.high_pass_hz) != (theirs.rate_hz, theirs.high_pass_hz):
        raise ConfigError(
            f"the classifier is made for {theirs.rate_hz:g} Hz and a high-pass of {theirs.high_pass_hz:g} Hz, the "
            f"prior has {ours.rate_hz:g} and {ours.high_pass_hz:g}",
            hint="train a classifier with the table [ecg] of the prior's recipe",
        )
