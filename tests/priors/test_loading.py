"""One call for every kind of prior: files made on the spot, conventions given by hand, and what is refused."""

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from midguide.cli import main
from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow
from midguide.errors import CheckpointError, ConfigError, ShapeError
from midguide.nn.adm_unet import ADMConfig, ADMUNet
from midguide.priors.formats.edm import EDMPreconditioned
from midguide.priors.formats.guided_diffusion import PUBLIC
from midguide.priors.formats.native import save_prior
from midguide.priors.formats.weights import read_weights
from midguide.priors.loading import load_prior
from midguide.priors.settings import PriorSettings
from midguide.problem import Problem
from midguide.storage.pickles import foreign_imports

SHAPE = (3, 16, 16)
CONFIG = ADMConfig(channels=32, multipliers=(1, 2), attention=(1,), head_channels=16)
X = torch.linspace(-1, 1, 2 * 768).reshape(2, *SHAPE)


def adm(config=CONFIG):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = ADMUNet(config)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    return network.eval()


def eps_to_x0(network, x, t, schedule):
    """`D(x, t)` by hand from an eps network with a learned variance."""
    level = schedule.level(t)
    with torch.no_grad():
        eps = network(x, torch.full((len(x),), float(t - 1)))[:, :3]
    return (x - level.sigma * eps) / level.alpha


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_guided_diffusion_checkpoint_is_an_eps_prior_with_learned_variance(tmp_path, name):
    network = adm()
    save = save_file if name.endswith(".safetensors") else torch.save
    save(network.state_dict(), tmp_path / name)
    prior = load_prior(tmp_path / name, network=CONFIG, event_shape=SHAPE)
    assert (prior.name, prior.prediction, prior.value_range, prior.learned_variance) == ("model", "eps", (-1, 1), True)
    want = eps_to_x0(network, X, 300, DiscreteVP.linear())
    assert torch.allclose(prior(X, 300), want, atol=1e-4)
    assert prior.record()["format"] == "guided-diffusion"


def test_averaged_weights_of_a_training_checkpoint_are_the_ones_used(tmp_path):
    averaged = adm().state_dict()
    others = {name: torch.zeros_like(value) for name, value in averaged.items()}
    torch.save({"model": others, "ema": averaged, "step": 7}, tmp_path / "training.ckpt")
    prior = load_prior(tmp_path / "training.ckpt", network=CONFIG, event_shape=SHAPE)
    assert torch.equal(prior.network.state_dict()["out.2.weight"], averaged["out.2.weight"])
    assert prior.record()["weights"] == "averaged"
    last = load_prior(tmp_path / "training.ckpt", network=CONFIG, event_shape=SHAPE, averaged=False)
    assert torch.equal(last.network.state_dict()["out.2.weight"], others["out.2.weight"])
    assert last.record()["weights"] == "last"
    torch.save({"ema": averaged, "step": torch.tensor(7)}, tmp_path / "only.ckpt")
    only = load_prior(tmp_path / "only.ckpt", network=CONFIG, event_shape=SHAPE)
    assert torch.equal(only.network.state_dict()["out.2.weight"], averaged["out.2.weight"])
    assert "weights" not in only.record()
    with pytest.raises(ConfigError, match="no averaged weights"):
        load_prior(tmp_path / "only.ckpt", network=CONFIG, event_shape=SHAPE, averaged=True)
    with pytest.raises(ConfigError, match="`quantize` does not apply.*\n.*it is for `compvis`"):
        load_prior(tmp_path / "only.ckpt", network=CONFIG, event_shape=SHAPE, quantize=False)


def test_keys_of_data_parallel_training_and_half_precision_are_understood(tmp_path):
    network = adm()
    torch.save({f"module.{k}": v.half() for k, v in network.state_dict().items()}, tmp_path / "dp.pt")
    prior = load_prior(tmp_path / "dp.pt", network=CONFIG, event_shape=SHAPE)
    want = eps_to_x0(network.half().float(), X, 300, DiscreteVP.linear())
    assert torch.allclose(prior(X, 300), want, atol=1e-4)


@pytest.mark.parametrize("config", PUBLIC.values(), ids=PUBLIC)
def test_a_public_checkpoint_is_recognized_by_its_shapes(tmp_path, config):
    """Weights of its shapes, each stored as one number: `torch.save` keeps the strides."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ADMUNet(config).state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, tmp_path / "public.pt")
    prior = load_prior(tmp_path / "public.pt")
    assert prior.event_shape == (3, 256, 256)
    assert prior.network.config == config


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ffhq-256", 93_563_910),
        pytest.param("imagenet-256", 552_814_086, marks=pytest.mark.slow),  # about a minute, 2.2 GB on disk
    ],
)
def test_a_public_model_goes_through_a_file_at_full_size_and_runs(tmp_path, name, parameters):
    with torch.device("meta"):
        network = ADMUNet(PUBLIC[name])
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
    path, first = tmp_path / "public.pt", network.input_blocks[0][0].weight.clone()
    torch.save(network.state_dict(), path)
    assert path.stat().st_size == pytest.approx(4 * parameters, rel=0.002)  # names and places beside the numbers
    del network
    prior = load_prior(path)
    path.unlink()
    assert sum(parameter.numel() for parameter in prior.network.parameters()) == parameters
    assert torch.equal(prior.network.input_blocks[0][0].weight, first)
    x0, variance = prior.with_variance(torch.zeros(1, 3, 256, 256), 500)
    assert x0.shape == variance.shape == (1, 3, 256, 256)
    assert bool(x0.isfinite().all())
    assert float(x0.std()) > 0


def test_a_checkpoint_of_unknown_shape_asks_for_what_it_does_not_show(tmp_path):
    torch.save(adm().state_dict(), tmp_path / "own.pt")
    with pytest.raises(ConfigError, match=r"heads(.|\n)*channels=32, multipliers=\(1, 2\), blocks=1, attention=\(1,\)"):
        load_prior(tmp_path / "own.pt")
    with pytest.raises(ConfigError, match="event_shape"):
        load_prior(tmp_path / "own.pt", network=CONFIG)


def test_the_way_that_its_hint_shows_to_the_command_line_leads_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(adm().state_dict(), "weights.pt")
    words = ["sample", "--n", "1", "--steps", "2", "--out", "out", "--prior"]
    assert main([*words, "weights.pt"]) == 2
    hint = capsys.readouterr().err.splitlines()[1]
    assert "network=ADMConfig(...)" in hint
    assert hint.endswith("on the command line name a function that does: --prior own.py:function")
    Path("own.py").write_text(
        "from midguide import load_prior\n"
        "from midguide.nn.adm_unet import ADMConfig\n"
        f"def function(): return load_prior('weights.pt', network={CONFIG}, event_shape={SHAPE})\n"
    )
    assert main([*words, "own.py:function"]) == 0


def test_a_device_that_is_not_there_is_one_line_that_names_those_that_are(monkeypatch, tmp_path):
    monkeypatch.setenv("MIDGUIDE_CACHE", str(tmp_path))
    for name in ("faces-64", "ffhq-256"):  # of which nothing is downloaded first
        with pytest.raises(ConfigError, match="cannot compute on the device nowhere: .*\nhint: available here: cpu"):
            load_prior(name, device="nowhere")
    for kind in ("cuda", "mps", "xpu"):
        if torch.accelerator.is_available():
            break
        with pytest.raises(ConfigError, match=f"the device {kind}: ") as caught:
            load_prior("faces-64", device=kind)
        assert "\n" not in caught.value.message
        with pytest.raises(ConfigError, match=f"the device {kind}: "):
            Problem.unobserved(load_prior("faces-64")).to(kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "explained"),
    [
        ({"blocks": 2}, "the file shows blocks=1 where the configuration has 2"),
        ({"scale_shift": False}, "scale_shift=True where the configuration has False"),
        ({"residual_resampling": False}, "residual_resampling=True where"),
        ({"attention": ()}, r"attention=\(1,\) where"),
        ({"channels": 64}, "channels=32 where the configuration has 64"),
        ({"classes": 10}, "classes=0 where the configuration has 10"),
        ({"out_channels": 3}, "out_channels=6 where the configuration has 3"),
    ],
    ids=str,
)
def test_wrong_architecture_names_keys_and_the_option_that_explains_them(tmp_path, change, explained):
    torch.save(adm().state_dict(), tmp_path / "own.pt")
    settings = {"class_index": 3} if "classes" in change else {}
    with pytest.raises(CheckpointError, match=explained) as caught:
        load_prior(tmp_path / "own.pt", network=replace(CONFIG, **change), event_shape=SHAPE, **settings)
    assert any(word in caught.value.message for word in ("missing: ", "unexpected: ", "of another shape: "))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 30, 32), "the samples are 30x32, the network takes multiples of 8x8"),
        ((3, 32), "the samples are 32, the network takes multiples of 8x8"),
        ((1, 32, 32), "the samples have 1 channels, the network takes 3"),
    ],
)
def test_samples_that_the_network_cannot_take_are_refused_when_it_is_loaded(tmp_path, shape, says):
    """Three times halved; the same for a bare checkpoint and for a file with a card."""
    config = replace(CONFIG, multipliers=(1, 1, 1, 2), attention=())
    torch.save(adm(config).state_dict(), tmp_path / "own.pt")
    save_prior(tmp_path / "own.safetensors", adm(config).state_dict(), PriorSettings(network=config, event_shape=shape))
    for load in (
        lambda: load_prior(tmp_path / "own.pt", network=config, event_shape=shape),
        lambda: load_prior(tmp_path / "own.safetensors"),
    ):
        with pytest.raises(ShapeError, match=f"^{says}\nhint: change event_shape"):
            load()


def test_weights_of_another_code_are_refused(tmp_path):
    torch.save({"stem.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not those of a guided-diffusion U-Net"):
        load_prior(tmp_path / "other.pt")


def test_class_conditional_network_is_a_prior_of_one_class(tmp_path):
    config = replace(CONFIG, classes=5)
    network = adm(config)
    torch.save(network.state_dict(), tmp_path / "classes.pt")
    priors = [
        load_prior(tmp_path / "classes.pt", network=config, event_shape=SHAPE, class_index=index) for index in (1, 4)
    ]
    with torch.no_grad():
        eps = network(X, torch.full((2,), 299.0), torch.full((2,), 4))[:, :3]
    level = DiscreteVP.linear().level(300)
    assert torch.allclose(priors[1](X, 300), (X - level.sigma * eps) / level.alpha, atol=1e-4)
    assert not torch.allclose(priors[0](X, 300), priors[1](X, 300), atol=1e-2)
    for index, words in ((None, "one of 5 classes"), (5, "classes 0..4")):
        with pytest.raises(ConfigError, match=words):
            load_prior(tmp_path / "classes.pt", network=config, event_shape=SHAPE, class_index=index)


def test_an_adm_prior_can_be_saved_with_a_card_and_read_without_being_told_anything(tmp_path):
    spec = PriorSettings(network=CONFIG, event_shape=SHAPE, prediction="eps")
    save_prior(tmp_path / "own.safetensors", adm().state_dict(), spec, dtype=torch.float32)
    prior = load_prior(tmp_path / "own.safetensors")
    assert torch.allclose(prior(X, 300), eps_to_x0(adm(), X, 300, DiscreteVP.linear()), atol=1e-4)


class Evil:
    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["pickle", "checkpoint", "module"])
def test_a_file_that_wants_to_run_code_is_refused_and_not_run(tmp_path, form, protocol):
    file, evil = tmp_path / "evil.pt", Evil(tmp_path / "was-run")
    if form == "pickle":
        file.write_bytes(pickle.dumps(evil, protocol))
    elif form == "checkpoint":
        torch.save({"weight": torch.zeros(2), "more": evil}, file, pickle_protocol=protocol)
    else:
        torch.save(nn.Linear(2, 2), file, pickle_protocol=protocol)
    wanted = r"torch\.nn\.modules\.linear\.Linear" if form == "module" else r"posix\.mkdir"
    with pytest.raises(CheckpointError, match=f"is refused: reading it would run code, {wanted}\nhint: "):
        load_prior(file)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_a_pickle_that_torch_does_not_read_are_not_said_to_run_code(tmp_path, zipped):
    file, settings = tmp_path / "own.pt", {"pickle_protocol": 4, "_use_new_zipfile_serialization": zipped}
    torch.save({"model": adm().state_dict()}, file, **settings)
    with pytest.raises(CheckpointError, match="of a protocol above 3\nhint: ask its author for the weights alone"):
        load_prior(file)
    if not zipped:
        file.write_bytes(file.read_bytes()[:600])
        with pytest.raises(CheckpointError, match="cannot be read: .*\nhint: is the file complete"):
            load_prior(file)


def test_what_a_pickle_imports_is_found_in_its_memo_too(tmp_path):
    """Two names of one module: the second time the pickle points to the text of the first."""
    content = pickle.dumps([os.mkdir, os.rmdir, os.mkdir], 4)
    assert content.count(b"posix") == 1
    (tmp_path / "own.pt").write_bytes(content)
    assert foreign_imports(tmp_path / "own.pt") == ["posix.mkdir", "posix.rmdir"]


@pytest.mark.parametrize("start", ["hello", "<!doctype html>", "version https://git-lfs.github.com/spec/v1"])
def test_what_torch_never_wrote_is_refused_by_its_first_line(tmp_path, start):
    (tmp_path / "own.pt").write_text(f"{start}\nmore\n")
    with pytest.raises(CheckpointError, match=f"own.pt is not a checkpoint: it begins with '{start}") as caught:
        load_prior(tmp_path / "own.pt")
    assert "\n" not in caught.value.message


def test_a_pickle_is_refused_unread(tmp_path):
    (tmp_path / "edm.pkl").write_bytes(b"not even opened")
    with pytest.raises(CheckpointError, match="is a pickle, which may run code when it is read: refused"):
        load_prior(tmp_path / "edm.pkl")


def test_damaged_checkpoints_are_one_line(tmp_path):
    buffer = io.BytesIO()
    torch.save(adm().state_dict(), buffer)
    whole = buffer.getvalue()
    contents = {"empty": b"", "two": b"\x80\x04", "head": whole[:800], "cut": whole[:-300], "text": b"not found"}
    for name, content in contents.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}.pt") as caught:
            load_prior(tmp_path / f"{name}.pt")
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 300
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(CheckpointError, match="begins with 'version https"):
        load_prior(pointer)
    torch.save({"step": 3}, tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_prior(tmp_path / "nothing.pt")


def test_checkpoints_of_the_old_format_are_refused_wherever_they_end(tmp_path):
    """Torch's reader raises one of half a dozen errors, by where the pickle ends."""
    path, buffer = tmp_path / "old.pt", io.BytesIO()
    torch.save({"w": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    for end in range(2, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"old\.pt") as caught:
            read_weights(path)
        assert "\n" not in caught.value.message


def test_a_length_beyond_all_memory_in_a_damaged_checkpoint_is_one_line(tmp_path):
    """A flipped byte may announce a text of 2^62 bytes (BINUNICODE8), which neither torch nor we can make room for."""
    (tmp_path / "old.pt").write_bytes(b"\x80\x02\x8d" + (2**62).to_bytes(8, "little") + b"w.")
    with pytest.raises(
        CheckpointError, match=r"old\.pt cannot be read: expected \d+ bytes .*\nhint: is the file complete"
    ):
        read_weights(tmp_path / "old.pt")


def test_names_in_a_damaged_checkpoint_do_not_break_the_line(tmp_path):
    (tmp_path / "own.pt").write_bytes(pickle.dumps(os.mkdir, 4).replace(b"mkdir", b"mk\ndi"))
    with pytest.raises(CheckpointError, match=r"reading it would run code, posix\.mk\\ndi") as caught:
        load_prior(tmp_path / "own.pt")
    assert "\n" not in caught.value.message


def test_any_callable_is_a_prior_once_its_conventions_are_given():
    prior = load_prior(lambda x, t: 0 * x, prediction="eps", schedule="vp-cosine", event_shape=(1, 8), name="mine")
    assert (prior.name, prior.event_shape, prior.schedule) == ("mine", (1, 8), DiscreteVP.cosine())
    with pytest.raises(ConfigError, match="does not say its schedule, event_shape"):
        load_prior(lambda x, t: x, prediction="eps")
    with pytest.raises(ConfigError, match="unknown schedule `linear`"):
        load_prior(lambda x, t: x, prediction="eps", schedule="linear", event_shape=(1,))


def test_what_is_given_takes_the_place_of_what_the_file_says(tmp_path):
    torch.save(adm().state_dict(), tmp_path / "own.pt")
    settings = {"network": CONFIG, "event_shape": SHAPE}
    prior = load_prior(
        tmp_path / "own.pt", **settings, prediction="v", schedule=DiscreteVP.cosine(), value_range=(0.0, 1.0), name="n"
    )
    assert (prior.prediction, prior.schedule, prior.value_range, prior.name) == (
        "v",
        DiscreteVP.cosine(),
        (0.0, 1.0),
        "n",
    )
    with pytest.raises(ConfigError, match="`class_index` does not apply.*`native`\n.*`guided-diffusion`"):
        load_prior("faces-64", class_index=3)


def test_execution_settings_reach_the_network(tmp_path):
    torch.save(adm().state_dict(), tmp_path / "own.pt")
    settings = {"network": CONFIG, "event_shape": SHAPE}
    plain = load_prior(tmp_path / "own.pt", **settings)(X, 200)
    careful = load_prior(tmp_path / "own.pt", **settings, chunk=1, checkpointing=True, channels_last=False)(X, 200)
    half = load_prior(tmp_path / "own.pt", **settings, dtype=torch.bfloat16, device="cpu")(X, 200)
    assert torch.allclose(careful, plain, atol=1e-4)
    assert 0.0 < float((half - plain).norm() / plain.norm()) < 0.05  # 8 bits, some layers deep


def test_unknown_names_give_the_nearest_known_one():
    with pytest.raises(ConfigError, match="did you mean `imagenet-256`"):
        load_prior("imagnet-256")
    with pytest.raises(ConfigError, match="ffhq-256"):
        load_prior("qqq")


def test_preconditioned_edm_network_is_a_denoiser():
    """`F = 0` leaves `c_skip x`, the posterior mean of `N(0, sigma_data^2)`; at sigma_data it is x / 2."""
    prior = load_prior(
        EDMPreconditioned(lambda x, noise: 0 * x, sigma_data=0.5), prediction="x0", schedule="edm", event_shape=(4,)
    )
    x, t = torch.ones(1, 4), EDM().time_at(0.5)
    assert torch.allclose(prior(x, t), 0.5 * x, atol=1e-6)


def test_preconditioned_edm_network_is_told_the_logarithm_and_a_scaled_input():
    seen = []

    def network(x, noise):
        seen.append((float(x.std()), float(noise[0])))
        return x

    x = torch.linspace(-1, 1, 100)[None]
    denoised = EDMPreconditioned(network, sigma_data=0.5)(x, torch.tensor([3.0]))
    total = 3.0**2 + 0.5**2
    assert seen == [(pytest.approx(float(x.std()) / total**0.5), pytest.approx(torch.tensor(3.0).log() / 4))]
    # c_skip x + c_out c_in x, with c_out = sigma sigma_data / sqrt(total)
    assert torch.allclose(denoised, (0.25 + 3.0 * 0.5) / total * x, atol=1e-6)


def test_edm_and_flow_priors_serve_samplers_on_another_schedule():
    prior = load_prior(lambda x, t: 0.5 * x, prediction="x0", schedule=EDM(), event_shape=(4,))
    vp = prior.on(DiscreteVP.linear())
    level = vp.schedule.level(500)
    assert torch.allclose(vp(torch.ones(1, 4), 500), 0.5 / level.alpha * torch.ones(1, 4))
    flow = load_prior(lambda x, t: x, prediction="flow", schedule="flow", event_shape=(4,))
    assert isinstance(flow.schedule, RectifiedFlow)
