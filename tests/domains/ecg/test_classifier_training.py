"""Training a classifier of electrocardiograms: it learns, goes on where it stopped, and says how good it is."""

import json

import pytest
import torch

from midguide.domains.ecg.classifier import load_ecg_classifier
from midguide.domains.ecg.classifier_training import Recordings, export_classifier, train_classifier
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.ptbxl import DIAGNOSES
from midguide.domains.ecg.recipes import EcgClassifierTrainingConfig
from midguide.domains.ecg.recordings import nine_leads
from midguide.domains.ecg.simulator import CONDITIONS, simulate
from midguide.domains.ecg.xresnet1d import XResNet1d, XResNet1dConfig
from midguide.errors import ConfigError
from midguide.priors.cards import recipe
from midguide.training.base import Run, load_recipe
from midguide.training.report import Origin

SMALL = EcgClassifierTrainingConfig(
    name="small",
    network=XResNet1dConfig(blocks=(1, 1), width=8, expansion=2, hidden=16),
    steps=100,
    batch=24,
    warmup=5,
    learning_rate=1e-2,
    ema=0.0,
    flip=False,
    bfloat16=False,
    checkpoint_every=40,
)


@pytest.fixture(scope="module")
def patients():
    """60 simulated patients, an equal number of each condition, of 5 s."""

    def some(numbers):
        names = [list(CONDITIONS)[i % 5] for i in numbers]
        nine = [
            nine_leads(simulate(i, name, seconds=5.0, rate_hz=100.0), EcgFormat())
            for i, name in zip(numbers, names, strict=True)
        ]
        return Recordings(torch.stack(nine).float(), torch.tensor([[d == name for d in DIAGNOSES] for name in names]))

    return some(range(60)), some(range(100, 130))


def test_small_classifier_learns_simulated_conditions_and_says_so(patients, tmp_path):
    trained, held_out = patients
    network = train_classifier(SMALL, trained, Run(tmp_path))
    path, card = export_classifier(SMALL, network, trained, held_out, tmp_path, origin=Origin(command="x", log=[]))
    told = json.loads(card.read_text())["held_out"]
    assert [row["class"] for row in told] == list(DIAGNOSES)
    assert all((row["records"], row["positive"]) == (30, 6) for row in told)
    # Of simulated patients these are easy; a network that has learned nothing has 0.5 +- 0.13.
    assert sum(row["auc"] for row in told) / 4 > 0.9
    stored = load_ecg_classifier(path)
    assert stored.spec.thresholds == tuple(row["threshold"] for row in told)
    called = stored.probabilities(held_out.twelve()) > torch.tensor(stored.spec.thresholds)
    right = (called == held_out.labels).float().mean()
    assert float(right) > 0.85


def test_interrupted_training_gives_the_weights_of_one_that_was_not(patients, tmp_path):
    def stop(step, total, loss):
        if step == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(SMALL, patients[0], Run(tmp_path / "twice", on_step=stop))
    torch.rand(7)  # dropout must not depend on what the process drew before
    again = train_classifier(SMALL, patients[0], Run(tmp_path / "twice")).state_dict()
    once = train_classifier(SMALL, patients[0], Run(tmp_path / "once")).state_dict()
    assert all(torch.equal(again[name], value) for name, value in once.items())


@pytest.mark.parametrize(("name", "classes"), [("ecg-diagnoses", 4), ("ecg-superclasses", 5)])
def test_recipes_are_of_the_published_network(name, classes):
    path = recipe(name)
    assert path is not None
    config = load_recipe(path)
    assert isinstance(config, EcgClassifierTrainingConfig)
    assert config.network == XResNet1dConfig()
    assert len(load_recipe(path).card.license) > 5
    from midguide.domains.ecg.classifier_training import Classifying

    network = Classifying(config).build()
    assert isinstance(network, XResNet1d)
    assert network.config.classes == classes


def test_mirrored_electrocardiograms_are_refused():
    with pytest.raises(ConfigError, match="flip"):
        EcgClassifierTrainingConfig(flip=True)
