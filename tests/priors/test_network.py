"""Networks as denoisers: the four predictions, schedules, precision; priors as files."""

import hashlib
import json

import pytest
import torch
from torch import nn

from midguide.diffusion.kernels import eps_from_x0
from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow, make_schedule
from midguide.errors import CheckpointError, ConfigError, ShapeError
from midguide.exact.problems import random_gaussian
from midguide.inference.loop import sample
from midguide.nn.unet import UNet, UNetConfig
from midguide.operators import Matrix
from midguide.priors import cards
from midguide.priors.cards import shipped
from midguide.priors.formats.native import save_prior
from midguide.priors.latent import LatentPrior
from midguide.priors.loading import load_prior
from midguide.priors.network import NetworkDenoiser
from midguide.priors.settings import PriorSettings
from midguide.problem import Problem
from midguide.samplers.mgps import MGPS
from midguide.storage.record import describe
from midguide.testing import check_denoiser

TINY = UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,), patch=2)


def tiny_network(seed: int = 0) -> UNet:
    generator = torch.Generator().manual_seed(seed)
    network = UNet(TINY)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


def as_prediction(exact, schedule, kind):
    """The exact denoiser dressed up as a network that predicts something else, told the network's label."""
    times = {schedule.label(t): t for t in schedule.times(20)}

    def network(x, label):
        t = times[min(times, key=lambda known: abs(known - float(label[0])))]
        level, x0 = schedule.level(t), exact(x, t)
        eps = eps_from_x0(x, x0, level)
        predictions = {"eps": eps, "x0": x0, "v": level.alpha * eps - level.sigma * x0, "flow": eps - x0}
        return predictions[kind]

    return NetworkDenoiser(network, schedule, kind, exact.event_shape, value_range=None)


@pytest.mark.parametrize("schedule", [DiscreteVP.linear(), DiscreteVP.cosine(), EDM(), RectifiedFlow()], ids=repr)
@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow"])
def test_every_prediction_of_one_model_is_the_same_denoiser(kind, schedule):
    exact = random_gaussian(4, 0, dtype=torch.float64)
    exact.schedule = schedule
    wrapped = as_prediction(exact, schedule, kind)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    for t in schedule.times(20):
        scale = schedule.level(t).ratio + 1  # x0 from eps divides rounding by alpha / sigma
        assert torch.allclose(wrapped(x, t), exact(x, t), rtol=0, atol=1e-12 * scale)


def test_predictions_give_the_same_posterior_samples():
    exact = random_gaussian(4, 0, dtype=torch.float64)
    operator = Matrix.create(torch.eye(4, dtype=torch.float64)[:2], (4,))
    truth, rule = exact.sample(1), StepRule(default=2)
    sampler = MGPS(steps=20, midpoint=1.0, warm_start=None, gradient_steps=rule)  # at times that the wrapping knows
    draws = []
    for kind in ("eps", "v", "x0", "flow"):
        denoiser = as_prediction(exact, exact.schedule, kind)
        problem = Problem.simulate(denoiser, operator, truth, sigma_y=0.1)
        draws.append(sample(sampler, problem, 2).draws)
    for other in draws[1:]:
        assert torch.allclose(other, draws[0], rtol=0, atol=1e-8)


def test_network_denoisers_satisfy_the_contract_and_freeze_their_network():
    network = tiny_network()
    denoiser = NetworkDenoiser(network, DiscreteVP.linear(), "v", (3, 16, 16), channels_last=True, dtype=torch.float32)
    check_denoiser(denoiser)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_bfloat16_network_keeps_the_state_in_float32_and_errs_by_its_rounding():
    """bfloat16 has 8 bits: a relative error of 2^-8 in v, of size one, some layers deep."""
    x = torch.linspace(-1, 1, 2 * 768).reshape(2, 3, 16, 16)
    full = NetworkDenoiser(tiny_network(), DiscreteVP.linear(), "v", (3, 16, 16))(x, 400)
    half = NetworkDenoiser(tiny_network(), DiscreteVP.linear(), "v", (3, 16, 16), dtype=torch.bfloat16)(x, 400)
    assert half.dtype == torch.float32
    assert float((half - full).norm() / full.norm()) < 0.05


def test_learned_variance_is_dropped_or_kept_where_declared_and_refused_where_not():
    def network(x, label):
        return torch.cat([x, 7 * x], dim=1)

    kept = NetworkDenoiser(network, DiscreteVP.linear(), "x0", (3, 4, 4), learned_variance=True)
    x = torch.ones(1, 3, 4, 4)
    assert torch.equal(kept(x, 10), x)
    assert torch.equal(kept.with_variance(x, 10)[1], 7 * x)
    with pytest.raises(ShapeError, match="learned_variance"):
        NetworkDenoiser(network, DiscreteVP.linear(), "x0", (3, 4, 4))(x, 10)
    with pytest.raises(ConfigError, match="no learned variance"):
        NetworkDenoiser(network, DiscreteVP.linear(), "x0", (3, 4, 4)).with_variance(x, 10)


def test_the_network_is_told_its_own_index_or_what_the_user_says():
    seen = []

    def network(x, label):
        seen.append(label.tolist())
        return x

    x = torch.zeros(2, 3, 4, 4)
    NetworkDenoiser(network, DiscreteVP.linear(), "eps", (3, 4, 4))(x, 1)
    NetworkDenoiser(network, DiscreteVP.linear(), "eps", (3, 4, 4), label=lambda t: t / 1000)(x, 500)
    NetworkDenoiser(network, EDM(), "x0", (3, 4, 4))(x, 1.0)
    assert seen == [[0.0, 0.0], [0.5, 0.5], pytest.approx([80.0, 80.0])]


class Table(nn.Module):
    """A network that looks its label up, as embeddings do: it takes integers only, and images of even size."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 3)

    def forward(self, x, t):
        return x.unflatten(3, (-1, 2)).flatten(3) + self.table(t)[:, :, None, None]


def test_labels_are_integers_where_the_user_says_so():
    network, x = Table(), torch.zeros(2, 3, 4, 4)
    prior = NetworkDenoiser(network, DiscreteVP.linear(), "x0", (3, 4, 4), label=lambda t: int(t) - 1)
    assert torch.equal(prior(x, 500)[:, :, 0, 0], network.table.weight[499].expand(2, 3))
    check_denoiser(prior)


def test_a_network_that_fails_is_one_line_with_what_it_was_given_and_a_hint():
    with pytest.raises(ConfigError, match="the network mine fails on x of shape") as caught:
        NetworkDenoiser(Table(), DiscreteVP.linear(), "x0", (3, 4, 4), name="mine")(torch.zeros(2, 3, 4, 4), 500)
    assert "(2, 3, 4, 4), float32 and labels of float32: Expected tensor" in caught.value.message
    assert "label=lambda t: int(t) - 1" in caught.value.hint
    odd = NetworkDenoiser(Table(), DiscreteVP.linear(), "x0", (3, 4, 5), label=lambda t: int(t) - 1)
    with pytest.raises(ConfigError, match="can it take this event_shape") as caught:
        odd(torch.zeros(2, 3, 4, 5), 500)
    assert "\n" not in caught.value.message
    one = NetworkDenoiser(lambda x: x, DiscreteVP.linear(), "x0", (3, 4, 4))
    with pytest.raises(ConfigError, match="takes 1 positional argument"):
        one(torch.zeros(2, 3, 4, 4), 500)


def test_memory_that_is_full_is_not_explained_away():
    def full(x, t):
        raise torch.OutOfMemoryError("17 GiB more")

    with pytest.raises(torch.OutOfMemoryError):
        NetworkDenoiser(full, DiscreteVP.linear(), "x0", (3, 4, 4))(torch.zeros(2, 3, 4, 4), 500)


def test_wrong_conventions_are_refused():
    with pytest.raises(ConfigError, match="unknown prediction `noise`"):
        NetworkDenoiser(lambda x, t: x, DiscreteVP.linear(), "noise", (3, 4, 4))
    with pytest.raises(ShapeError, match="takes samples of shape"):
        NetworkDenoiser(lambda x, t: x, DiscreteVP.linear(), "eps", (3, 4, 4))(torch.zeros(1, 3, 8, 8), 10)


def test_a_file_states_betas_of_its_own(tmp_path):
    named = "vp-scaled-linear:0.00085,0.012"
    spec = PriorSettings(network=TINY, event_shape=(3, 16, 16), schedule=named)
    save_prior(tmp_path / "own.safetensors", tiny_network().state_dict(), spec)
    prior = load_prior(tmp_path / "own.safetensors")
    assert prior.schedule == DiscreteVP.scaled_linear(1000, 0.00085, 0.012)
    assert prior.record()["schedule"] == describe(make_schedule(named))
    for change in ({"schedule": "vp-linear:3,4"}, {"prediction": "noise"}):
        with pytest.raises(ConfigError, match="`3,4` are not settings|unknown prediction `noise`"):
            PriorSettings(network=TINY, event_shape=(3, 16, 16), **change)


@pytest.fixture
def prior_file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_prior(path, tiny_network().state_dict(), PriorSettings(network=TINY, event_shape=(3, 16, 16)))
    return path


def test_a_prior_file_gives_back_the_network_without_touching_the_global_random_state(prior_file):
    before = torch.get_rng_state()
    loaded = load_prior(prior_file)
    assert torch.equal(torch.get_rng_state(), before)
    rounded = tiny_network().to(torch.bfloat16).float()
    x = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
    want = NetworkDenoiser(rounded, DiscreteVP.linear(), "v", (3, 16, 16))(x, 300)
    assert torch.allclose(loaded(x, 300), want, atol=1e-5)
    assert loaded.record()["sha256"] == hashlib.sha256(prior_file.read_bytes()).hexdigest()


def test_damaged_foreign_and_executable_files_are_refused(prior_file, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(prior_file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_prior(tmp_path / "cut.safetensors")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(CheckpointError, match="not a prior that can be read"):
        load_prior(tmp_path / "notes.txt")
    other = PriorSettings(
        network=UNetConfig(channels=64, multipliers=(1,), blocks=1, attention=()), event_shape=(3, 16, 16)
    )
    save_prior(tmp_path / "other.safetensors", tiny_network().state_dict(), other)
    with pytest.raises(CheckpointError, match="do not fit their network"):
        load_prior(tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="no prior and no file"):
        load_prior("nowhere")


def test_a_shipped_prior_that_is_not_the_one_of_its_card_is_refused(prior_file, tmp_path, monkeypatch):
    card = {"name": "tiny", "sha256": "0" * 64}
    (tmp_path / "tiny.json").write_text(json.dumps(card))
    monkeypatch.setattr(cards, "folders", lambda: [tmp_path])
    assert list(shipped()) == ["tiny"]
    with pytest.raises(CheckpointError, match="sha256"):
        load_prior("tiny")


def test_shipped_priors_load_and_those_of_the_core_are_small():
    assert "faces-64" in shipped()
    for name, card in shipped().items():
        most = 40_000_000 if name in cards.APART else 8_000_000
        denoiser = load_prior(name)
        assert denoiser.event_shape == card.event_shape
        body = denoiser.denoiser if isinstance(denoiser, LatentPrior) else denoiser
        assert sum(p.numel() for p in body.network.parameters()) == card.parameters <= most  # pyright: ignore
        check_denoiser(denoiser)


def test_the_shipped_prior_denoises_an_unseen_portrait():
    """Relative error of D on the demo portrait: a tenth of the variance at noise of the size of the image's spread."""
    from midguide.data.examples import portrait

    denoiser, x0 = load_prior("faces-64"), portrait(64)
    t = denoiser.schedule.time_at(0.5)
    level = denoiser.schedule.level(t)
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    error = (denoiser(level.alpha * x0 + level.sigma * z, t) - x0).square().mean() / x0.var()
    assert float(error) < 0.15


@pytest.mark.parametrize("t", [20, 300, 900])
def test_bfloat16_changes_the_shipped_prior_by_no_more_than_documented(t):
    """docs/image-studies.md: 0.0043 root mean square, here with 15 % of slack for other processors' arithmetic."""
    from midguide.data.examples import portrait

    exact, rounded = load_prior("faces-64"), load_prior("faces-64", dtype=torch.bfloat16)
    level = exact.schedule.level(t)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x_t = level.alpha * portrait(64) + level.sigma * noise
    gap = (exact(x_t, t) - rounded(x_t, t)).square().mean().sqrt()
    assert 1e-4 < float(gap) < 0.005
