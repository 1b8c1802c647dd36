"""Training of the feature network: changes of known kinds, and a network that learns to name them."""

import json

import pytest
import torch

from midguide.metrics.features import classifier_features
from midguide.training.changes import ANGLES, CHANGES, changed, rotated
from midguide.training.config import CardConfig
from midguide.training.features import FeatureTraining, accuracies, export_features, question, train_features


def pictures(count=64, side=32):
    """Bright above, dark below, with a random offset: which way is up can be seen."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(90, -90, side)[:, None].expand(side, side)
    offset = 20 * torch.randn(count, 3, 1, 1, generator=generator)
    return (127 + slope + offset).clamp(0, 255).to(torch.uint8)


def generator():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "none"])
def test_every_change_changes_its_images_only(name):
    x = pictures(6).float() / 127.5 - 1
    kinds = torch.tensor([0, 1, 0, 1, 1, 0]) * list(CHANGES).index(name)
    out = changed(x, kinds, generator())
    touched = (out != x).flatten(1).any(1)
    assert touched.tolist() == [False, True, False, True, True, False]
    assert bool(torch.isfinite(out).all())


def test_no_change_is_none():
    x = pictures(3).float()
    assert torch.equal(changed(x, torch.zeros(3, dtype=torch.long), generator()), x)


def test_four_quarter_turns_are_none():
    x, turns = pictures(4).float(), torch.arange(ANGLES)
    assert torch.equal(rotated(rotated(x, turns), (ANGLES - turns) % ANGLES), x)


def test_questions_depend_on_their_generator_only():
    first, second = (question(pictures(8), generator()) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1][1], second[1][1])


def test_training_learns_which_way_is_up_and_its_card_says_so(tmp_path):
    """Chance is 1/4; of 64 images that is exceeded by 0.25 once in a hundred thousand."""
    config = FeatureTraining(name="test", channels=8, steps=60, batch=16, bfloat16=False)
    losses = []
    network = train_features(config, pictures(), on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == 60
    path, card_path = export_features(config, network, pictures(), tmp_path, card=CardConfig(), command="none")
    card = json.loads(card_path.read_text())
    assert card["held_out_accuracy"]["angle"] > 0.5
    features = classifier_features(str(path))
    assert features.files == {"test.safetensors": card["sha256"]}
    assert features(pictures(2).float() / 127.5 - 1).shape == (2, 32)


def test_training_is_repeatable():
    config = FeatureTraining(name="test", channels=8, steps=3, batch=8)
    first, second = (train_features(config, pictures(16)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(accuracies(train_features(config, pictures(16)), pictures(8))) == {"angle", "change", *CHANGES}
