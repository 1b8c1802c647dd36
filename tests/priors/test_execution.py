"""How a network is run changes its answers by rounding only: dtype, layout, compilation, recomputation, chunks."""

import shutil

import pytest
import torch
from torch import nn

from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import ConfigError
from midguide.maths.autodiff import checkpointed, frozen, vjp
from midguide.nn import layout
from midguide.nn.autoencoder import AutoencoderConfig, AutoencoderNetwork
from midguide.nn.unet import ResidualBlock, SelfAttention, TimeEmbedding, UNet, UNetConfig
from midguide.priors import network
from midguide.priors.latent import NetworkAutoencoder
from midguide.priors.loading import load_prior
from midguide.priors.network import NetworkDenoiser
from midguide.testing import check_denoiser

SHAPE = (3, 16, 16)
X = torch.linspace(-1, 1, 5 * 768).reshape(5, *SHAPE)


def tiny_network() -> UNet:
    generator = torch.Generator().manual_seed(0)
    network = UNet(UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,), patch=2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


def answers(**settings):
    """`D(x, t)` and a vjp, of one network."""
    denoiser = NetworkDenoiser(tiny_network(), DiscreteVP.linear(), "v", SHAPE, **settings)
    x0, pullback = vjp(lambda u: denoiser(u, 400), X)
    return x0, pullback(X.flip(0))


def distance(got, want):
    return max(float((g - w).norm() / w.norm()) for g, w in zip(got, want, strict=True))


# float32 sums in another order: some hundred times its 2^-24. bfloat16 and float16 have 8 and 11 bits, and there are
# some layers.
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"channels_last": True}, 1e-5),
        ({"checkpointing": True}, 1e-6),
        ({"chunk": 2}, 1e-5),
        ({"chunk": 2, "checkpointing": True, "channels_last": True}, 1e-5),
        ({"device": "cpu"}, 0.0),
        ({"dtype": torch.float64}, 1e-5),
        ({"dtype": torch.bfloat16}, 0.05),
        ({"dtype": torch.float16}, 0.01),
        ({"dtype": torch.bfloat16, "checkpointing": True, "chunk": 1}, 0.05),
    ],
    ids=str,
)
def test_settings_of_execution_change_the_answer_by_rounding_only(settings, tolerance):
    got, want = answers(**settings), answers()
    assert all(value.dtype == torch.float32 for value in got)
    assert distance(got, want) <= tolerance


def test_a_denoiser_with_every_setting_keeps_the_contract():
    check_denoiser(
        NetworkDenoiser(
            tiny_network(),
            DiscreteVP.linear(),
            "v",
            SHAPE,
            dtype=torch.float32,
            chunk=2,
            checkpointing=True,
            channels_last=True,
            device="cpu",
        )
    )


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")  # those of the compiler are not ours
@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])  # a minute each
def test_compiled_network_gives_the_same_answer(checkpointing):
    assert distance(answers(compile=True, checkpointing=checkpointing), answers()) < 1e-5


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")
def test_the_pullback_of_a_compiled_network_can_be_called_again():
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3)).requires_grad_(False)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    priors = [NetworkDenoiser(_Timeless(network), DiscreteVP.linear(), "x0", (3,), compile=c) for c in (True, False)]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    pullbacks = [vjp(lambda u, prior=prior: prior(u, 400), x)[1] for prior in priors]
    for vector in (x, x.flip(0), x):
        got, want = (pullback(vector) for pullback in pullbacks)
        assert torch.allclose(got, want, atol=1e-6)


class _Timeless(nn.Module):
    """A network that does not look at the label."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x, label):
        return self.body(x)


def test_compilation_is_asked_for_once_and_only_if_wanted(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    answers()
    assert compiled == []
    answers(compile=True)
    assert len(compiled) == 1


def test_an_accelerator_gives_the_answer_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    assert distance(answers(device="cuda"), answers()) < 1e-3  # its convolutions may round to TF32


def test_a_prior_on_another_schedule_moves_with_its_weights():
    inner = NetworkDenoiser(tiny_network(), DiscreteVP.linear(), "v", SHAPE, device="cpu")
    inner.on(DiscreteVP.cosine()).to("meta")
    assert {p.device.type for p in inner.network.parameters()} == {"meta"}
    assert inner.device == "meta"  # where inputs are copied to from now on


@pytest.mark.parametrize(("asked", "there"), [(None, True), (True, True), (False, False)])
def test_a_move_brings_weights_into_the_memory_layout_of_the_new_place(monkeypatch, asked, there):
    """The meta device stands for a GPU."""
    layouts = {"cpu": torch.contiguous_format, "meta": torch.channels_last}
    for module in (network, layout):
        monkeypatch.setattr(module, "image_layout", lambda device: layouts[torch.device(device or "cpu").type])

    def channels_last(module):
        kernels = [p for p in module.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        return {p.is_contiguous(memory_format=torch.channels_last) for p in kernels}

    denoiser = NetworkDenoiser(tiny_network(), DiscreteVP.linear(), "v", SHAPE, channels_last=asked)
    assert channels_last(denoiser.network) == {bool(asked)}
    assert channels_last(denoiser.to("meta").network) == {there}
    assert (denoiser.layout == torch.channels_last) is there
    body = tiny_network()
    coder = NetworkAutoencoder(body, body, SHAPE, SHAPE, network=body)
    assert channels_last(coder.network) == {False}
    assert channels_last(coder.to("meta").network) == {True}


def test_checkpointing_keeps_less_for_the_derivative():
    """What autograd keeps between forward and backward, in numbers, counted by its own hooks."""

    def kept(network):
        sizes = []

        def pack(value):
            sizes.append(value.numel())
            return value

        x = torch.zeros(1, *SHAPE, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            network(x, torch.zeros(1))
        return sum(sizes)

    assert kept(checkpointed(tiny_network())) < 0.5 * kept(tiny_network())


def tiny_autoencoder() -> AutoencoderNetwork:
    generator = torch.Generator().manual_seed(1)
    network = AutoencoderNetwork(AutoencoderConfig(widths=(16, 32), blocks=1, patch=2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return frozen(network)


def answers_of_an_autoencoder(**settings):
    """Latents, signals, and a vjp of each."""
    body = tiny_autoencoder()
    shape = body.config.latent_shape(SHAPE)
    coder = NetworkAutoencoder(body.encode, body.decode, SHAPE, shape, network=body, scale=1.5, shift=0.2, **settings)
    z, encoding = vjp(coder.encode, X)
    x, decoding = vjp(coder.decode, z.flip(0).float())
    return z, x, encoding(z.flip(0)), decoding(x.flip(0))


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"checkpointing": True}, 1e-6),
        ({"checkpointing": True, "rows": 2}, 1e-5),
        ({"dtype": torch.float64}, 1e-5),
        ({"dtype": torch.bfloat16}, 0.05),
        ({"dtype": torch.float16}, 0.01),
        ({"dtype": torch.bfloat16, "checkpointing": True, "rows": 1}, 0.05),
    ],
    ids=str,
)
def test_settings_of_execution_of_an_autoencoder_change_the_answer_by_rounding_only(settings, tolerance):
    got, want = answers_of_an_autoencoder(**settings), answers_of_an_autoencoder()
    assert all(value.dtype == torch.float32 for value in got)
    assert distance(got, want) <= tolerance
    if "dtype" in settings:
        assert distance(got, want) > 0.0  # another arithmetic was used


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_signals_of_another_dtype_than_the_weights_keep_it(dtype):
    body = tiny_autoencoder()
    coder = NetworkAutoencoder(body.encode, body.decode, SHAPE, body.config.latent_shape(SHAPE), network=body)
    assert coder.decode(coder.encode(X.to(dtype))).dtype == dtype


def test_of_a_piece_that_is_decoded_less_is_kept_with_checkpointing():
    """The graph that a piece has while its derivative is taken: that of the decoder itself."""

    def kept(body):
        sizes = []
        z = torch.zeros(1, *body.config.latent_shape(SHAPE), requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda v: sizes.append(v.numel()) or v, lambda v: v):
            body.decode(z)
        return sum(sizes)

    body = tiny_autoencoder()
    before = kept(body)
    NetworkAutoencoder(body.encode, body.decode, SHAPE, (4, 4, 4), network=body, checkpointing=True)
    assert kept(body) < 0.5 * before


def test_a_prior_of_latents_is_told_what_its_autoencoder_computes_in():
    prior = load_prior("faces-64-latent", latent_dtype=torch.bfloat16, checkpointing=True)
    assert {p.dtype for p in prior.denoiser.network.parameters()} == {torch.float32}
    assert {p.dtype for p in prior.autoencoder.network.parameters()} == {torch.bfloat16}
    assert any("forward" in vars(part) for part in prior.autoencoder.network.modules())
    plain = load_prior("faces-64-latent", dtype=torch.bfloat16)  # which is of the prior's network alone
    assert {p.dtype for p in plain.autoencoder.network.parameters()} == {torch.float32}
    rounded, exact = prior.record()["autoencoder"], plain.record()["autoencoder"]
    assert (rounded["dtype"], exact["dtype"]) == ("torch.bfloat16", "as weights")
    assert rounded["network"]["sha256"] != exact["network"]["sha256"]
    assert rounded["network"]["structure"] == exact["network"]["structure"]
    z = torch.linspace(-1, 1, 2048).reshape(1, 8, 16, 16)
    assert distance([prior.autoencoder.decode(z)], [plain.autoencoder.decode(z)]) < 0.05
    with pytest.raises(ConfigError, match="`latent_dtype` belongs to a prior of latents"):
        load_prior("faces-64", latent_dtype=torch.bfloat16)


def test_checkpointed_blocks_are_the_residual_and_attention_blocks():
    network = tiny_network()
    checkpointed(network)
    replaced = [module for module in network.modules() if "forward" in vars(module)]
    blocks = (ResidualBlock, SelfAttention)
    assert [m for m in network.modules() if isinstance(m, blocks)] == [m for m in replaced if isinstance(m, blocks)]
    others = [m for m in replaced if not isinstance(m, blocks)]
    assert others == [m.layers for m in network.modules() if isinstance(m, TimeEmbedding)]


def test_a_callable_can_be_recomputed_as_a_whole():
    denoiser = NetworkDenoiser(lambda x, t: torch.sin(x), DiscreteVP.linear(), "x0", SHAPE, checkpointing=True)
    x0, pullback = vjp(lambda u: denoiser(u, 10), X)
    assert torch.equal(x0, X.sin())
    assert torch.allclose(pullback(torch.ones_like(X)), X.cos())


def test_chunks_must_be_positive():
    with pytest.raises(ConfigError, match="chunk must be at least 1"):
        NetworkDenoiser(lambda x, t: x, DiscreteVP.linear(), "eps", SHAPE, chunk=0)
