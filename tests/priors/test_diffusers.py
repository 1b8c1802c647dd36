"""Pipelines of diffusers, made on the spot with `save_pretrained`: network, forward process, prediction, weights."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import DiscreteVP, RectifiedFlow
from midguide.errors import CheckpointError, ConfigError, DataError, ShapeError
from midguide.inference.loop import sample
from midguide.operators.mask import Mask
from midguide.priors.formats.diffusers import SampleOf, fetch_repository, read_scheduler
from midguide.priors.latent import LatentPrior
from midguide.priors.loading import load_prior
from midguide.problem import Problem
from midguide.samplers.mgps import MGPS
from midguide.storage.hub import CARDS
from midguide.testing import check_denoiser

DDPM = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 1000}


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs the extra 'hub'")


@pytest.fixture(scope="module")
def unet(diffusers):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = diffusers.UNet2DModel(
            sample_size=(8, 16),
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    return network.eval()


@pytest.fixture(scope="module")
def pipeline(diffusers, unet, tmp_path_factory):
    """A DDPM pipeline that predicts v, on a cosine schedule, as a folder."""
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-ddpm"
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder


X = torch.linspace(-1, 1, 2 * 3 * 8 * 16).reshape(2, 3, 8, 16)


def test_a_pipeline_is_a_prior_with_the_conventions_of_its_scheduler(pipeline, unet):
    prior = load_prior(pipeline)
    check_denoiser(prior)
    assert (prior.name, prior.prediction, prior.event_shape) == ("tiny-ddpm", "v", (3, 8, 16))
    level = DiscreteVP.cosine().level(700)
    with torch.no_grad():
        v = unet(X, 699).sample
    assert torch.allclose(prior(X, 700), level.alpha * X - level.sigma * v, atol=1e-5)
    assert len(prior.record()["sha256"]) == 64


def test_network_and_scheduler_may_lie_in_one_folder(pipeline, tmp_path):
    """As in the older repositories, `google/ddpm-celebahq-256` for one; their weights are torch files."""
    for file in [*(pipeline / "unet").iterdir(), *(pipeline / "scheduler").iterdir()]:
        shutil.copy(file, tmp_path)
    assert torch.equal(load_prior(tmp_path)(X, 300), load_prior(pipeline)(X, 300))


def test_weights_of_a_torch_file_are_read_and_code_in_it_is_refused(diffusers, unet, tmp_path):
    unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    with torch.no_grad():
        eps = unet(X, 699).sample
    level = DiscreteVP.linear().level(700)
    assert torch.allclose(load_prior(tmp_path)(X, 700), (X - level.sigma * eps) / level.alpha, atol=1e-4)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    torch.save({"conv_in.weight": Evil()}, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is refused: reading it would run code, .*mkdir") as caught:
        load_prior(tmp_path)
    assert "\n" not in caught.value.message
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(), 2))
    with pytest.raises(CheckpointError, match="is refused: .*run code"):
        load_prior(tmp_path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    ],
    ids=lambda settings: settings.get("beta_schedule", "trained"),
)
def test_forward_process_is_that_of_the_scheduler(diffusers, kind, settings):
    """diffusers computes in float32: relative to it the two agree to some of its rounding, over 1000 products."""
    theirs = getattr(diffusers, kind)(**settings)
    config = json.loads(theirs.to_json_string())
    ours, prediction = read_scheduler(config)
    assert prediction == "eps"
    assert isinstance(ours, DiscreteVP)
    assert torch.allclose(torch.tensor(ours.alphas_cumprod), theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
def test_schedule_without_last_signal_is_that_of_the_scheduler(diffusers, kind):
    theirs = getattr(diffusers, kind)(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    ours, prediction = read_scheduler(json.loads(theirs.to_json_string()))
    assert prediction == "v"
    assert isinstance(ours, DiscreteVP)
    assert torch.allclose(torch.tensor(ours.alphas_cumprod), theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)
    assert ours.alphas_cumprod[-1] == 0.0


def test_predictions_and_flows_are_read_and_the_unknown_is_refused():
    assert read_scheduler({**DDPM, "prediction_type": "sample"})[1] == "x0"
    assert read_scheduler(DDPM)[1] == "eps"
    assert read_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler"}) == (RectifiedFlow(), "flow")
    for config, words in (
        ({**DDPM, "prediction_type": "noise"}, "unknown prediction_type `noise`"),
        ({**DDPM, "beta_schedule": "sigmoid"}, "unknown beta_schedule `sigmoid`"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler"),
        ({**DDPM, "prediction_type": "flow_prediction"}, "flow or betas"),
        ({**DDPM, "use_flow_sigmas": True}, "flow or betas"),
        ({**DDPM, "timestep_type": "continuous"}, "not one whose networks are known"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_scheduler(config)


@pytest.mark.parametrize(
    "change",
    [
        {"beta_end": "abc"},
        {"beta_end": None},
        {"beta_start": -0.1},
        {"beta_start": -0.1, "beta_schedule": "scaled_linear"},
        {"beta_end": float("nan")},
        {"beta_end": float("inf")},
        {"num_train_timesteps": 1},
        {"num_train_timesteps": 1.5},
        {"trained_betas": 0.1},
        {"trained_betas": ["abc"] * 1000},
        {"trained_betas": [0.1], "rescale_betas_zero_snr": True},
    ],
    ids=str,
)
def test_betas_that_are_none_are_shown_as_the_scheduler_states_them(change):
    with pytest.raises(ConfigError, match="states no betas between 0 and 1: beta_schedule ") as caught:
        read_scheduler(DDPM | change)
    shown = [f"{name} {value!r}"[:60] for name, value in change.items() if name != "rescale_betas_zero_snr" and value]
    assert all(words in caught.value.message for words in shown)
    assert len(caught.value.message) < 300
    assert "scheduler_config.json" in caught.value.hint


@pytest.mark.parametrize("setting", ["_class_name", "prediction_type", "beta_schedule"])
@pytest.mark.parametrize("value", [None, 3, ["a"], {}], ids=str)
def test_a_name_in_a_scheduler_that_is_no_text_is_unknown(setting, value):
    with pytest.raises(ConfigError, match="unknown|not one whose networks are known"):
        read_scheduler(
            {**DDPM, "timestep_type": "continuous" if setting == "_class_name" else "discrete", setting: value}
        )


@pytest.mark.parametrize("kind", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_a_scheduler_told_to_follow_a_flow_is_one_though_it_has_betas(diffusers, kind):
    theirs = getattr(diffusers, kind)(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert read_scheduler(json.loads(theirs.to_json_string())) == (RectifiedFlow(), "flow")


def test_a_network_of_classes_is_refused_with_what_to_do(diffusers, tmp_path):
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        num_class_embeds=3,
    )
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="conditioned on a class.*\nhint: fix the class: .*own.py:function"):
        load_prior(tmp_path)


def test_a_flow_network_is_told_a_thousand_times_t(diffusers, unet, tmp_path):
    unet.save_pretrained(tmp_path / "unet")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    prior = load_prior(tmp_path)
    with torch.no_grad():
        velocity = unet(X, 300.0).sample
    assert prior.prediction == "flow"
    assert torch.allclose(prior(X, 0.3), X - 0.3 * velocity, atol=1e-5)


def autoencoder(diffusers, kind, **settings):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        network = getattr(diffusers, kind)(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=3,
            **settings,
        )
    return network.eval()


def test_a_latent_pipeline_with_a_vq_autoencoder_reconstructs(diffusers, unet, tmp_path):
    coder = autoencoder(diffusers, "VQModel", num_vq_embeddings=64, scaling_factor=0.5)
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    diffusers.LDMPipeline(coder, unet, scheduler).save_pretrained(tmp_path / "ldm")
    prior = load_prior(tmp_path / "ldm")
    assert isinstance(prior, LatentPrior)
    assert (prior.event_shape, prior.signal_shape, prior.signal_range) == ((3, 8, 16), (3, 16, 32), (-1.0, 1.0))
    assert prior.schedule == DiscreteVP.scaled_linear()
    check_denoiser(prior)
    with torch.no_grad():
        assert torch.allclose(prior.autoencoder.decode(X), coder.decode(X / 0.5).sample, atol=1e-5)
        image = torch.linspace(-1, 1, 3 * 16 * 32).reshape(1, 3, 16, 32)
        assert torch.allclose(prior.autoencoder.encode(image), 0.5 * coder.encode(image).latents, atol=1e-5)
    operator = Mask(torch.arange(3 * 16 * 32).reshape(3, 16, 32) % 2 == 0)
    problem = Problem.simulate(prior, operator, image, sigma_y=0.1)
    draws = sample(MGPS(steps=3, gradient_steps=StepRule(default=1), warm_start=None), problem, 1).draws
    assert draws.shape == (1, 1, 3, 16, 32)


def test_a_vq_autoencoder_that_states_no_scale_has_none(diffusers, unet, tmp_path):
    coder = autoencoder(diffusers, "VQModel", num_vq_embeddings=64)
    diffusers.LDMPipeline(coder, unet, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "ldm")
    path = tmp_path / "ldm" / "vqvae" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "scaling_factor"}))
    prior = load_prior(tmp_path / "ldm")
    with torch.no_grad():
        assert torch.allclose(prior.autoencoder.decode(X), coder.decode(X).sample, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers_per_block": 2}, r"missing: down_blocks.0.resnets.1.conv1.bias, .* and \d+ more"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "unexpected: down_blocks.1.attentions.0"),
        ({"block_out_channels": [32, 64]}, r"of another shape: .* \(32,\) for \(64,\)"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_of_another_architecture_are_named_and_nothing_else_is_said(pipeline, tmp_path, capfd, change, words):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    capfd.readouterr()
    with pytest.raises(CheckpointError, match=words) as caught:
        load_prior(folder)
    assert "\n" not in caught.value.message
    assert "layers_per_block" in str(caught.value.hint)
    assert capfd.readouterr().err == ""


def test_a_size_that_the_network_cannot_halve_is_refused(pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "odd")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": [7, 16]}))
    with pytest.raises(ShapeError, match="the samples are 7x16, the network takes multiples of 2x2"):
        load_prior(folder)


def test_attention_weights_under_their_old_names_are_read(pipeline, unet, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "old")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    names = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = {}
    for key, value in load_file(path).items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = value
    assert sum("query" in key for key in renamed) > 0
    save_file(renamed, path, metadata={"format": "pt"})
    assert torch.equal(load_prior(folder)(X, 400), load_prior(pipeline)(X, 400))


def test_a_latent_pipeline_with_a_kl_autoencoder_is_scaled_and_shifted(diffusers, unet, tmp_path):
    coder = autoencoder(diffusers, "AutoencoderKL", scaling_factor=0.7, shift_factor=0.2)
    unet.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    coder.save_pretrained(tmp_path / "vae")
    prior = load_prior(tmp_path)
    image = torch.linspace(-1, 1, 3 * 16 * 32).reshape(1, 3, 16, 32)
    with torch.no_grad():
        want = 0.7 * (coder.encode(image).latent_dist.mode() - 0.2)
        assert torch.allclose(prior.autoencoder.encode(image), want, atol=1e-5)
        assert torch.allclose(prior.autoencoder.decode(want), coder.decode(want / 0.7 + 0.2).sample, atol=1e-4)


def test_a_module_of_the_library_is_passed_as_it_is_or_as_its_sample_alone(unet):
    """A flow network at module level, told a thousand times t."""
    settings = {"prediction": "flow", "schedule": RectifiedFlow(), "label": lambda t: 1000 * t}
    with torch.no_grad():
        want = X - 0.4 * unet(X, torch.full((2,), 400.0)).sample  # x_t = (1 - t) x_0 + t eps, the network eps - x_0
    for flow in (load_prior(SampleOf(unet), event_shape=(3, 8, 16), **settings), load_prior(unet, **settings)):
        torch.testing.assert_close(flow(X, 0.4), want)


def test_damaged_and_foreign_folders_are_one_line(pipeline, tmp_path):
    def broken(name):
        return shutil.copytree(pipeline, tmp_path / name)

    weights = broken("cut") / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (broken("none") / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (broken("text") / "unet" / "config.json").write_text("{")
    for name in ("cut", "none", "text"):
        with pytest.raises(CheckpointError) as caught:
            load_prior(tmp_path / name)
        assert "\n" not in caught.value.message
    with pytest.raises(CheckpointError, match="folder of diffusers"):
        load_prior(tmp_path)
    config = json.loads((pipeline / "unet" / "config.json").read_text())
    (broken("other") / "unet" / "config.json").write_text(
        json.dumps({**config, "_class_name": "DiTTransformer2DModel"})
    )
    with pytest.raises(ConfigError, match="DiTTransformer2DModel, expected UNet2DModel"):
        load_prior(tmp_path / "other")
    other = broken("latent") / "vae"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(ConfigError, match="known autoencoders: VQModel, AutoencoderKL"):
        load_prior(tmp_path / "latent")


@pytest.mark.parametrize("part", ["unet/config.json", "scheduler/scheduler_config.json", "vae/config.json"])
@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "[" * 10_000], ids=lambda content: content[:6])
def test_a_configuration_that_is_no_object_is_one_line_that_names_its_file(pipeline, tmp_path, part, content):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    (folder / part).parent.mkdir(exist_ok=True)
    (folder / part).write_text(content)
    with pytest.raises(CheckpointError, match=f"{part} (holds .*, expected an object|cannot be read)") as caught:
        load_prior(folder)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("size", [None, "abc", 0, -8, 1.5, [8], [8, "a"], {}], ids=str)
def test_a_size_that_is_none_is_refused(pipeline, tmp_path, size):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": size}))
    with pytest.raises(ConfigError, match="does not say the size of its images: sample_size is "):
        load_prior(folder)


@pytest.mark.parametrize("change", [{"scaling_factor": "abc"}, {"scaling_factor": [1, 2]}, {"shift_factor": ["a"]}])
def test_a_scale_of_latents_that_is_no_number_is_refused(diffusers, unet, tmp_path, change):
    coder = autoencoder(diffusers, "AutoencoderKL")
    diffusers.LDMPipeline(coder, unet, diffusers.DDIMScheduler()).save_pretrained(tmp_path / "ldm")
    path = tmp_path / "ldm" / "vqvae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match="latents are scaled and shifted by .*\nhint: .* each of their 3 channels"):
        load_prior(tmp_path / "ldm")


def test_without_the_library_the_extra_is_named(pipeline, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ConfigError, match="midguide\\[hub\\]"):
        load_prior(pipeline)


def test_a_repository_without_a_connection_is_one_line(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")

    def offline(*arguments, **settings):
        raise hub.errors.LocalEntryNotFoundError("no connection,\nand nothing in the cache")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(DataError, match="no repository 'nobody/nothing' to download: no connection,") as caught:
        load_prior("nobody/nothing")
    assert "\n" not in caught.value.message


def test_a_repository_is_downloaded_without_what_is_not_needed(monkeypatch, pipeline):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    asked = {}

    def download(name, *, revision, cache_dir, allow_patterns):
        assert (revision, cache_dir) == (None, None)  # the newest, in the cache of the library
        asked[name] = allow_patterns
        return str(pipeline)

    monkeypatch.delenv("MIDGUIDE_CACHE", raising=False)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert fetch_repository("some/one") == pipeline
    prior = load_prior("some/one")
    assert prior.name == "some/one"
    assert not any("pickle" in pattern or pattern == "*" for pattern in asked["some/one"])


@pytest.fixture
def celebahq(monkeypatch, pipeline, tmp_path):
    """The hub with the repository of `celebahq-256`: what it is asked for, and whether it can be reached."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    state = SimpleNamespace(asked=[], cached=True, reason=None, folder=shutil.copytree(pipeline, tmp_path / "snapshot"))
    weights = state.folder / "unet" / "diffusion_pytorch_model.safetensors"
    state.blob = weights.rename(tmp_path / "blob")
    weights.symlink_to(state.blob)  # as in the cache of the library
    state.sha256 = hashlib.sha256(state.blob.read_bytes()).hexdigest()

    def repo_info(self, name, *, revision, timeout):
        assert timeout < 15
        if state.reason:
            raise ConnectionError(state.reason)

    def download(name, **settings):
        state.asked.append((name, settings))
        if not state.cached and "local_files_only" in settings:
            raise hub.errors.LocalEntryNotFoundError("outgoing traffic has been disabled")
        return str(state.folder)

    monkeypatch.setenv("MIDGUIDE_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub.HfApi, "repo_info", repo_info)
    return state


def test_a_card_of_a_repository_states_its_revision_and_the_sum_of_its_weights(celebahq, monkeypatch, tmp_path):
    card = CARDS["celebahq-256"]
    with pytest.raises(
        CheckpointError, match="google/ddpm-celebahq-256 is not the file expected: its sha256"
    ) as caught:
        load_prior("celebahq-256")
    assert "loaded by its path" in caught.value.hint
    assert f"remove {celebahq.blob}" in caught.value.hint  # not the link to it
    ((name, settings),) = celebahq.asked
    assert (name, settings["revision"], settings["cache_dir"]) == (card.source, card.revision, tmp_path / "huggingface")
    assert [p for p in settings["allow_patterns"] if "model" in p and "/" not in p] == ["diffusion_pytorch_model.bin"]
    monkeypatch.setitem(CARDS, "celebahq-256", replace(card, sha256=celebahq.sha256))
    assert load_prior("celebahq-256").name == "celebahq-256"


def test_a_commit_is_asked_for_once_and_taken_from_the_cache_without_a_connection(celebahq, monkeypatch):
    """The library itself would ask six times, half a minute long."""
    monkeypatch.setitem(CARDS, "celebahq-256", replace(CARDS["celebahq-256"], sha256=celebahq.sha256))
    celebahq.reason = "name not known"
    assert load_prior("celebahq-256").name == "celebahq-256"
    celebahq.cached = False
    with pytest.raises(DataError, match="google/ddpm-celebahq-256' to download: name not known") as caught:
        load_prior("celebahq-256")
    assert "check the name and the network" in caught.value.hint
    assert [settings.get("local_files_only") for _, settings in celebahq.asked] == [True, True]


def test_the_real_library_says_within_seconds_that_there_is_no_connection(tmp_path):
    pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    own = {"MIDGUIDE_CACHE": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    words = [sys.executable, "-m", "midguide", "sample", "--prior", "celebahq-256"]
    # the pauses between six attempts of the library are 23 s, beside the start of Python and torch
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True, timeout=25)
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
