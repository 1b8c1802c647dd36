"""Diagnoses from the draws of a study, by a classifier that is right by construction on what it looks at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from midguide.domains.ecg.classifier import EcgClassifier, EcgClassifierSpec
from midguide.domains.ecg.diagnosis import TRUTH, diagnose
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.problems import EcgProblem
from midguide.domains.ecg.ptbxl import DIAGNOSES
from midguide.domains.ecg.simulator import CONDITIONS
from midguide.domains.ecg.xresnet1d import XResNet1dConfig
from midguide.errors import ConfigError, DataError
from midguide.studies.engine.execute import run_units
from midguide.studies.engine.store import Store
from midguide.studies.spec.study import load_study

STUDY = """
study.name = "hearts"
study.samples = 2
study.batch = 10
study.keep_samples = true
study.metrics = ["chi_square"]
problems = [
    {{ label = "lead I", kind = "ecg", operator = "ecg-missing-leads", prior = "{0}", seeds = {1} }},
]
samplers = [{{ spec = "zero" }}, {{ spec = "ridge" }}]
"""


class KnowsTheTruth(nn.Module):
    """Logits 5 and -5 by the diagnosis of the patient whose chest leads it sees; all the same where they are zero."""

    def __init__(self, seeds, prior):
        super().__init__()
        self.kind = EcgProblem(operator="ecg-missing-leads", prior=prior)
        self.chest = torch.stack([self.kind.window_mv(seed)[3:, :250] for seed in seeds])
        labels = [self.kind.labels(seed, "diagnoses") for seed in seeds]
        self.logits = torch.stack([10.0 * answer.float() - 5 for answer in labels if answer is not None])

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cdist(x[:, 6:].flatten(1), self.chest.flatten(1)).argmin(1)
        seen = x[:, 6:].abs().flatten(1).amax(1) > 0
        return torch.where(seen[:, None], self.logits[found], 0.0)


@pytest.fixture(scope="module")
def classifier(ecg_prior):
    spec = EcgClassifierSpec(
        network=XResNet1dConfig(), classes=tuple(DIAGNOSES), targets="diagnoses", ecg=EcgFormat(), length=250
    )
    seeds = [*range(20), *range(900_000, 900_200)]
    return EcgClassifier(spec, KnowsTheTruth(seeds, str(ecg_prior)))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def hearts(tmp_path, ecg_prior):
    path = tmp_path / "hearts.toml"
    path.write_text(STUDY.format(ecg_prior, list(range(20))))
    study = load_study(path)
    store = Store.create(tmp_path / "out", study.plain, [])
    run_units(study, store, list(study.units))
    return study, store


def test_true_windows_have_the_best_accuracy_and_flat_chest_leads_that_of_a_guess(hearts, classifier):
    rows = diagnose(*hearts, classifier)
    assert [(row.diagnosis, row.sampler) for row in rows][:3] == [("RBBB", TRUTH), ("RBBB", "zero"), ("RBBB", "ridge")]
    assert len(rows) == 4 * 3
    for row in rows:
        assert (row.problem, row.records, row.positive) == ("lead I", 20, 4)  # one patient in five of each condition
        if row.sampler == TRUTH:
            assert (row.balanced_accuracy, row.low, row.high, row.auc) == (1, 1, 1, 1)
        if row.sampler == "zero":
            assert (row.balanced_accuracy, row.auc) == (0.5, 0.5)


def test_a_diagnosis_that_no_record_has_is_not_judged(hearts, classifier, tmp_path):
    _, store = hearts
    normal = [seed for seed in range(20) if list(CONDITIONS)[seed % 5] == "NORM"]
    few = load_study(tmp_path / "hearts.toml", [("problems.seeds", normal)])
    rows = diagnose(few, store, classifier)
    assert all(row.balanced_accuracy is None and (row.records, row.positive) == (4, 0) for row in rows)


def test_what_has_no_draws_labels_or_the_wrong_form_is_refused(hearts, classifier, tmp_path):
    study, store = hearts
    empty = Store.create(tmp_path / "empty", study.plain, [])
    with pytest.raises(DataError, match="no stored draws"):
        diagnose(study, empty, classifier)
    others = EcgClassifierSpec(
        network=XResNet1dConfig(classes=5), classes=tuple("abcde"), targets="superclasses", ecg=EcgFormat()
    )
    with pytest.raises(DataError, match="superclasses are known"):  # which are not simulated
        diagnose(study, store, EcgClassifier(others, classifier.network))
    slow = EcgClassifierSpec(
        network=XResNet1dConfig(), classes=tuple(DIAGNOSES), targets="diagnoses", ecg=EcgFormat(high_pass_hz=0.0)
    )
    with pytest.raises(ConfigError, match="high-pass"):
        diagnose(study, store, EcgClassifier(slow, classifier.network))
