"""The training loop: what it learns, that it resumes, that it draws noise levels where it says."""

import json

import pytest
import torch

from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import CheckpointError, ConfigError, DataError, NumericalError, ShapeError
from midguide.nn.base import BODIES, check_fits
from midguide.nn.s4d import DYNAMICS
from midguide.nn.sashimi import Sashimi, SashimiConfig
from midguide.nn.unet import UNetConfig
from midguide.priors.formats.native import DEFAULTS, from_metadata, to_metadata
from midguide.priors.loading import load_prior, prior_spec
from midguide.priors.settings import PriorSettings
from midguide.signals.base import Axis, Signal
from midguide.testing import check_denoiser
from midguide.training.base import RECIPES, Run, load_recipe
from midguide.training.config import CardConfig, TrainingConfig
from midguide.training.denoiser import TARGETS, Denoising, LevelSampler, train
from midguide.training.jobs import remarks
from midguide.training.loop import _groups, fit
from midguide.training.report import Origin, denoising_curve, export_prior
from midguide.training.sources import Images, Signals, scaled

ORIGIN = Origin(command="none", log=[])
NETWORK = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=2)


def recipe(**changes):
    settings = {"steps": 60, "batch": 16, "warmup": 5, "learning_rate": 2e-3, "checkpoint_every": 20, "bfloat16": False}
    return TrainingConfig(**{"network": NETWORK, **settings, **changes})


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
        network = train(config, Images(images), Run(tmp_path / str(steps)))
        path, card = export_prior(config, network, Images(ramps(16)), tmp_path / str(steps), origin=ORIGIN)
        stored = json.loads(card.read_text())
        assert stored["parameters"] == sum(p.numel() for p in network.parameters())
        assert stored["denoising_curve"] == denoising_curve(load_prior(path), ramps(16).float() / 127.5 - 1)
        curves.append([row["relative_error"] for row in stored["denoising_curve"] if 100 <= row["time"] <= 500])
    assert all(after < 0.8 * before for before, after in zip(*curves, strict=True))


def test_card_of_a_trained_prior_says_what_its_signals_look_like_if_enough_are_held_out(tmp_path):
    config = recipe(steps=1)
    network = train(config, Images(ramps()), Run(tmp_path / "run"))
    for count, told in ((16, False), (64, True)):
        path, card = export_prior(config, network, Images(ramps(count)), tmp_path / str(count), origin=ORIGIN)
        known = load_prior(path).statistics
        assert (known is not None) == told
        assert known is None or (known.count, known.source) == (64, "64 held-out signals")
        card.write_text(card.read_text().replace(json.loads(card.read_text())["sha256"], "0" * 64))
        assert load_prior(path).statistics is None  # the card of another file


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    config, images = recipe(steps=40), ramps()

    def stop(step, total, loss):
        if step == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, Images(images), Run(tmp_path / "a", on_step=stop))
    resumed, straight = (
        train(config, Images(images), Run(tmp_path / "a")),
        train(config, Images(images), Run(tmp_path / "b")),
    )
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tmp_path, monkeypatch):
    train(recipe(steps=20), Images(ramps()), Run(tmp_path))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        train(recipe(steps=40), Images(ramps()), Run(tmp_path))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    train(recipe(steps=2), Images(ramps()), Run(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network": UNetConfig(channels=64, multipliers=(1,), blocks=1, attention=(), patch=2)}, "`network` = "),
        ({"learning_rate": 1e-3}, "`learning_rate` = 0.002, this recipe has 0.001"),
        ({"seed": 1}, "`seed` = 0"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused_by_setting(tmp_path, changes, says):
    train(recipe(steps=2), Images(ramps()), Run(tmp_path))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(CheckpointError, match=says):
        train(recipe(steps=4, **changes), Images(ramps()), Run(tmp_path))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_of_other_data_or_another_start_is_refused_and_more_steps_are_not(tmp_path):
    network = train(recipe(steps=2), Images(ramps()), Run(tmp_path))
    with pytest.raises(CheckpointError, match="other data"):
        train(recipe(steps=4), Images(ramps().flip(0)), Run(tmp_path))
    with pytest.raises(CheckpointError, match="other weights to start from"):
        train(recipe(steps=4), Images(ramps()), Run(tmp_path, weights=network.state_dict()))
    train(recipe(steps=4), Images(ramps()), Run(tmp_path))
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_training_starts_from_given_weights(tmp_path):
    first = train(recipe(steps=2), Images(ramps()), Run(tmp_path / "a"))
    again = train(
        recipe(steps=1, learning_rate=1e-12, weight_decay=0.0),
        Images(ramps()),
        Run(tmp_path / "b", weights=first.state_dict()),
    )
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=1e-9)


def test_a_loss_that_is_not_finite_stops_the_training_and_the_last_good_checkpoint_stays(tmp_path):
    class Poisoned(Images):
        draws = 0

        def draw(self, count, generator):
            Poisoned.draws += 1
            batch = super().draw(count, generator)
            return batch if Poisoned.draws <= 7 else batch * float("nan")

    with pytest.raises(NumericalError, match=r"not finite at step 8; .*checkpoint.pt is of step 6"):
        train(recipe(steps=20, checkpoint_every=3), Poisoned(ramps()), Run(tmp_path))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 6
    assert all(bool(value.isfinite().all()) for value in saved["network"].values())


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path):
    """One step of plain averages over parts: weights agree with those of a step on both parts at once."""

    class Fixed:
        """The same four images in the same order, whole or in halves."""

        calls = 0

        def draw(self, count, generator):
            start = (Fixed.calls * count) % 4
            Fixed.calls += 1
            return scaled(ramps()[start : start + count])

    class Exact(Denoising):
        def loss(self, network, clean, generator):
            return (network(clean, torch.full((len(clean),), 500.0)) - clean).square().mean()

    def weights(**changes):
        Fixed.calls = 0
        config = recipe(steps=1, batch=4, warmup=1, **changes)
        return fit(Exact(config), Fixed(), Run(tmp_path / str(changes))).state_dict()

    whole, parts = weights(), weights(accumulate=2)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


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
        ("[network]\nchannelz = 3", "unet has no setting `channelz`"),
        ("steps =", "cannot be read"),
        ("steps = 0", "positive"),
        ("cooldown = 1.5", "cooldown is 1.5"),
        ("more_emas = [1.0]", "more_emas"),
        ("batch = 5\naccumulate = 2", "no 2 equal parts"),
        ("prediction = 'noise'", "eps, v or x0"),
        ("[network]\nchannels = 33", "32 groups"),
        ("body = 'resnet'", "unknown body `resnet`\nhint: .*adm, mlp, sashimi, unet"),
        ("body = 'sashimi'\n[network]\npatch = 4", "sashimi has no setting `patch`"),
        ("body = 'adm'", "takes 3 channels and returns 6"),
        ("kind = 'autoencoder'\nbody = 'unet'", "body"),
        ("kind = 'prior-of-mine'", "unknown kind of recipe `prior-of-mine`"),
    ],
)
def test_wrong_recipes_are_refused_by_name(tmp_path, text, says):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_recipe(tmp_path / "recipe.toml")


def test_the_shipped_recipe_is_readable():
    from importlib import resources

    path = resources.files("midguide") / "priors" / "shipped" / "faces-64.toml"
    assert load_recipe(str(path)).card != CardConfig()


def test_all_recipes_are_readable_and_sizes_grow():
    from midguide.priors.cards import folders

    names = {path.stem for folder in folders() for path in folder.glob("*.toml")}
    assert {load_recipe(name).name for name in names} == names
    for sizes in (
        ("images-64-s", "images-64-m", "images-64-l"),
        ("ecg-256-s", "ecg-256", "ecg-256-l"),
        ("ecg-1024", "ecg-1024-l"),
    ):
        with torch.device("meta"):
            networks = [load_recipe(name).network.build() for name in sizes]
        counts = [sum(value.numel() for value in network.parameters()) for network in networks]
        assert counts == sorted(counts)


def test_gray_and_badly_exposed_images_are_remarked():
    pixels = torch.randint(256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert remarks(pixels) == []
    pixels[2], pixels[3] = pixels[2, :1], pixels[3] // 5
    gray, narrow = remarks(pixels)
    assert gray == "1 of 5 images are gray, the others colored; the first is number 3"
    assert narrow.startswith(
        "1 of 5 images use less than a quarter of the range from black to white; the first is number 4"
    )


WAVES = {
    "network": SashimiConfig(in_channels=9, out_channels=9, channels=8, blocks=1, pools=(2,), states=8, embedding=16)
}
SIGNAL = Signal(unit="mV", unit_size=0.25, axes=(Axis(name="channel"), Axis(name="time", unit="s", rate=100.0)))


def waves(count=32, samples=50):
    """A source of nine channels that are multiples of one sine of random phase."""
    phase = 6.3 * torch.rand(count, 1, 1, generator=torch.Generator().manual_seed(0))
    return Signals(torch.sin(0.4 * torch.arange(samples) + phase) * torch.linspace(-1, 1, 9)[:, None], length=32)


def test_windows_are_parts_of_recordings_and_short_recordings_end_with_zeros():
    generator = torch.Generator().manual_seed(0)
    source = Signals(torch.arange(40.0).reshape(2, 1, 20), length=5)
    starts = source.draw(400, generator)[:, 0, 0]
    assert torch.equal(source.draw(8, generator)[:, 0].diff(), torch.ones(8, 4))
    assert {int(value) for value in starts} == {*range(16), *range(20, 36)}  # one is missed for one seed in 1e4
    assert torch.equal(source.events()[:, 0, 0], torch.tensor([7.0, 27.0]))
    short = Signals(torch.ones(1, 2, 3), length=5)
    assert torch.equal(short.draw(1, generator), torch.tensor([[[1.0, 1, 1, 0, 0], [1, 1, 1, 0, 0]]]))


def test_training_on_signals_lowers_the_held_out_error_and_the_file_knows_what_they_are(tmp_path):
    curves = []
    for steps in (1, 120):
        config = TrainingConfig(steps=steps, batch=16, warmup=5, learning_rate=1e-2, bfloat16=False, **WAVES)
        network = train(config, waves(), Run(tmp_path / str(steps)))
        path, card = export_prior(config, network, waves(), tmp_path / str(steps), origin=ORIGIN, signal=SIGNAL)
        rows = json.loads(card.read_text())["denoising_curve"]
        curves.append([row["relative_error"] for row in rows if 50 <= row["time"] <= 300])
    assert all(after < 0.8 * before for before, after in zip(*curves, strict=True))
    assert prior_spec(path).signal == SIGNAL
    assert load_prior(path).value_range is None
    check_denoiser(load_prior(path))


def test_storing_a_prior_in_bfloat16_keeps_the_poles(tmp_path):
    """Rounded frequencies would put the responses out of phase; rounded weights change the output by about 2^-9."""
    config = TrainingConfig(steps=20, batch=16, warmup=5, learning_rate=5e-3, bfloat16=False, **WAVES)
    network = train(config, waves(), Run(tmp_path))
    path, _ = export_prior(config, network, waves(), tmp_path, origin=ORIGIN)
    stored = load_prior(path).network.state_dict()
    for name, value in network.state_dict().items():
        same = name.rpartition(".")[2] in DYNAMICS
        assert torch.allclose(stored[name], value, rtol=0 if same else 2**-8, atol=0)
    x, t = waves().events(), torch.full((32,), 200.0)
    with torch.no_grad():
        change = load_prior(path).network(x, t) - network(x, t)
        assert float(change.std() / network(x, t).std()) < 0.02


def test_state_matrices_have_no_weight_decay():
    network = Sashimi(WAVES["network"])
    groups = _groups(network, Denoising(TrainingConfig(**WAVES)))
    free = {id(value) for value in groups[1]["params"]}
    names = {name.rpartition(".")[2] for name, value in network.named_parameters() if id(value) in free}
    assert names == set(DYNAMICS)
    assert groups[1]["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("shape", "says"),
    [((9, 33), "multiples of 2"), ((12, 32), "12 channels"), ((9, 32, 32), "takes multiples of 2")],
)
def test_data_that_the_network_cannot_take_are_refused(shape, says):
    with pytest.raises(ShapeError, match=says):
        check_fits(WAVES["network"], shape)


@pytest.mark.parametrize("name", BODIES)
def test_a_recipe_and_a_file_name_a_body_alike(tmp_path, name):
    channels = 9 if name == "sashimi" else 3
    (tmp_path / "recipe.toml").write_text(
        f"body = '{name}'\n[network]\nin_channels = {channels}\nout_channels = {channels}"
    )
    config = load_recipe(tmp_path / "recipe.toml")
    spec = PriorSettings(network=config.network, event_shape=(channels, 8, 8))
    assert config.body == name
    assert from_metadata(to_metadata(spec)) == DEFAULTS.changed(spec)


def test_kinds_of_recipes_come_from_the_package_and_its_domains():
    assert {"prior", "autoencoder", "ecg-prior"} <= set(RECIPES)
    assert all(entry.summary for entry in RECIPES.values())
