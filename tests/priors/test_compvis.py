"""Checkpoints of latent diffusion, made on the spot with the names and containers of the public ones."""

import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import CheckpointError, ConfigError, ShapeError
from midguide.inference.loop import sample
from midguide.nn.adm_unet import LDM_VQ4, ADMConfig, ADMUNet
from midguide.nn.ldm_autoencoder import VQ_F4, LDMAutoencoder, LDMAutoencoderConfig
from midguide.operators.mask import Mask
from midguide.priors.autoencoders import AutoencoderSpec, prefixed
from midguide.priors.formats.native import save_prior
from midguide.priors.latent import LatentPrior
from midguide.priors.loading import load_prior
from midguide.priors.settings import PriorSettings
from midguide.problem import Problem
from midguide.samplers.mgps import MGPS
from midguide.storage import hub

UNET = ADMConfig(
    out_channels=3,
    channels=32,
    multipliers=(1, 2),
    blocks=1,
    attention=(1,),
    head_channels=16,
    scale_shift=False,
    residual_resampling=False,
)
VQ = LDMAutoencoderConfig(width=32, multipliers=(1, 2), blocks=1, codes=64)
KL = replace(VQ, codes=0, inner_channels=4)
SHAPE, SIGNAL = (3, 8, 16), (3, 16, 32)
ASKED = {"network": UNET, "event_shape": SHAPE}
Z = torch.linspace(-2, 2, 2 * 384).reshape(2, *SHAPE).sin()
IMAGE = torch.linspace(-9, 9, 1536).reshape(1, *SIGNAL).sin()


def filled(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "embedding.weight" in name else 0.05, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def networks():
    """U-Net at the end of training, its average, and the two autoencoders."""
    with torch.random.fork_rng():
        made = ADMUNet(UNET), ADMUNet(UNET), LDMAutoencoder(VQ), LDMAutoencoder(KL)
    return dict(zip(("last", "average", "vq", "kl"), map(filled, made, range(4)), strict=True))


@pytest.fixture
def state(networks):
    """What the public files hold, of small networks."""
    schedule = DiscreteVP.scaled_linear()
    products = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
    betas = 1 - products / torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
    made = {"betas": betas.float(), "alphas_cumprod": products.float(), "model_ema.num_updates": torch.tensor(7)}
    for name, value in networks["last"].state_dict().items():
        made[f"model.diffusion_model.{name}"] = value
    for name, value in networks["average"].state_dict().items():
        made["model_ema." + f"diffusion_model.{name}".replace(".", "")] = value
    for name, value in networks["vq"].state_dict().items():
        made[f"first_stage_model.{name}"] = value
    return made | {"model_ema.decay": torch.tensor(0.9999)}


def kl(state, networks):
    others = {name: value for name, value in state.items() if not name.startswith("first_stage_model.")}
    coder = {f"first_stage_model.{name}": value for name, value in networks["kl"].state_dict().items()}
    return others | coder | {"first_stage_model.loss.logvar": torch.zeros(()), "scale_factor": torch.tensor(0.25)}


def saved(state, path):
    torch.save({"state_dict": state, "global_step": 3}, path)
    return path


def denoised(network, t):
    level = DiscreteVP.scaled_linear().level(t)
    with torch.no_grad():
        return (Z - level.sigma * network(Z, torch.full((2,), float(t - 1)))) / level.alpha


def test_a_vq_checkpoint_is_a_prior_of_latents_with_the_average_of_its_weights(state, networks, tmp_path):
    prior = load_prior(saved(state, tmp_path / "model.ckpt"), **ASKED)
    assert isinstance(prior, LatentPrior)
    assert (prior.event_shape, prior.signal_shape, prior.signal_range) == (SHAPE, SIGNAL, (-1.0, 1.0))
    assert prior.schedule == DiscreteVP.scaled_linear()
    assert prior.denoiser.prediction == "eps"
    assert torch.allclose(prior(Z, 400), denoised(networks["average"], 400), atol=1e-4)
    assert torch.allclose(prior.autoencoder.encode(IMAGE), networks["vq"].encode(IMAGE), atol=1e-6)
    assert torch.allclose(prior.autoencoder.decode(Z), networks["vq"].decode(Z), atol=1e-5)
    assert prior.provenance["weights"] == "averaged"
    assert prior.record()["autoencoder"]["format"] == "compvis"


def test_the_last_weights_and_latents_that_are_not_quantized_are_there_on_request(state, networks, tmp_path):
    prior = load_prior(saved(state, tmp_path / "model.ckpt"), **ASKED, averaged=False, quantize=False)
    assert torch.allclose(prior(Z, 400), denoised(networks["last"], 400), atol=1e-4)
    plain = networks["vq"].decode(Z, quantize=False)
    assert torch.allclose(prior.autoencoder.decode(Z), plain, atol=1e-5)
    assert not torch.allclose(networks["vq"].decode(Z), plain, atol=1e-3)
    without = {name: value for name, value in state.items() if not name.startswith("model_ema.")}
    path = saved(without, tmp_path / "without.ckpt")
    assert torch.allclose(load_prior(path, **ASKED)(Z, 400), denoised(networks["last"], 400), atol=1e-4)
    with pytest.raises(ConfigError, match="no averaged weights"):
        load_prior(path, **ASKED, averaged=True)


def test_a_kl_checkpoint_is_scaled_by_its_factor_or_the_one_stated(state, networks, tmp_path):
    path, coder = saved(kl(state, networks), tmp_path / "kl.ckpt"), networks["kl"]
    prior = load_prior(path, **ASKED)
    mean = coder.quant_conv(coder.encoder(IMAGE)).chunk(2, dim=1)[0]
    assert torch.allclose(prior.autoencoder.encode(IMAGE), 0.25 * mean, atol=1e-6)
    assert torch.allclose(prior.autoencoder.decode(0.25 * Z), coder.decode(Z), atol=1e-5)
    stated = load_prior(path, **ASKED, latent_scale=2.0)
    assert torch.allclose(stated.autoencoder.encode(IMAGE), 2 * mean, atol=1e-5)
    with pytest.raises(ConfigError, match="no codebook"):
        load_prior(path, **ASKED, quantize=False)


@pytest.mark.parametrize("factor", [[0.1, 0.2, 0.3], [], -0.5, 0.0, math.nan, math.inf], ids=str)
def test_a_scale_that_is_no_positive_number_is_refused(state, tmp_path, factor):
    path = saved(state | {"scale_factor": torch.tensor(factor)}, tmp_path / "model.ckpt")
    with pytest.raises(
        CheckpointError, match=r"scale_factor in .*model\.ckpt is .*, expected one positive number\nhint"
    ):
        load_prior(path, **ASKED)


@pytest.mark.parametrize("betas", [[], 0.1, [[0.1, 0.2]], [0.1, math.nan], [-0.1, 0.2], [0.1, 1.5]], ids=str)
def test_betas_that_are_none_are_refused_unless_a_schedule_is_stated(state, tmp_path, betas):
    path = saved(state | {"betas": torch.tensor(betas)}, tmp_path / "model.ckpt")
    with pytest.raises(
        CheckpointError, match=r"betas in .*model\.ckpt, of shape .*, are not all between 0 and 1\nhint"
    ):
        load_prior(path, **ASKED)
    assert load_prior(path, **ASKED, schedule="vp-linear").schedule == DiscreteVP.linear()


def test_derivatives_pass_the_quantizer_and_a_sampler_runs(state, tmp_path):
    prior = load_prior(saved(state, tmp_path / "model.ckpt"), **ASKED)
    problem = Problem.simulate(prior, Mask(torch.arange(1536).reshape(SIGNAL) % 2 == 0), IMAGE, sigma_y=0.1)
    sampler = MGPS(steps=3, gradient_steps=StepRule(default=1), warm_start=None)
    draws, free = sample(sampler, problem, 1).draws, sample(sampler, Problem.unobserved(prior), 1).draws
    assert draws.shape == (1, 1, *SIGNAL)
    assert not torch.equal(draws, free)


def test_the_schedule_is_that_of_the_betas_or_the_one_stated(state, tmp_path):
    betas = torch.linspace(0.001, 0.02, 500)
    prior = load_prior(saved(state | {"betas": betas}, tmp_path / "other.ckpt"), **ASKED)
    want = (1 - betas.double()).cumprod(0)
    assert prior.schedule.noisiest == 500
    assert torch.allclose(torch.tensor(prior.schedule.alphas_cumprod, dtype=torch.float64), want, rtol=1e-12)
    del state["betas"]
    path = saved(state, tmp_path / "none.ckpt")
    with pytest.raises(ConfigError, match="holds no betas") as caught:
        load_prior(path, **ASKED)
    assert "vp-scaled-linear" in caught.value.hint
    assert load_prior(path, **ASKED, schedule="vp-linear").schedule == DiscreteVP.linear()


def lacking(state, *beginnings):
    return {name: value for name, value in state.items() if not name.startswith(beginnings)}


def test_what_does_not_fit_is_one_line_with_the_first_keys_and_the_likely_setting(state, networks, tmp_path):
    first = "first_stage_model."
    attended = {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": Z}
    cases = [
        (state, ASKED | {"network": replace(UNET, blocks=2)}, CheckpointError, "blocks=1 where the configuration has"),
        (state, {"event_shape": SHAPE}, ConfigError, "scale_shift=False, residual_resampling=False"),
        (state, {"network": UNET}, ConfigError, "size of its latents"),
        (lacking(state, first), ASKED, CheckpointError, "holds no autoencoder"),
        (
            lacking(state, f"{first}decoder.mid.attn_1.q"),
            ASKED,
            CheckpointError,
            "missing: decoder.mid.attn_1.q.weight",
        ),
        (lacking(state, f"{first}quantize"), ASKED, CheckpointError, "a KL autoencoder has 6 there"),
        (state | {f"{first}quantize.used": Z}, ASKED, CheckpointError, "unexpected: quantize.used"),
        (lacking(state, "model_ema.diffusion_modelout"), ASKED, CheckpointError, "averaged=False"),
        (state | attended, ASKED, ConfigError, "cross-attention"),
        (state, ASKED | {"class_index": 3}, ConfigError, "the network has no classes"),
        (state, ASKED | {"event_shape": (3, 7, 8)}, ShapeError, "samples are 7x8, the network takes multiples of 2x2"),
    ]
    for number, (content, settings, kind, words) in enumerate(cases):
        with pytest.raises(kind, match=".*" + words.replace("(", r"\(")) as caught:
            load_prior(saved(content, tmp_path / f"{number}.ckpt"), **settings)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_autoencoder_and_network_are_given_as_many_rows_at_once_as_asked_for(state, tmp_path):
    path = saved(state, tmp_path / "model.ckpt")
    assert load_prior(path, **ASKED).autoencoder.rows == 16
    prior = load_prior(path, **ASKED, latent_chunk=1, latent_scale=0.5, chunk=1, device="cpu")
    assert (prior.autoencoder.rows, prior.autoencoder.scale.item(), prior.denoiser.chunk) == (1, 0.5, 1)
    other = load_prior(path, **ASKED, value_range=(0.0, 1.0))
    assert (other.signal_range, other.value_range, other.denoiser.value_range) == ((0.0, 1.0), None, None)
    sizes = []
    with torch.no_grad():
        prior.autoencoder.network.decoder.register_forward_hook(lambda *call: sizes.append(len(call[2])))
        prior.autoencoder.decode(Z)
    assert sizes == [1, 1]
    with pytest.raises(ConfigError, match="`latent_chunk` belongs to a prior of latents"):
        load_prior("faces-64", latent_chunk=1)


def test_settings_of_checkpoints_are_refused_where_they_mean_nothing(tmp_path):
    for setting in ({"quantize": False}, {"averaged": True}, {"network": UNET}):
        with pytest.raises(
            ConfigError, match=f"`{next(iter(setting))}` does not apply to `faces-64`.*\n.*it is for `compvis`"
        ):
            load_prior("faces-64", **setting)
    with pytest.raises(ConfigError, match="`latent_scale` belongs to a prior of latents"):
        load_prior("faces-64", latent_scale=2.0)


def test_a_checkpoint_that_names_the_callback_of_its_trainer_is_read_without_that_library(state, tmp_path, monkeypatch):
    """Older versions of Lightning store the class of the callback as a key; nothing of it is imported or run."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    callback = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = callback
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    torch.save({"state_dict": state, "callbacks": {callback: {"best": 0.1}}}, tmp_path / "model.ckpt")
    monkeypatch.undo()
    assert name not in sys.modules
    assert load_prior(tmp_path / "model.ckpt", **ASKED).event_shape == SHAPE
    assert name not in sys.modules


@pytest.mark.parametrize("value", [np.float64(0.1), np.float32(2.0), np.int64(3)])
def test_numbers_of_numpy_beside_the_weights_are_passed_over(state, tmp_path, value):
    torch.save({"state_dict": state, "best": value}, tmp_path / "model.ckpt")
    assert load_prior(tmp_path / "model.ckpt", **ASKED).event_shape == SHAPE


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_a_prior_of_latents_is_saved_once_in_a_file_that_says_everything(state, networks, tmp_path, kind):
    content = state if kind == "vq" else kl(state, networks)
    prior = load_prior(saved(content, tmp_path / "model.ckpt"), **ASKED)
    coder = prior.autoencoder
    inner = AutoencoderSpec(
        network=coder.network.config, event_shape=SIGNAL, scale=coder.scale.flatten().tolist(), shift=(0.0,)
    )
    spec = PriorSettings(
        network=UNET,
        event_shape=SHAPE,
        prediction="eps",
        schedule="vp-scaled-linear",
        autoencoder=inner,
    )
    weights = prior.denoiser.network.state_dict() | prefixed(coder.network.state_dict())
    save_prior(tmp_path / "own.safetensors", weights, spec, dtype=torch.float32)
    again = load_prior(tmp_path / "own.safetensors")
    assert torch.equal(again(Z, 400), prior(Z, 400))
    assert torch.equal(again.autoencoder.decode(Z), coder.decode(Z))
    assert torch.equal(again.autoencoder.encode(IMAGE), coder.encode(IMAGE))
    lost = next(iter(coder.network.state_dict()))
    (name,) = prefixed({lost: torch.zeros(0)})
    save_prior(tmp_path / "cut.safetensors", {k: v for k, v in weights.items() if k != name}, spec, dtype=torch.float32)
    with pytest.raises(CheckpointError, match=f"do not fit their network: missing: {lost}"):
        load_prior(tmp_path / "cut.safetensors")


def stored_as_one_number(network, prefix):
    """Zeros of the shapes of a network: `torch.save` keeps the strides, so that the file is small."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in network().state_dict().items()}
    return {prefix + name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def test_the_public_checkpoint_is_recognized_by_its_shapes_and_loaded_by_its_name(state, tmp_path, monkeypatch):
    made = {"betas": state["betas"]}
    made |= stored_as_one_number(lambda: ADMUNet(LDM_VQ4), "model.diffusion_model.")
    made |= stored_as_one_number(lambda: LDMAutoencoder(VQ_F4), "first_stage_model.")
    path = saved(made, tmp_path / "model.ckpt")
    monkeypatch.setattr(hub, "fetch", lambda card: path)
    prior = load_prior("ffhq-ldm-vq4")
    assert (prior.denoiser.name, prior.event_shape, prior.signal_shape) == ("ffhq-ldm-vq4", (3, 64, 64), (3, 256, 256))
    assert prior.denoiser.network.config == LDM_VQ4
    assert prior.schedule == DiscreteVP.scaled_linear()
    assert prior.autoencoder.network.config == VQ_F4
    assert prior.autoencoder.rows == 1  # one image of 256 pixels at once


def test_what_a_checkpoint_holds_besides_is_named_and_the_rest_is_used_or_known(state, networks, tmp_path):
    """Walks all keys: those of the public files say nothing, any other does."""
    known = {"epoch": 1, "pytorch-lightning_version": "1", "optimizer_states": [{}], "lr_schedulers": [], "loops": {}}
    torch.save({"state_dict": kl(state, networks), "global_step": 3, **known}, tmp_path / "a.ckpt")
    plain = load_prior(tmp_path / "a.ckpt", **ASKED).provenance["remarks"]
    assert not any("not used" in line for line in plain)
    extra = {"cond_stage_model.embedding.weight": torch.zeros(1), "teacher.weight": torch.zeros(1)}
    torch.save({"state_dict": state | extra, "hyper_parameters": {"scale_by_std": True}}, tmp_path / "b.ckpt")
    told = load_prior(tmp_path / "b.ckpt", **ASKED).provenance["remarks"]
    line = next(line for line in told if line.startswith("not used"))
    assert all(
        f"`{name}`" in line for name in ("state_dict.cond_stage_model", "state_dict.teacher", "hyper_parameters")
    )
    torch.save({"state_dict": {name: v.half() for name, v in state.items()}}, tmp_path / "c.ckpt")
    told = load_prior(tmp_path / "c.ckpt", **ASKED | {"schedule": "vp-linear"}).provenance["remarks"]
    assert "the weights are float16 in the file, and float32 here" in told
