"""What a training needs is measured before it starts, and refused where it is not there."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from midguide.errors import ConfigError
from midguide.nn.unet import UNetConfig
from midguide.training import needs as module
from midguide.training.base import Run
from midguide.training.config import TrainingConfig
from midguide.training.denoiser import train
from midguide.training.glyphs import Glyphs
from midguide.training.needs import Needs, check_memory, check_time, free_memory, measure

NETWORK = UNetConfig(in_channels=1, out_channels=1, channels=32, multipliers=(1,), blocks=1, attention=(), patch=8)
CONFIG = TrainingConfig(network=NETWORK, name="wide", steps=100, batch=12, warmup=2, bfloat16=False)


def test_what_an_event_takes_is_what_its_gradient_needs():
    """`sum relu(W x)^2` of rows of 1,000 float32: the input and, once, the rectified values."""
    network = nn.Linear(1000, 1000, bias=False)
    x = torch.randn(2, 1000)
    found = measure(network, SimpleNamespace(more_emas=()), lambda: network(x).relu().square().sum())
    assert found.event == 2 * 4000
    assert found.fixed == 7 * 4_000_000
    assert all(p.grad is None for p in network.parameters())


def test_too_little_memory_is_refused_with_the_number_of_parts_that_fit():
    needs = Needs(fixed=100 * 2**20, event=100 * 2**20, seconds=1.0)
    with pytest.raises(ConfigError, match="`wide` needs about 1.5 GiB .* 600 MiB are free\nhint: --set accumulate=3"):
        check_memory(needs, CONFIG, 12, 600 * 2**20)
    with pytest.raises(ConfigError, match="take a smaller network"):
        check_memory(needs, CONFIG, 12, 200 * 2**20)
    check_memory(needs, CONFIG, 12, 2 * 2**30)
    check_memory(needs, CONFIG, 12, None)


def test_too_little_time_is_refused_and_the_rest_is_told():
    needs = Needs(fixed=0, event=0, seconds=0.5)
    assert check_time(needs, CONFIG, 12, None) == "a step takes about 6 s, 100 steps about 10 minutes"
    assert check_time(needs, CONFIG, 12, 5.0) == "a step takes about 6 s: about 50 steps in 5 minutes"
    with pytest.raises(ConfigError, match="5 steps in 0.5 minutes"):
        check_time(needs, CONFIG, 12, 0.5)


def test_a_training_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match="1,000 bytes are free"):
        train(CONFIG, Glyphs(), Run(tmp_path, check=True))
    assert not list(tmp_path.iterdir())


def test_the_trial_changes_no_weight(tmp_path):
    said = []
    config = TrainingConfig(**{**vars(CONFIG), "steps": 2, "batch": 2})
    weights = [
        train(config, Glyphs(), Run(tmp_path / f"{check}", check=check, note=said.append)).state_dict()
        for check in (False, True)
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert len(said) == 1


def test_free_memory_of_this_machine_is_known():
    free = free_memory("cpu")
    assert free is None or 2**20 < free < 2**50


def test_the_page_shows_losses_and_samples_and_a_browser_reloads_it(tmp_path):
    from midguide.training.jobs import train_judged

    config = TrainingConfig(**{**vars(CONFIG), "steps": 2, "batch": 2, "checkpoint_every": 1})
    train_judged(config, Glyphs(), Glyphs(size=8).events(), Run(tmp_path))
    page = (tmp_path / "index.html").read_text()
    assert 'http-equiv="refresh"' in page
    assert "step 2" in page
    assert "kernel distance" in page
    assert (tmp_path / "progress.png").stat().st_size > 1000
    assert (tmp_path / "samples.png").stat().st_size > 1000
    quality = json.loads((tmp_path / "quality.jsonl").read_text().splitlines()[0])
    assert quality["features"] == "faces-64-classifier, images resized to 64x64"
    assert quality["kid"] > quality["kid_of_data"]
