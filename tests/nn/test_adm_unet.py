"""The ADM U-Net: the public models' parameters, its options, and its arithmetic against another implementation."""

from dataclasses import replace

import pytest
import torch

from midguide.errors import ConfigError
from midguide.nn.adm_unet import FFHQ_256, IMAGENET_256, LDM_VQ4, ADMConfig, ADMUNet, visible_config

SMALL = ADMConfig(channels=32, multipliers=(1, 2), blocks=2, attention=(1,), head_channels=16)

VARIANTS = {
    "as the public models": SMALL,
    "new attention order": replace(SMALL, legacy_attention=False),
    "added embedding": replace(SMALL, scale_shift=False),
    "convolutional resampling": replace(SMALL, residual_resampling=False),
    "as latent diffusion": replace(SMALL, out_channels=3, scale_shift=False, residual_resampling=False),
    "plain resampling": replace(SMALL, residual_resampling=False, learned_resampling=False),
    "classes": replace(SMALL, classes=7),
    "heads by number": replace(SMALL, head_channels=None, heads=4),
    "one level": replace(SMALL, multipliers=(2,), attention=()),
    "wide stem": replace(SMALL, multipliers=(2, 3), in_channels=1, out_channels=1),
}


def filled(config, seed=0):
    """A network without the zeros that its last layers start with."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        network = ADMUNet(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return network.eval().requires_grad_(False)


def on_meta(config):
    with torch.device("meta"):
        return ADMUNet(config)


@pytest.mark.parametrize(("config", "count"), [(FFHQ_256, 93_563_910), (IMAGENET_256, 552_814_086)])
def test_public_models_have_their_parameters_and_shapes(config, count):
    """Four bytes each give the sizes of the published files: about 375 MB and 2.2 GB."""
    network = on_meta(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    out = network(torch.empty(1, 3, 256, 256, device="meta"), torch.empty(1, device="meta"))
    assert out.shape == (1, 6, 256, 256)


def test_latent_model_has_its_parameters_and_shapes():
    """274.06 million are what the code of its authors prints for it."""
    network = on_meta(LDM_VQ4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 274_056_163
    assert network(torch.empty(1, 3, 64, 64, device="meta"), torch.empty(1, device="meta")).shape == (1, 3, 64, 64)


def test_keys_are_those_of_the_public_files():
    keys = set(on_meta(FFHQ_256).state_dict())
    assert {"time_embed.0.weight", "time_embed.2.bias", "input_blocks.0.0.weight", "out.0.weight", "out.2.bias"} <= keys
    block = "input_blocks.3.0."  # first block of the second level, after a residual block that halves the grid
    layers = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    assert {key for key in keys if key.startswith(block)} == {
        f"{block}{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }
    assert {"input_blocks.9.1.norm.weight", "input_blocks.9.1.qkv.weight", "middle_block.1.proj_out.bias"} <= keys
    assert "input_blocks.5.0.skip_connection.weight" in keys
    assert "output_blocks.1.1.in_layers.2.weight" in keys  # a residual block that doubles the grid
    assert max(int(key.split(".")[1]) for key in keys if key.startswith("output_blocks.")) == 11


@pytest.mark.parametrize("config", [*VARIANTS.values(), FFHQ_256, IMAGENET_256, LDM_VQ4])
def test_a_checkpoint_shows_its_configuration_but_for_heads_and_their_order(config):
    seen = visible_config(on_meta(config).state_dict())
    invisible = {"heads": 1, "head_channels": None, "legacy_attention": True}
    assert replace(seen, **invisible) == replace(config, **invisible)


def test_keys_of_another_network_show_nothing():
    with pytest.raises(ConfigError, match="not those of a guided-diffusion U-Net: no 'input_blocks.0.0.weight'"):
        visible_config({"stem.weight": torch.zeros(1)})


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_runs_and_treats_rows_apart(config):
    network = filled(config)
    x = torch.linspace(-1, 1, 2 * config.in_channels * 16 * 8).reshape(2, config.in_channels, 16, 8)
    t, classes = torch.tensor([3.0, 900.0]), torch.tensor([1, 5]) if config.classes else None
    together = network(x, t, classes)
    alone = network(x[1:], t[1:], None if classes is None else classes[1:])
    assert together.shape == (2, config.out_channels, 16, 8)
    assert torch.allclose(together[1:], alone, rtol=0, atol=1e-5 * float(together.abs().max()))


def test_time_and_class_matter():
    network = filled(VARIANTS["classes"])
    x = torch.ones(2, 3, 8, 8)
    by_time = network(x, torch.tensor([10.0, 900.0]), torch.tensor([0, 0]))
    by_class = network(x, torch.tensor([10.0, 10.0]), torch.tensor([0, 6]))
    assert all(float((out[0] - out[1]).abs().max()) > 1e-3 for out in (by_time, by_class))
    with pytest.raises(ConfigError, match="conditioned on a class"):
        network(x, torch.tensor([10.0, 900.0]))


def test_legacy_order_is_the_new_order_with_the_rows_of_qkv_sorted_by_head():
    new, old = filled(VARIANTS["new attention order"]), filled(SMALL)
    state = old.state_dict()
    for key, value in state.items():
        if ".qkv." in key:  # (heads, 3, 16) to (3, heads, 16)
            state[key] = value.unflatten(0, (-1, 3, 16)).transpose(0, 1).flatten(0, 2)
    new.load_state_dict(state)
    x, t = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16), torch.tensor([77.0])
    assert torch.allclose(new(x, t), old(x, t), atol=1e-5)
    new.load_state_dict(old.state_dict())
    assert not torch.allclose(new(x, t), old(x, t), atol=1e-2)  # the order matters


def test_impossible_shapes_are_refused():
    with pytest.raises(ConfigError, match="32 groups"):
        ADMConfig(channels=48)
    with pytest.raises(ConfigError, match="heads of 64"):
        ADMConfig(channels=32, multipliers=(1,), attention=())
    with pytest.raises(ConfigError, match="attention at level 2"):
        replace(SMALL, attention=(2,))


OUTER_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
INNER_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
    "op": "conv",
}


def renamed(key, blocks):
    """The name that a diffusers UNet2DModel gives to a parameter of ours."""
    layer, _, kind = key.rpartition(".")
    outer = next((ours for ours in OUTER_NAMES if layer == ours or layer.startswith(f"{ours}.")), None)
    if outer:
        place, inner = OUTER_NAMES[outer], layer.removeprefix(outer).lstrip(".")
    else:
        group, stage, position, inner = layer.split(".", 3)
        side = "down" if group == "input_blocks" else "up"
        level, number = divmod(int(stage) - (side == "down"), blocks + 1)
        if inner in ("norm", "qkv", "proj_out"):
            part = f"attentions.{number}"
        elif number == blocks and (side == "down" or position != "0"):
            part = f"{side}samplers.0"
        else:
            part = f"resnets.{number}"
        place = f"{side}_blocks.{level}.{part}"
    return ".".join(filter(None, (place, INNER_NAMES.get(inner, inner), kind)))


THEIRS = {
    "new attention order": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
    },
    "as latent diffusion": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
}


@pytest.mark.parametrize("variant", THEIRS)
def test_arithmetic_agrees_with_the_implementation_of_diffusers(variant):
    """The same weights in UNet2DModel: blocks, resampling of both kinds, skips, embedding, both attention orders."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra 'hub'")
    config = VARIANTS[variant]
    theirs = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=config.out_channels,
        block_out_channels=(32, 64),
        layers_per_block=2,
        attention_head_dim=16,
        attn_norm_num_groups=32,
        norm_eps=1e-5,
        freq_shift=0,
        flip_sin_to_cos=True,
        **THEIRS[variant],
    ).eval()
    ours = filled(config)
    state = {}
    for key, value in ours.state_dict().items():
        name = renamed(key, config.blocks)
        flat = value[..., 0] if name.endswith("weight") and value.ndim == 3 else value
        if ".qkv." in name:
            parts = flat.chunk(3)
            if config.legacy_attention:  # (heads, 3, 16)
                parts = [part.flatten(0, 1) for part in flat.unflatten(0, (-1, 3, 16)).unbind(1)]
            for letter, part in zip("qkv", parts, strict=True):
                state[name.replace(".qkv.", f".to_{letter}.")] = part
        else:
            state[name] = flat
    theirs.load_state_dict(state)
    x, t = torch.linspace(-1, 1, 2 * 768).reshape(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        want = theirs(x, t).sample
    assert torch.allclose(ours(x, t), want, atol=1e-4 * float(want.abs().max()))
