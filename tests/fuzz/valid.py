"""Small valid inputs of every kind, made once before the workers are forked; what is damaged are copies of them."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from conftest import SIZE as SIDE
from conftest import TINY as STUDY
from conftest import write_prior

Files = dict[str, bytes]
"""Files that belong together, by their paths."""

RATE, LENGTH = 100, 300
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_MAKERS: dict[str, Callable[[Path], list[Files] | None]] = {}
_MADE: dict[str, list[Files]] = {}


def made(maker: Callable[[Path], list[Files] | None]) -> None:
    """Registers what makes the inputs of one kind: alternatives, or files that lie in the folder in the end."""
    _MAKERS[maker.__name__] = maker


def of(kind: str) -> list[Files]:
    """The valid inputs of a kind: alternatives."""
    return _MADE[kind]


def prepare() -> None:
    """Make all; in another process, since what autograd of torch starts does not survive a fork."""
    with get_context("fork").Pool(1) as pool:
        _MADE.update(pool.apply(_all))


def _all() -> dict[str, list[Files]]:
    found = {}
    for name, maker in _MAKERS.items():
        folder = Path(tempfile.mkdtemp())
        os.chdir(folder)
        alternatives = maker(folder)
        there = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        found[name] = [there] if alternatives is None else alternatives
        os.chdir("/")
        shutil.rmtree(folder)
    return found


def separate(folder: Path) -> list[Files]:
    """Each file of a folder as an input of its own."""
    return [{path.name: path.read_bytes()} for path in sorted(folder.iterdir())]


def _image(pixels: Any, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


GRAY = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
COLOR = np.stack([GRAY, GRAY.T, GRAY[::-1]], 2)
PNG = _image(COLOR, "PNG")


def _array(values: np.ndarray) -> bytes:
    np.save(buffer := io.BytesIO(), values)
    return buffer.getvalue()


@made
def images(_: Path) -> list[Files]:
    deep = GRAY.astype(np.uint16) * 257
    kinds = {"jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "jp2": "JPEG2000", "ppm": "PPM"}
    found = {f"x.{ending}": _image(COLOR, kind) for ending, kind in kinds.items()}
    found |= {"x.png": PNG, "gray.png": _image(GRAY, "PNG"), "deep.png": _image(deep, "PNG")}
    found |= {"palette.png": _image(Image.fromarray(COLOR).convert("P"), "PNG"), "x.gif": _image(GRAY, "GIF")}
    found |= {"x.tif": _image(COLOR, "TIFF", compression="tiff_lzw"), "deep.tif": _image(deep, "TIFF")}
    return [{name: content} for name, content in found.items()]


@made
def large(_: Path) -> list[Files]:
    return [{"x.png": _image(Image.new("RGB", (6000, 6000), (1, 2, 3)), "PNG", compress_level=1)}]


@made
def sets(_: Path) -> list[Files]:
    found = []
    for packed in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", packed) as file:
            for number in range(3):
                file.writestr(f"{number}.png", PNG)
        found.append({"set.zip": buffer.getvalue()})
    return [*found, {"set/a.png": PNG, "set/b.png": PNG}]


@made
def kernels(_: Path) -> list[Files]:
    arrays = [{"k.npy": _array(np.eye(3).astype(kind))} for kind in ("<f8", "<i2", "|b1")]
    return [*arrays, *({f"k{name[1:]}": content for name, content in each.items()} for each in of_images())]


def of_images() -> list[Files]:
    return [{"k.png": _image(GRAY, "PNG")}, {"k.tif": _image(GRAY, "TIFF")}]


@made
def signals(_: Path) -> list[Files]:
    return [{"x.npy": _array(np.sin(np.arange(4 * 3 * 8 * 8.0)).reshape(4, 3, 8, 8).astype(np.float32))}]


def _leads() -> np.ndarray:
    """Twelve leads in mV that agree with each other, shape (12, time)."""
    first, second = (0.3 * np.sin(np.arange(LENGTH) / (9 + i)) for i in range(2))
    limbs = [first, second, second - first, -(first + second) / 2, first - second / 2, second - first / 2]
    return np.round([*limbs, *(0.3 * np.sin(np.arange(LENGTH) / (12 + i)) for i in range(6))], 3)


@made
def records(_: Path) -> list[Files]:
    """WFDB: a plain one, one of two segments, one with several samples in a frame."""
    values = np.rint(1000 * _leads().T).astype("<i2")
    lines = [
        f"r.dat 16 1000/mV 16 0 {column[0]} {column.sum() & 0xFFFF} 0 {name}"
        for name, column in zip(LEADS, values.T, strict=True)
    ]
    plain = {"r.hea": "\n".join([f"r 12 {RATE} {LENGTH}", *lines, "# a comment", ""]), "r.dat": values.tobytes()}
    several = f"r/2 12 {RATE} {2 * LENGTH}\np {LENGTH}\np {LENGTH}\n"
    framed = f"r 2 {RATE} {3 * LENGTH}\nr.dat 16x2 1000/mV 16 0 0 0 0 I\nr.dat 16x2 1000/mV 16 0 0 0 0 II\n"
    segment = {"p.hea": plain["r.hea"].replace("r ", "p ", 1), "r.dat": plain["r.dat"]}
    found = [plain, {"r.hea": several, **segment}, {"r.hea": framed, "r.dat": plain["r.dat"]}]
    return [{name: c.encode() if isinstance(c, str) else c for name, c in files.items()} for files in found]


@made
def tables(_: Path) -> list[Files]:
    rows = [[f"{i / RATE:.2f}", *(f"{value:.3f}" for value in row)] for i, row in enumerate(_leads().T[:120])]
    plain = "\n".join(map(",".join, [["time", *LEADS], *rows, [""]]))
    watch = 'Name,"A, B"\nSample Rate,100 hertz\nLead,Lead I\nUnit,µV\n\n' + "\n".join(f"{10 * i},5" for i in range(99))
    comma = plain.replace(",", ";").replace(".", ",")
    return [{"x.csv": text.encode()} for text in (plain, watch, comma)] + [{"x.txt": plain.replace(",", "\t").encode()}]


@made
def recordings(folder: Path) -> list[Files]:
    """Arrays and the binary formats of others."""
    import edfio
    import h5py
    from scipy.io import savemat

    x, named = _leads(), {"leads": np.array(LEADS), "fs": float(RATE), "unit": "mV"}
    np.save(folder / "x.npy", x)
    np.savez_compressed(folder / "x.npz", signal=x, **named)
    savemat(folder / "x.mat", {"signal": x, **named})
    savemat(folder / "y.mat", {"ECG": {"sex": "Male", "data": x}}, do_compression=True)
    savemat(folder / "z.mat", {"x": x}, format="4")
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("signal", data=x, compression="gzip", chunks=(3, 100))
        file["signal"].attrs["fs"] = float(RATE)
        file["leads"] = list(LEADS)
    leads = dict(zip(LEADS, x, strict=True))
    edf = [edfio.EdfSignal(v, RATE, label=f"ECG {name}", physical_dimension="mV") for name, v in leads.items()]
    edfio.Edf(edf, annotations=[edfio.EdfAnnotation(1.0, None, "beat")]).write(folder / "x.edf")
    bdf = [edfio.BdfSignal(1000 * x[0], RATE, label="ECG I", physical_dimension="uV")]
    edfio.Bdf(bdf).write(folder / "x.bdf")
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "x.edf", "in/x.edf")
    return separate(folder)


@made
def ptbxl(_: Path) -> list[Files]:
    rows = [f"{i},\"{{'NORM': 100.0}}\",{i % 10 + 1},records100/0/{i}_lr,records500/0/{i}_hr" for i in range(12)]
    return [
        {
            "ptbxl_database.csv": "\n".join(["ecg_id,scp_codes,strat_fold,filename_lr,filename_hr", *rows]).encode(),
            "scp_statements.csv": b",description,diagnostic_class\nNORM,normal,NORM\nAFIB,fibrillation,\n",
        }
    ]


@made
def priors(folder: Path) -> list[Files]:
    """Native ones: of images, and of latents with its autoencoder."""
    from midguide.nn.unet import UNet, UNetConfig
    from midguide.priors.autoencoders import AutoencoderSpec, prefixed
    from midguide.priors.formats.native import save_prior
    from midguide.priors.settings import PriorSettings

    write_prior(folder / "p.safetensors")
    coder = _coder()
    shape = coder.latent_shape(IMAGE)
    config = UNetConfig(
        in_channels=shape[0], out_channels=shape[0], channels=32, multipliers=(1,), blocks=1, attention=()
    )
    spec = AutoencoderSpec(network=coder, event_shape=IMAGE, scale=(1.0,) * shape[0], shift=(0.0,) * shape[0])
    weights = {**UNet(config).state_dict(), **prefixed(coder.build().state_dict())}
    settings = PriorSettings(network=config, event_shape=shape, autoencoder=spec)
    save_prior(folder / "l.safetensors", weights, settings)
    return [{"p.safetensors": each.popitem()[1]} for each in separate(folder)]


IMAGE = (3, SIDE, SIDE)


def _coder() -> Any:
    from midguide.nn.autoencoder import AutoencoderConfig

    return AutoencoderConfig()


@made
def cards(_: Path) -> list[Files]:
    shipped = Path(__import__("midguide").__file__).parent / "priors" / "shipped"
    return [{"p.json": path.read_bytes()} for path in sorted(shipped.glob("*.json"))]


@made
def networks(folder: Path) -> list[Files]:
    """An autoencoder, a network of features and a classifier, each in the file that its reader is called after."""
    from midguide.domains.ecg.classifier import EcgClassifierSpec, save_ecg_classifier
    from midguide.domains.ecg.leads import EcgFormat
    from midguide.domains.ecg.xresnet1d import XResNet1d, XResNet1dConfig
    from midguide.nn.feature_net import FeatureNet, FeatureNetConfig, save_feature_net
    from midguide.priors.autoencoders import AutoencoderSpec, save_autoencoder

    config, coder = FeatureNetConfig(channels=8), _coder()
    save_feature_net(folder / "features.safetensors", FeatureNet(config).state_dict(), config)
    count = coder.latent_shape(IMAGE)[0]
    spec = AutoencoderSpec(network=coder, event_shape=IMAGE, scale=(1.0,) * count, shift=(0.0,) * count)
    save_autoencoder(folder / "autoencoder.safetensors", coder.build().state_dict(), spec)
    shape = XResNet1dConfig(blocks=(1,), width=4, expansion=1, hidden=4)
    spec = EcgClassifierSpec(
        network=shape, classes=("RBBB", "LBBB", "AF", "SB"), targets="diagnoses", ecg=EcgFormat(), length=40,
        mean_mv=0.1, std_mv=0.2, thresholds=(0.1, 0.2, 0.3, 0.4),
    )  # fmt: skip
    save_ecg_classifier(folder / "classifier.safetensors", XResNet1d(shape).state_dict(), spec)
    return separate(folder)


@made
def checkpoints(folder: Path) -> list[Files]:
    """Weights as trainers keep them: alone, beside others, in a list, before torch 1.6, sharing memory."""
    import torch

    from midguide.nn.adm_unet import ADMConfig, ADMUNet
    from midguide.nn.ddpm_unet import DDPMConfig, DDPMUNet

    adm = ADMUNet(ADMConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,), head_channels=16)).state_dict()
    ddpm = DDPMUNet(DDPMConfig(channels=32, multipliers=(1, 2), blocks=1, attention=(1,))).state_dict()
    held = {"plain": adm, "nested": {"state_dict": adm, "ema": adm, "step": 7}, "old": adm}
    held |= {"list": [ddpm, {"state": {}, "param_groups": []}, 3, 10, ddpm]}
    for name, value in held.items():
        torch.save(value, folder / f"{name}.pt", _use_new_zipfile_serialization=name != "old")
    return separate(folder)


@made
def diffusers_folder(folder: Path) -> None:
    import diffusers

    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = diffusers.UNet2DModel(sample_size=8, block_out_channels=(32,), layers_per_block=1, **kinds)
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(folder / "p")
    shutil.rmtree(folder / "p" / "unet")
    network.save_pretrained(folder / "p" / "unet", max_shard_size="100KB")


@made
def draws(folder: Path) -> list[Files]:
    """A folder, a store and a file of draws."""
    from midguide import make_sampler, sample
    from midguide.testing.pieces import vectors

    sampler = make_sampler("dps", {"steps": 4})
    sample(sampler, vectors(), 2, chunk=2).save(folder / "draws")
    for name in ("draws.zarr", "draws.nc"):
        sample(sampler, vectors(), 2, chunk=2, out=folder / name)
    there = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    kinds = ("draws/", "draws.zarr/", "draws.nc")
    return [{name: content for name, content in there.items() if name.startswith(kind)} for kind in kinds]


class _Stop:
    """An observer that interrupts a run at its third step."""

    def start(self, total: int, done: int) -> None:
        self.left = 3

    def step(self, event: object) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Nothing."""


@made
def progress(folder: Path) -> list[Files]:
    """What an interrupted run left: a checkpoint, and a store with its progress; with the draws of one that was not."""
    from contextlib import suppress

    from midguide import make_sampler, sample
    from midguide.testing.pieces import vectors

    sampler, found = make_sampler("dps", {"steps": 4}), []
    right = {"right.npy": _array(sample(sampler, vectors(), 2, chunk=1).draws.numpy())}
    for name, where in (("run.progress", "checkpoint"), ("draws.zarr", "out")):
        place = folder / where
        place.mkdir()
        with suppress(KeyboardInterrupt):
            sample(sampler, vectors(), 2, chunk=1, observers=[_Stop()], **{where: place / name})
        there = {str(p.relative_to(place)): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}
        found.append({**there, **right})
    return found


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


@made
def trainings(folder: Path) -> None:
    """A finished training of two steps, and the images that it was trained on."""
    from midguide.training.base import Data, Run, load_recipe

    (folder / "images").mkdir()
    for number in range(3):
        (folder / "images" / f"{number}.png").write_bytes(PNG)
    (folder / "r.toml").write_text(RECIPE)
    load_recipe(folder / "r.toml").job(Data(path=folder / "images")).train(Run(folder / "out"))


@made
def studies(folder: Path) -> list[Files]:
    """Results of a study, with draws; and in shards."""
    from midguide.cli import main

    (folder / "s.toml").write_text(STUDY)
    main(["study", "run", "s.toml", "--out", "out", "--set", "keep_samples=true"])
    for share in ("1/2", "2/2"):
        main(["study", "run", "s.toml", "--out", "parts", "--shard", share])
    there = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return [{n: c for n, c in there.items() if n.startswith(kind)} for kind in ("out/", "parts/")]


@made
def texts(_: Path) -> list[Files]:
    return [{"s.toml": STUDY.encode(), "r.toml": RECIPE.encode()}]


@made
def expected(_: Path) -> list[Files]:
    head = "experiment,problem,sampler,metric,value,ci95,source"
    return [{"e/a.csv": f"{head}\ntiny,dx = 2,DPS,mode_weight_tv,0.5,0.1,paper\ntiny,dx = 2,DDRM,x,1,,us\n".encode()}]
