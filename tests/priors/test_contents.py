"""What training codes write around the weights of a network: containers, wrappers, averages, and what is not used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from midguide.errors import CheckpointError, ConfigError
from midguide.nn.adm_unet import ADMConfig, ADMUNet
from midguide.priors.formats.contents import Contents
from midguide.priors.loading import load_prior

MARKER = "stem.weight"


def weights(value: float) -> dict[str, Tensor]:
    """A network's weights, all of one value, two of the same shape, and a buffer of integers."""
    names = {"stem.weight": (3, 2), "stem.bias": (3,), "head_a.scale": (3,), "head_a.weight": (2, 3)}
    return {name: torch.full(shape, value) for name, shape in names.items()} | {"count": torch.tensor(7)}


LAST, MEAN = weights(1.0), weights(2.0)
FLOATS = [value for value in MEAN.values() if value.is_floating_point()]


def under(prefix: str, of: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in of.items()}


def same(found: object, wanted: dict[str, Tensor]) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == wanted.keys()
        and all(map(torch.equal, found.values(), wanted.values()))
    )


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "denoiser.unet.",
     "model.module._orig_mod.", "_forward_module.model.", "diffusion_model._fsdp_wrapped_module."],
)  # fmt: skip
@pytest.mark.parametrize("container", ["", "state_dict", "model", "params", "anything"])
def test_wrappers_are_stripped_wherever_the_weights_lie(prefix: str, container: str) -> None:
    held = Contents({container: under(prefix, LAST), "epoch": 3} if container else under(prefix, LAST))
    found = held.weights(MARKER)
    assert found is not None
    assert same(found.last, LAST)
    assert (found.averaged, found.remarks) == (None, ())


AVERAGES = {
    "ema": {"model": LAST, "ema": MEAN},
    "ema_state_dict": {"state_dict": LAST, "ema_state_dict": MEAN},
    "state_dict_ema": {"state_dict": LAST, "state_dict_ema": MEAN},
    "model_ema": {"model": LAST, "model_ema": MEAN},
    "model_ema_state_dict": {"model": LAST, "model_ema_state_dict": MEAN},
    "params_ema": {"params": LAST, "params_ema": MEAN},
    "ema_params": {"params": LAST, "ema_params": MEAN},
    "averaging_state": {"state_dict": LAST, "averaging_state": MEAN},
    "emaModel": {"net": LAST, "emaModel": MEAN},
    "netEMA": {"net": LAST, "netEMA": MEAN},
    "swa_model": {"model": LAST, "swa_model": {"n_averaged": torch.tensor(9), **under("module.", MEAN)}},
    "ema.shadow": {"model": LAST, "ema": {"mu": 0.999, "shadow": MEAN}},
    "ema.shadow_params": {
        "model": LAST,
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": FLOATS, "collected_params": FLOATS},
    },
    "ema.module": {"model": under("module.", LAST), "ema": {"module": MEAN, "decay": 0.99}},
    "flat": {**LAST, **under("ema.", MEAN)},
    "flat beside a wrapper": {"state_dict": {**under("model.", LAST), **under("ema_model.", MEAN)}},
    "names without dots": {"model": LAST, "ema_state_dict": {n.replace(".", ""): v for n, v in MEAN.items()}},
    "names with underscores": {"model": LAST, "model_ema": {n.replace(".", "_"): v for n, v in MEAN.items()}},
    "online and average": {
        "model": under("model.", LAST),
        "ema": {"initted": torch.tensor(True), **under("online_model.", LAST), **under("ema_model.", MEAN)},
    },
    "a list": [under("module.", LAST), {"state": {}, "param_groups": []}, 3, 1000, MEAN],
    "current weights beside their average": {"state_dict": MEAN, "current_model_state": LAST},
    "in the state of an optimizer": {"state_dict": LAST, "optimizer_states": [{"ema": FLOATS, "step": 3}]},
    "in a callback": {"state_dict": LAST, "callbacks": {"EMA": {"ema_weights": MEAN}}},
    "compiled, parallel and by lightning": {
        "state_dict": {**under("model.module._orig_mod.", LAST), **under("ema.module._orig_mod.", MEAN)}
    },
    "in half precision": {"model": LAST, "ema": {n: v.half() if v.is_floating_point() else v for n, v in MEAN.items()}},
}  # fmt: skip


@pytest.mark.parametrize("content", AVERAGES.values(), ids=AVERAGES)
def test_the_average_is_found_in_every_form(content: object) -> None:
    found = Contents(content).weights(MARKER)
    assert found is not None
    assert same(found.last, LAST)
    assert same(found.averaged, MEAN)
    used, told = found.choose(None, "own.pt")
    assert used is found.averaged
    assert told == {"weights": "averaged", "remarks": [told["remarks"][0]]}
    assert "averaged weights (EMA) are used" in told["remarks"][0]
    assert found.choose(False, "own.pt") == (found.last, {"weights": "last"})


def test_an_average_that_fits_no_weights_is_named_and_the_last_are_used() -> None:
    for average in ({"shadow_params": FLOATS[:1]}, {"shadow": {"other.weight": torch.zeros(3)}}):
        found = Contents({"model": LAST, "ema": average}).weights(MARKER)
        assert found is not None
        assert found.averaged is None
        (remark,) = [line for line in found.remarks if "does not fit" in line]
        assert remark.endswith("so the last ones are used")


def test_a_list_of_an_average_is_used_only_if_one_reading_has_its_shapes() -> None:
    """Without `stem.bias` or without `head_a.scale`, both of shape (3,): nothing says which."""
    shorter = [value for name, value in MEAN.items() if name not in ("stem.bias", "count")]
    found = Contents({"model": LAST, "ema": {"shadow_params": shorter}}).weights(MARKER)
    assert found is not None
    assert found.averaged is None
    without = [value for name, value in MEAN.items() if name not in ("stem.weight", "count")]
    found = Contents({"model": LAST, "ema": {"shadow_params": without}}).weights(MARKER)
    assert found is not None
    assert found.averaged is not None
    assert torch.equal(found.averaged["stem.weight"], LAST["stem.weight"])
    assert torch.equal(found.averaged["head_a.scale"], MEAN["head_a.scale"])
    assert any("the average lacks 1 weights, such as `stem.weight`" in line for line in found.remarks)


KNOWN = {
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
    "optimizer_states": [{"state": {}, "param_groups": []}],
    "lr_schedulers": [{"last_epoch": 3}],
    "opt": {"other": torch.zeros(2)},
    "epoch": 3,
    "global_step": 10,
    "pytorch-lightning_version": "2",
    "callbacks": {"ModelCheckpoint": {"best": torch.zeros(())}},
    "loops": {"fit": {}},
    "scaler": {"scale": 65536.0},
    "rng_state": torch.zeros(8, dtype=torch.uint8),
    "best_loss": 0.1,
    "betas": torch.linspace(1e-4, 0.02, 1000),
    "alphas_cumprod": torch.ones(1000),
}
UNKNOWN = {
    "discriminator": {"a": torch.zeros(2)},
    "hyper_parameters": {"objective": "v"},
    "config": "text",
    "scale": 2.0,
}


def test_every_container_of_a_checkpoint_is_used_or_known_or_named() -> None:
    """Walks all keys: what a training only needs is passed over, all others are in one line."""
    found = Contents({"model": {**LAST, "ema.unlike": torch.zeros(1)}, **KNOWN}).weights(MARKER)
    assert found is not None
    assert all(name not in line for line in found.remarks for name in KNOWN)
    for name, value in UNKNOWN.items():
        found = Contents({"state_dict": LAST, **KNOWN, name: value}).weights(MARKER)
        assert found is not None
        assert len(found.remarks) == 1
        assert found.remarks[0].startswith(f"not used: `{name}")
    both = Contents({"state_dict": {**under("model.", LAST), "teacher.stem.weight": torch.zeros(1)}}).weights(MARKER)
    assert both is not None
    assert same(both.last, LAST)
    assert both.remarks == ("not used: `state_dict.teacher`",)


def test_a_file_that_contains_itself_ends() -> None:
    content: dict[str, object] = {"model": LAST}
    content["again"] = [content]
    found = Contents(content).weights(MARKER)
    assert found is not None
    assert same(found.last, LAST)


CONFIG = ADMConfig(channels=32, multipliers=(1,), blocks=1, attention=(), head_channels=32)


@pytest.fixture(scope="module")
def network() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return {name: value.normal_(std=0.05) for name, value in ADMUNet(CONFIG).state_dict().items()}


def test_what_a_checkpoint_says_is_said_in_one_line_each_and_recorded(
    network: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = {name: torch.zeros_like(value) for name, value in network.items()}
    content = {"state_dict": under("model.", last), "averaging_state": {n: v.half() for n, v in network.items()}}
    torch.save({**content, "hyper_parameters": {"size": 16}}, tmp_path / "OWN.PTH.TAR")
    settings = {"network": CONFIG, "event_shape": (3, 8, 8)}
    with caplog.at_level(logging.WARNING, "midguide"):
        prior = load_prior(tmp_path / "OWN.PTH.TAR", **settings)
    remarks = prior.record()["remarks"]
    assert [record.getMessage() for record in caplog.records] == [f"{prior.name}: {remark}" for remark in remarks]
    assert remarks[0].startswith("the averaged weights (EMA) are used")
    assert remarks[1:] == ["not used: `hyper_parameters`"]
    assert prior.record()["weights"] == "averaged"
    torch.save(network, tmp_path / "own.pt")
    x = torch.ones(1, 3, 8, 8)
    assert torch.allclose(prior(x, 500), load_prior(tmp_path / "own.pt", **settings)(x, 500), atol=2e-2)


def test_rounded_weights_become_float32_and_it_is_said(network: dict[str, Tensor], tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: value.to(dtype) for name, value in network.items()}, tmp_path / "own.ckpt")
        prior = load_prior(tmp_path / "own.ckpt", network=CONFIG, event_shape=(3, 8, 8))
        assert prior(torch.zeros(1, 3, 8, 8), 500).dtype == torch.float32
        word = str(dtype).removeprefix("torch.")
        assert prior.provenance["remarks"] == [f"the weights are {word} in the file, and float32 here"]


def test_betas_beside_the_weights_are_the_schedule(network: dict[str, Tensor], tmp_path: Path) -> None:
    betas = torch.linspace(1e-3, 0.1, 100, dtype=torch.float64)
    torch.save({"model": {**network, "betas": betas}}, tmp_path / "own.pt")
    prior = load_prior(tmp_path / "own.pt", network=CONFIG, event_shape=(3, 8, 8))
    assert prior.schedule.noisiest == 100
    assert prior.schedule.level(100).alpha ** 2 == pytest.approx(float(torch.prod(1 - betas)), rel=1e-9)


def test_files_without_weights_say_what_they_are(tmp_path: Path) -> None:
    torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}, tmp_path / "optimizer.pt")
    with pytest.raises(CheckpointError, match="holds the state of an optimizer, and no weights"):
        load_prior(tmp_path / "optimizer.pt")
    text = {
        "input_blocks.0.0.weight": torch.zeros(1),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight": torch.zeros(1),
    }
    torch.save(text, tmp_path / "text.pt")
    with pytest.raises(ConfigError, match="conditioned on text or the like"):
        load_prior(tmp_path / "text.pt")
    small = {"init_conv.weight": torch.zeros(1), "downs.0.0.block1.proj.weight": torch.zeros(1)}
    torch.save(
        {"step": 1, "model": under("model.", small), "ema": under("ema_model.model.", small)}, tmp_path / "m-1.pt"
    )
    with pytest.raises(ConfigError, match="of denoising-diffusion-pytorch.*\nhint: load it with the release"):
        load_prior(tmp_path / "m-1.pt")
