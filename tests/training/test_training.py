"""The training loop: what it learns, that it resumes, that it draws noise levels where it says."""

import json

import pytest
import torch

from midguide.denoisers.loading import load_prior
from midguide.errors import CheckpointError, ConfigError, DataError
from midguide.nn.unet import UNetConfig
from midguide.schedules import DiscreteVP
from midguide.training.config import CardConfig, TrainingConfig, load_training_config
from midguide.training.denoiser import TARGETS, LevelSampler, train
from midguide.training.report import Origin, denoising_curve, export_prior
from midguide.training.sources import Images

NETWORK = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=2)


def recipe(**changes):
    settings = {"steps": 60, "batch": 16, "warmup": 5, "learning_rate": 2e-3, "checkpoint_every": 20, "bfloat16": False}
    return TrainingConfig(network=NETWORK, **{**settings, **changes})


def ramps(count=64):
    """Images that are linear in x, from dark to bright or back, with a random offset."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.linspace(-90, 90, 8) * torch.sign(torch.randn(count, 1, 1, 1, generator=generator))
    offset = 20 * torch.randn(count, 3, 1, 1, generator=generator)
    return (127 + slope + offset).clamp(0, 255).expand(count, 3, 8, 8).to(torch.uint8)


def test_training_lowers_the_held_out_error_and_its_card_says_so(tmp_path):
    """Sixty steps, at the noise levels that most draws fall on."""
    images, curves = ramps(), []
    for steps in (1, 60):
        config = recipe(steps=steps)
        network = train(config, Images(images), tmp_path / str(steps))
        origin = Origin(command="none", log=[])
        path, card = export_prior(config, network, Images(ramps(16)), tmp_path / str(steps), origin=origin)
        stored = json.loads(card.read_text())
        assert stored["parameters"] == sum(p.numel() for p in network.parameters())
        assert stored["denoising_curve"] == denoising_curve(load_prior(path), ramps(16).float() / 127.5 - 1)
        curves.append([row["relative_error"] for row in stored["denoising_curve"] if 100 <= row["time"] <= 500])
    assert all(after < 0.8 * before for before, after in zip(*curves, strict=True))


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    config, images = recipe(steps=40), ramps()

    def stop(step, loss):
        if step == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, Images(images), tmp_path / "a", on_step=stop)
    resumed, straight = train(config, Images(images), tmp_path / "a"), train(config, Images(images), tmp_path / "b")
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tmp_path, monkeypatch):
    train(recipe(steps=20), Images(ramps()), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        train(recipe(steps=40), Images(ramps()), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    train(recipe(steps=2), Images(ramps()), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train(recipe(steps=2), Images(ramps()), tmp_path)
    wider = TrainingConfig(network=UNetConfig(channels=64, multipliers=(1,), blocks=1, attention=(), patch=2), steps=4)
    with pytest.raises(CheckpointError, match="does not fit this training"):
        train(wider, Images(ramps()), tmp_path)


def test_noise_levels_follow_their_density():
    """Share of draws below sigma/alpha = 1: 100,000 stratified draws err by less than 1e-3."""
    config = TrainingConfig(uniform_levels=0.0, level_mean=0.0, level_std=1.0)
    levels = LevelSampler(DiscreteVP.linear(), config)
    index, alpha, sigma = levels.draw(100_000, torch.Generator().manual_seed(0))
    assert float((sigma < alpha).float().mean()) == pytest.approx(0.5, abs=0.01)  # grid of levels: 1 %
    assert int(index.min()) >= 0
    assert int(index.max()) <= 999


def test_targets_are_consistent_with_the_noisy_image():
    x0, z = torch.randn(2, 3), torch.randn(2, 3)
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    x_t = alpha * x0 + sigma * z
    v = TARGETS["v"](x0, z, alpha, sigma)
    assert torch.allclose(alpha * x_t - sigma * v, x0, atol=1e-6)
    assert torch.equal(TARGETS["eps"](x0, z, alpha, sigma), z)
    assert torch.equal(TARGETS["x0"](x0, z, alpha, sigma), x0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepz = 4", "stepz"),
        ("steps = 'many'", "steps"),
        ("[network]\nchannelz = 3", "network.channelz"),
        ("steps =", "cannot read"),
        ("steps = 0", "positive"),
        ("prediction = 'noise'", "eps, v or x0"),
        ("[network]\nchannels = 33", "32 groups"),
    ],
)
def test_wrong_recipes_are_refused_by_name(tmp_path, text, says):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_training_config(tmp_path / "recipe.toml")


def test_the_shipped_recipe_is_readable():
    from importlib import resources

    path = resources.files("midguide") / "priors" / "faces-64.toml"
    assert load_training_config(str(path)).card != CardConfig()
