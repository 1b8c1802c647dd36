"""The autoencoders of latent diffusion: the public model's parameters, and the arithmetic of another implementation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from midguide.errors import ConfigError
from midguide.nn.ldm_autoencoder import VECTORS, VQ_F4, Codebook, LDMAutoencoder, LDMAutoencoderConfig, Resample
from midguide.nn.ldm_autoencoder import visible_autoencoder as visible

SMALL = LDMAutoencoderConfig(width=32, multipliers=(1, 2), blocks=1, codes=64)
VARIANTS = {
    "vq": SMALL,
    "kl": replace(SMALL, codes=0, inner_channels=4, latent_channels=4),
    "attention": replace(SMALL, attention=(1,), blocks=2),
    "gray, wide": replace(SMALL, channels=1, multipliers=(2, 2, 4), latent_channels=5),
    "one level": replace(SMALL, multipliers=(1,), attention=(0,)),
}


def on_meta(config):
    with torch.device("meta"):
        return LDMAutoencoder(config)


def filled(config):
    generator = torch.Generator().manual_seed(0)
    network = on_meta(config).to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "embedding" in name else 0.1, generator=generator)
    return network


@pytest.mark.parametrize(
    ("config", "parameters", "latent"),
    [
        (VQ_F4, 55_322_782, (3, 64, 64)),
        (replace(VQ_F4, codes=0), 55_312_063, (3, 64, 64)),
        (
            replace(VQ_F4, codes=0, multipliers=(1, 2, 4, 4), inner_channels=4, latent_channels=4),
            83_653_863,
            (4, 32, 32),
        ),
    ],
    ids=["vq-f4", "kl-f4", "kl-f8"],
)
def test_public_autoencoders_have_their_parameters_and_shapes(config, parameters, latent):
    """Those of the KL ones are also the numbers of an `AutoencoderKL` of diffusers with these widths."""
    network = on_meta(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert visible(network.state_dict()) == config
    z = network.encode(torch.empty(1, 3, 256, 256, device="meta"))
    assert z.shape == (1, *latent)
    assert network.decode(z).shape == (1, 3, 256, 256)


def test_keys_are_those_of_the_public_files():
    keys = set(on_meta(VQ_F4).state_dict())
    block = "encoder.down.1.block.0."  # the first of its level, where the width changes
    layers = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
    assert {key for key in keys if key.startswith(block)} == {
        f"{block}{layer}.{kind}" for layer in layers for kind in ("weight", "bias")
    }
    wanted = {"encoder.conv_in", "encoder.down.1.downsample.conv", "encoder.mid.block_1.conv1", "encoder.norm_out"}
    wanted |= {"encoder.mid.attn_1.proj_out", "decoder.mid.block_2.norm2", "decoder.up.0.block.2.conv2", "quant_conv"}
    wanted |= {"decoder.up.2.upsample.conv", "decoder.up.1.block.0.nin_shortcut", "decoder.conv_out", "post_quant_conv"}
    assert {f"{name}.weight" for name in wanted} | {"quantize.embedding.weight"} <= keys
    assert not any(key.startswith(("encoder.down.2.downsample", "decoder.up.0.upsample")) for key in keys)
    assert "encoder.down.1.attn.0.q.weight" in on_meta(VARIANTS["attention"]).state_dict()


@pytest.mark.parametrize("config", [*VARIANTS.values(), VQ_F4], ids=[*VARIANTS, "vq-f4"])
def test_a_checkpoint_shows_its_configuration(config):
    assert visible(on_meta(config).state_dict()) == config


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_runs_and_treats_rows_apart(config):
    network = filled(config)
    x = torch.linspace(-1, 1, 2 * config.channels * 16 * 8).reshape(2, config.channels, 16, 8)
    z = network.encode(x)
    assert z.shape == (2, config.latent_channels, 16 // config.factor, 8 // config.factor)
    assert config.event_shape(z.shape[1:]) == x.shape[1:]
    for whole, alone in ((z, network.encode(x[1:])), (network.decode(z), network.decode(z[1:]))):
        assert torch.allclose(whole[1:], alone, atol=1e-5 * float(whole.abs().max()))


def test_keys_of_another_network_and_wrong_widths_show_nothing():
    with pytest.raises(ConfigError, match="not those of an autoencoder of latent diffusion"):
        visible({"stem.weight": torch.zeros(1)})
    state = on_meta(SMALL).state_dict()
    del state["quantize.embedding.weight"]
    with pytest.raises(ConfigError, match="no codebook, and 3 channels in quant_conv") as caught:
        visible(state)
    assert "a KL autoencoder has 6 there" in caught.value.hint
    with pytest.raises(ConfigError, match="32 groups"):
        LDMAutoencoderConfig(width=48)


def test_quantization_takes_the_nearest_vector_and_lets_derivatives_pass():
    book = Codebook(50, 3)
    nn.init.normal_(book.embedding.weight, generator=torch.Generator().manual_seed(1))
    rows = VECTORS // 64 + 3  # more vectors than are compared at once
    z = torch.sin(torch.arange(rows * 3 * 64, dtype=torch.float32)).reshape(rows, 3, 8, 8).requires_grad_()
    out = book(z)
    vectors = z.detach().permute(0, 2, 3, 1).reshape(-1, 3)
    nearest = torch.cdist(vectors, book.embedding.weight).argmin(1)
    want = book.embedding.weight[nearest].reshape(rows, 8, 8, 3).permute(0, 3, 1, 2)
    assert torch.allclose(out, want, atol=1e-6)
    weights = torch.cos(torch.arange(z.numel(), dtype=torch.float32)).reshape(z.shape)
    assert torch.equal(torch.autograd.grad((weights * out).sum(), z)[0], weights)
    network = filled(SMALL)
    inner = z.detach()[:1]
    assert torch.equal(network.decode(inner, quantize=False), network.decoder(network.post_quant_conv(inner)))
    assert not torch.allclose(network.decode(inner), network.decode(inner, quantize=False), atol=1e-3)


def test_halving_pads_at_right_and_bottom_only():
    down = Resample(32, up=False)
    nn.init.ones_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    x = torch.zeros(1, 32, 4, 4)
    x[:, 0, 0, 0] = 1.0
    x[:, 0, 2, 2] = 10.0  # seen by all four outputs, which cover rows and columns 0..2 and 2..4
    with torch.no_grad():
        assert down(x)[0, 0].tolist() == [[11.0, 10.0], [10.0, 10.0]]


PARTS = {
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1": "mid_block.attentions.0",
    "norm_out": "conv_norm_out",
}
PLACES = {"block": "resnets", "attn": "attentions", "downsample": "downsamplers.0", "upsample": "upsamplers.0"}
INNER = {"nin_shortcut": "conv_shortcut", "norm": "group_norm", "proj_out": "to_out.0"} | {k: f"to_{k}" for k in "qkv"}


def renamed(key, levels):
    """The name that diffusers gives to a parameter of ours."""
    side, _, rest = key.partition(".")
    if side not in ("encoder", "decoder"):
        return key
    for ours, theirs in PARTS.items():
        if rest.startswith(f"{ours}."):
            rest = rest.replace(ours, theirs)
    head, *inner = rest.split(".")
    if head in ("down", "up"):
        level, part, *inner = inner
        level = int(level) if head == "down" else levels - 1 - int(level)  # diffusers counts up from the coarsest
        rest = ".".join([f"{head}_blocks.{level}.{PLACES[part]}", *inner])
    *place, layer, kind = rest.split(".")
    translate = any(part in ("attentions", "resnets") for part in place)
    return ".".join([side, *place, INNER.get(layer, layer) if translate else layer, kind])


@pytest.mark.parametrize("kind", ["VQModel", "AutoencoderKL"])
@pytest.mark.parametrize("attention", [(), (0, 1)], ids=["plain", "attention"])
def test_arithmetic_agrees_with_the_implementation_of_diffusers(kind, attention):
    """The same weights, one by one: encoding, quantization, decoding."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra 'hub'")
    vq = kind == "VQModel"
    config = replace(VARIANTS["vq" if vq else "kl"], attention=attention, blocks=2, latent_channels=3, inner_channels=3)
    prefix = "Attn" if attention else ""
    theirs = getattr(diffusers, kind)(
        block_out_channels=(32, 64),
        down_block_types=(f"{prefix}DownEncoderBlock2D",) * 2,
        up_block_types=(f"{prefix}UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        latent_channels=3,
        norm_num_groups=32,
        **({"num_vq_embeddings": 64, "vq_embed_dim": 3} if vq else {}),
    ).eval()
    ours = filled(config)
    wanted, state = theirs.state_dict(), {}
    for key, value in ours.state_dict().items():
        name = renamed(key, len(config.multipliers))
        state[name] = value.reshape(wanted[name].shape)  # attention: 1x1 convolutions as linear layers
    theirs.load_state_dict(state)
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 24).reshape(2, 3, 16, 24).sin()
    with torch.no_grad():
        encoded = theirs.encode(x).latents if vq else theirs.encode(x).latent_dist.mode()
        decoded = theirs.decode(encoded).sample
        direct = theirs.decode(encoded, force_not_quantize=True).sample if vq else decoded
    z = ours.encode(x)
    for got, want in ((z, encoded), (ours.decode(encoded), decoded), (ours.decode(encoded, quantize=False), direct)):
        assert torch.allclose(got, want, atol=1e-4 * float(want.abs().max()))
