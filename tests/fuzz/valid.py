"""Small valid inputs of every kind, made once; what is damaged are copies of them."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 16


@cache
def images() -> dict[str, bytes]:
    """Images by the endings of their names, in all modes that are read."""
    gray = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    color = np.stack([gray, gray.T, gray[::-1]], 2)
    made = {
        "png": _image(color, "PNG"),
        "gray.png": _image(gray, "PNG"),
        "deep.png": _image(gray.astype(np.uint16) * 257, "PNG"),
        "palette.png": _image(Image.fromarray(color).convert("P"), "PNG"),
        "jpg": _image(color, "JPEG"),
        "webp": _image(color, "WEBP"),
        "bmp": _image(color, "BMP"),
        "gif": _image(gray, "GIF"),
        "tif": _image(color, "TIFF", compression="tiff_lzw"),
        "deep.tif": _image(gray.astype(np.uint16) * 257, "TIFF"),
        "jp2": _image(color, "JPEG2000"),
        "ppm": _image(color, "PPM"),
    }
    large = Image.new("RGB", (6000, 6000), (1, 2, 3))
    return made | {"large.png": _image(large, "PNG", compress_level=1)}


def _image(pixels: Any, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


@cache
def archive(packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file of images."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as file:
        for number in range(3):
            file.writestr(f"{number}.png", images()["png"])
    return buffer.getvalue()


@cache
def array(shape: tuple[int, ...] = (3, SIDE, SIDE), dtype: str = "<f8") -> bytes:
    """A `.npy` file."""
    np.save(buffer := io.BytesIO(), np.sin(np.arange(np.prod(shape))).reshape(shape).astype(dtype))
    return buffer.getvalue()


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


@cache
def recording() -> dict[str, bytes]:
    """A WFDB record of twelve leads, as files by name: plain, and as two segments."""
    values = (200 * np.sin(np.arange(300)[:, None] / 9 + np.arange(12))).astype("<i2")
    lines = [
        f"r.dat 16 1000/mV 16 0 {column[0]} {column.sum() & 0xFFFF} 0 {name}"
        for name, column in zip(LEADS, values.T, strict=True)
    ]
    header = "\n".join([f"r 12 100 {len(values)}", *lines, "# a comment", ""])
    several = f"s/2 12 100 {2 * len(values)}\nr {len(values)}\nr {len(values)}\n"
    return {"r.hea": header.encode(), "r.dat": values.tobytes(), "s.hea": several.encode()}


@cache
def table() -> str:
    """A recording as a table."""
    rows = [",".join([f"{i / 100:.2f}", *(f"{0.2 * np.sin(i / 9 + j):.4f}" for j in range(12))]) for i in range(120)]
    return "\n".join([",".join(("time", *LEADS)), *rows, ""])


@cache
def folder() -> Path:
    """Where files that libraries write are made."""
    return Path(tempfile.mkdtemp(prefix="fuzz-valid-"))


@cache
def prior() -> bytes:
    """A native prior of 16x16 images."""
    from midguide.nn.unet import UNet, UNetConfig
    from midguide.priors.formats.native import save_prior
    from midguide.priors.settings import PriorSettings

    config = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
    settings = PriorSettings(network=config, event_shape=(3, SIDE, SIDE))
    save_prior(folder() / "p.safetensors", UNet(config).state_dict(), settings)
    return (folder() / "p.safetensors").read_bytes()


@cache
def latent_prior() -> bytes:
    """A native prior of latents, with its autoencoder."""
    from midguide.nn.autoencoder import AutoencoderConfig
    from midguide.nn.unet import UNet, UNetConfig
    from midguide.priors.autoencoders import AutoencoderSpec, prefixed
    from midguide.priors.formats.native import save_prior
    from midguide.priors.settings import PriorSettings

    coder = AutoencoderConfig()
    channels = coder.latent_shape((3, 64, 64))
    spec = AutoencoderSpec(
        network=coder, event_shape=(3, 64, 64), scale=(1.0,) * channels[0], shift=(0.0,) * channels[0]
    )
    config = UNetConfig(
        in_channels=channels[0], out_channels=channels[0], channels=32, multipliers=(1,), blocks=1, attention=()
    )
    weights = {**UNet(config).state_dict(), **prefixed(coder.build().state_dict())}
    settings = PriorSettings(network=config, event_shape=channels, autoencoder=spec)
    save_prior(folder() / "l.safetensors", weights, settings)
    return (folder() / "l.safetensors").read_bytes()


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length])["__metadata__"]


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with other metadata."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": metadata}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@cache
def adm() -> dict[str, Tensor]:
    """Weights of a small U-Net of guided diffusion."""
    from midguide.nn.adm_unet import ADMConfig, ADMUNet

    config = ADMConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,), head_channels=16)
    return dict(ADMUNet(config).state_dict())


@cache
def checkpoint(kind: str) -> bytes:
    """A checkpoint of torch: weights alone, or inside of what trainers keep, or a pickle as before torch 1.6."""
    held = {"plain": adm(), "nested": {"state_dict": adm(), "ema": adm(), "step": 7}, "old": adm()}[kind]
    torch.save(held, buffer := io.BytesIO(), _use_new_zipfile_serialization=kind != "old")
    return buffer.getvalue()


@cache
def feature_net() -> bytes:
    """A network of features."""
    from midguide.nn.feature_net import FeatureNet, FeatureNetConfig, save_feature_net

    config = FeatureNetConfig(channels=8)
    save_feature_net(folder() / "f.safetensors", FeatureNet(config).state_dict(), config)
    return (folder() / "f.safetensors").read_bytes()


@cache
def autoencoder() -> bytes:
    """An autoencoder's file."""
    from midguide.nn.autoencoder import AutoencoderConfig
    from midguide.priors.autoencoders import AutoencoderSpec, save_autoencoder

    coder = AutoencoderConfig()
    count = coder.latent_shape((3, 64, 64))[0]
    spec = AutoencoderSpec(network=coder, event_shape=(3, 64, 64), scale=(1.0,) * count, shift=(0.0,) * count)
    save_autoencoder(folder() / "a.safetensors", coder.build().state_dict(), spec)
    return (folder() / "a.safetensors").read_bytes()


@cache
def samples() -> dict[str, bytes]:
    """The files of a folder of draws, and `run.progress` of a run that was interrupted."""
    from midguide import make_sampler, sample
    from midguide.testing.pieces import vectors

    sampler, place = make_sampler("dps", {"steps": 8}), folder() / "draws"
    sample(sampler, vectors(), 2, chunk=2).save(place)
    step, calls = type(sampler).step, []

    def broken(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return step(self, *arguments)

    type(sampler).step = broken
    try:
        sample(sampler, vectors(), 2, chunk=2, checkpoint=place / "run.progress")
    except KeyboardInterrupt:
        pass
    finally:
        type(sampler).step = step
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


RECIPE = """name = "small"
steps = 2
batch = 2
warmup = 1
checkpoint_every = 1
seed = 0
bfloat16 = false

[network]
channels = 32
multipliers = [1]
blocks = 1
attention = []
patch = 4

[card]
data = "nothing"
"""

STUDY = """[study]
name = "tiny"

samples = 4
seeds = [0]
metrics = ["sliced_wasserstein_1[slices=20]", "mode_weight_tv"]

[[problems]]
kind = "mixture"
label = "dx = 2"
dimension = 2
seeds = { first = 0, count = 2 }

[[samplers]]
spec = "exact"

[[samplers]]
spec = "ddrm:paper"
label = "DDRM"
settings = { steps = 5 }

[[samplers]]
spec = "dps"
label = "DPS"
settings = { steps = 5, guidance = 0.1 }
"""


@cache
def training() -> dict[str, bytes]:
    """The files of a finished training of two steps, and the images that it was trained on."""
    from midguide.training.base import Data, Run, load_recipe

    place = folder() / "training"
    for number in range(3):
        (place / "images").mkdir(parents=True, exist_ok=True)
        (place / "images" / f"{number}.png").write_bytes(images()["png"])
    (place / "r.toml").write_text(RECIPE)
    load_recipe(place / "r.toml").job(Data(path=place / "images")).train(Run(place / "out"))
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
