"""Folders as training scripts of diffusers leave them: variants, shards, averages, parts, objects in memory."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from midguide.diffusion.schedules import make_schedule
from midguide.errors import CheckpointError, ConfigError
from midguide.priors.formats.diffusers import load_autoencoder
from midguide.priors.loading import load_prior

diffusers: Any = pytest.importorskip("diffusers", reason="needs the extra 'hub'")
X = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)


def near(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding: where weights lie in memory decides which kernel of torch adds them up."""
    return torch.allclose(a, b, atol=1e-4)


def made(**settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(32,),
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            **settings,
        ).eval()


@pytest.fixture(scope="module")
def unet() -> Any:
    return made()


@pytest.fixture(scope="module")
def plain(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "own-pipeline"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def right(plain: Path) -> Tensor:
    return load_prior(plain)(X, 500)


def test_variants_are_read_and_said(plain: Path, unet: Any, right: Tensor, tmp_path: Path) -> None:
    half = made().half()
    for safe in (True, False):
        folder = tmp_path / str(safe)
        shutil.copytree(plain / "scheduler", folder / "scheduler")
        half.save_pretrained(folder / "unet", variant="fp16", safe_serialization=safe)
        prior = load_prior(folder)
        assert torch.allclose(prior(X, 500), right, atol=5e-3)
        assert prior.record()["remarks"] == ["the variant fp16 of the weights is used, and float32 here"]
        unet.save_pretrained(folder / "unet", safe_serialization=safe)
        both = load_prior(folder)
        assert near(both(X, 500), right)
        assert "remarks" not in both.record()


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("safe", [True, False])
def test_shards_are_read_together(
    variant: str | None, safe: bool, plain: Path, unet: Any, right: Tensor, tmp_path: Path
) -> None:
    shutil.copytree(plain / "scheduler", tmp_path / "scheduler")
    settings = {"max_shard_size": "100KB", "safe_serialization": safe, "variant": variant}
    unet.save_pretrained(tmp_path / "unet", **settings)
    shards = sorted((tmp_path / "unet").glob("*-of-*"))
    assert len(shards) > 1
    assert near(load_prior(tmp_path)(X, 500), right)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=r"index.*names .*, which is not beside it\nhint: are all shards"):
        load_prior(tmp_path)


def test_an_index_names_nothing_outside_its_folder(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "own")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "weights.safetensors")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for table in ({"a": "../weights.safetensors"}, {}, [], "text"):
        index.write_text(json.dumps({"weight_map": table}))
        with pytest.raises(CheckpointError, match="not beside it|names no files"):
            load_prior(folder)


def test_the_averaged_network_of_a_run_is_used_and_said(plain: Path, right: Tensor, tmp_path: Path) -> None:
    average, last = made(), made()
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.add_(0.1)
    run = tmp_path / "checkpoint-500"
    mean = diffusers.training_utils.EMAModel(
        average.parameters(), model_cls=diffusers.UNet2DModel, model_config=average.config
    )
    mean.save_pretrained(run / "unet_ema")
    last.save_pretrained(run / "unet")
    with pytest.raises(ConfigError, match="does not say its prediction, schedule"):
        load_prior(run)
    assert near(load_prior(run, prediction="eps", schedule="vp-linear")(X, 500), right)
    shutil.copytree(plain / "scheduler", run / "scheduler")
    prior = load_prior(run)
    assert near(prior(X, 500), right)
    assert prior.record()["weights"] == "averaged"
    assert prior.record()["remarks"][0].startswith("the averaged weights (EMA) of `unet_ema` are used")
    assert near(load_prior(run / "unet_ema")(X, 500), right)
    for named in (load_prior(run, averaged=False), load_prior(run / "unet")):
        assert not torch.allclose(named(X, 500), right, atol=1e-3)
        assert named.record()["weights"] == "last" or "beside them" in named.record()["remarks"][0]


def test_a_part_a_file_a_network_and_a_pipeline_are_the_same_prior(plain: Path, unet: Any, right: Tensor) -> None:
    weights = plain / "unet" / "diffusion_pytorch_model.safetensors"
    for given in (plain / "unet", weights, str(plain / "unet")):
        assert near(load_prior(given)(X, 500), right)
    assert near(load_prior(diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()))(X, 500), right)
    assert near(load_prior(unet, prediction="eps", schedule="vp-linear")(X, 500), right)
    with pytest.raises(ConfigError, match="does not say its prediction, schedule\nhint: for example prediction='eps'"):
        load_prior(unet)


def test_bare_weights_without_a_configuration_say_what_to_do(unet: Any, plain: Path, tmp_path: Path) -> None:
    torch.save({"model": {f"module.{name}": value for name, value in unet.state_dict().items()}}, tmp_path / "own.pt")
    shutil.copy(plain / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "own.safetensors")
    for name in ("own.pt", "own.safetensors"):
        with pytest.raises(
            CheckpointError, match=r"diffusers without its config.json\nhint: put that beside it, or .*UNet2DModel"
        ):
            load_prior(tmp_path / name)


def test_a_network_of_classes_is_a_prior_of_one(tmp_path: Path) -> None:
    network = made(num_class_embeds=3)
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    prior = load_prior(tmp_path, class_index=2)
    level = prior.schedule.level(500)
    with torch.no_grad():
        eps = network(X, 499, class_labels=torch.tensor([2])).sample
    assert torch.allclose(prior(X, 500), (X - level.sigma * eps) / level.alpha, atol=1e-4)
    assert prior.record() != load_prior(tmp_path, class_index=1).record()
    with pytest.raises(ConfigError, match="class_index=3, but the network has classes 0..2"):
        load_prior(tmp_path, class_index=3)


def test_networks_that_are_told_a_text_are_refused_by_what_they_are(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "own")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ConfigError, match="UNet2DConditionModel, which is conditioned on text or the like"):
        load_prior(folder)


MEAN, DEVIATION = [1.5, -2.0, 0.5, 3.0], [0.5, 2.0, 1.0, 4.0]


@pytest.mark.parametrize("name", [-1, None, ["UNet2DModel"]])
def test_a_class_that_is_no_name_is_one_line(name: Any, plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "p")
    config = tmp_path / "p" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": name}))
    with pytest.raises(ConfigError, match="holds a network .*, expected UNet2DModel"):
        load_prior(tmp_path / "p")


def coder(**settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return diffusers.AutoencoderKL(
            block_out_channels=(32,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
            latent_channels=4, norm_num_groups=8, scaling_factor=0.5, **settings,
        ).eval()  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{"latents_mean": MEAN, "latents_std": DEVIATION}, {"shift_factor": 0.3}, {}],
    ids=["mean", "shift", "scale"],
)
def test_latents_are_scaled_by_the_formula_of_the_library(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = coder(**settings)
    theirs.save_pretrained(tmp_path)
    ours = load_autoencoder(tmp_path, (4, 8, 8))
    column = lambda values: torch.tensor(values).view(1, -1, 1, 1)  # noqa: E731
    mean = column(settings.get("latents_mean", [settings.get("shift_factor", 0.0)]))
    spread = column(settings.get("latents_std", [1.0]))
    z = torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, 4, 8, 8)
    with torch.no_grad():
        encoded = (theirs.encode(X).latent_dist.mode() - mean) * 0.5 / spread
        decoded = theirs.decode(z * spread / 0.5 + mean).sample
        assert torch.allclose(ours.encode(X), encoded, atol=1e-5)
        assert torch.allclose(ours.decode(z), decoded, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"latents_mean": MEAN}, "states latents_mean alone"),
        ({"latents_mean": MEAN, "latents_std": [1.0, 0.0, 1.0, 1.0]}, r"latents_std is .*expected 4 finite numbers"),
        ({"latents_mean": MEAN[:2], "latents_std": DEVIATION}, r"latents_mean is .*expected 4"),
    ],
)
def test_scalings_that_cannot_be_are_one_line(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    coder(**settings).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=says):
        load_autoencoder(tmp_path, (4, 8, 8))


def keys(folder: Path) -> list[tuple[Path, str]]:
    """All keys of all configurations of a pipeline."""
    files = [
        folder / "unet" / "config.json",
        folder / "scheduler" / "scheduler_config.json",
        folder / "vae" / "config.json",
    ]
    return [(file, key) for file in files if file.is_file() for key in json.loads(file.read_text())]


def test_every_key_of_the_configurations_is_known_and_another_is_named(plain: Path, tmp_path: Path) -> None:
    """Whatever the classes of the library write is used or known not to matter; one more is in the record."""
    kinds = "DDPM DDIM PNDM DPMSolverMultistep EulerDiscrete HeunDiscrete FlowMatchEulerDiscrete UniPCMultistep"
    for kind in kinds.split():
        folder = shutil.copytree(plain, tmp_path / kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of some schedulers about numpy
            getattr(diffusers, f"{kind}Scheduler")().save_pretrained(folder / "scheduler")
        assert "remarks" not in load_prior(folder).record(), kind
    coder(latents_mean=[0.0] * 4, latents_std=[1.0] * 4).save_pretrained(tmp_path / "vae")
    assert "remarks" not in load_autoencoder(tmp_path / "vae", (4, 8, 8)).provenance
    for file, key in [*keys(plain), (tmp_path / "vae" / "config.json", "")]:
        if key == "_class_name":  # once for each file
            stated = json.loads(file.read_text())
            file.write_text(json.dumps({**stated, "made_up": 3}))
            assert "`made_up`" in load_prior(plain).record()["remarks"][0]
            file.write_text(json.dumps(stated))


def test_four_thousand_steps_have_a_name() -> None:
    assert make_schedule("vp-cosine:4000").noisiest == 4000
    assert make_schedule("vp-linear:0.000025,0.005,4000").noisiest == 4000
    for wrong in ("vp-cosine:4000.5", "vp-cosine:0", "vp-cosine:nan", "vp-cosine:1,2"):
        with pytest.raises(ConfigError, match="not settings of the schedule `vp-cosine`"):
            make_schedule(wrong)
