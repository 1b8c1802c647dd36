"""Campaigns over readers: each damages valid files of one kind and gives what reads them."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
import valid
from damage import Damage, by_kind, damaged_bytes, damaged_json, damaged_metadata, damaged_text, in_tree, put
from pool import Campaign, Run, Spoiled

from midguide import make_sampler, sample
from midguide.data.images import load_gray_images, load_image, load_image_set
from midguide.domains.ecg.classifier import load_ecg_classifier
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.ptbxl import load_split, read_index
from midguide.domains.ecg.recordings import Part, load_recording, nine_leads
from midguide.inference.samples import Samples
from midguide.inference.stored import StoredSamples
from midguide.nn.feature_net import load_feature_net
from midguide.nn.kernel_space import load_kernel_space
from midguide.operators.convolution import read_kernel
from midguide.operators.mask import mask_from_file
from midguide.priors.autoencoders import load_autoencoder
from midguide.priors.formats.weights import read_weights
from midguide.priors.loading import load_prior
from midguide.storage.cards import read_card
from midguide.studies.engine.shards import merge, parts_of
from midguide.studies.engine.store import Store
from midguide.studies.kinds.drawn import _array as load_signals
from midguide.studies.report.expected import load_expected
from midguide.studies.report.rows import make_report
from midguide.studies.spec.study import parse_study
from midguide.testing.pieces import vectors
from midguide.training.base import Data, load_recipe
from midguide.training.base import Run as Training
from midguide.web.base import READERS

CAMPAIGNS: dict[str, Campaign] = {}


def campaign(function: Campaign) -> Campaign:
    """Registers a campaign under its name."""
    CAMPAIGNS[function.__name__.replace("_", "-")] = function
    return function


def reads(name: str, kind: str, damage: Damage, *readers: Callable[[Path], object], victims: str = "*") -> None:
    """Registers a campaign that damages one of the files of a valid input; a reader is given the path of that file."""

    def run(rng: random.Random) -> Run:
        files = rng.choice(valid.of(kind))
        victim = rng.choice([name for name in files if fnmatch(name, victims)] or list(files))
        for path, content in files.items():
            write(Path(path), content) if path != victim else put(rng, Path(path), damage(rng, content))
        reader = rng.choice(readers)
        return lambda: reader(Path(victim))

    CAMPAIGNS[name] = run


def write(path: Path, content: bytes) -> None:
    """A file as it should be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def used(prior: Any) -> None:
    """One call of a prior, as sampling makes it."""
    with torch.no_grad():
        prior(torch.zeros(1, *prior.event_shape), prior.schedule.times(3)[1])


def nine(path: Path) -> object:
    """A recording as a prior takes it; the names of what files leave out are given."""
    form = EcgFormat()
    return nine_leads(load_recording(path, rate_hz=None if path.suffix in (".hea", ".csv") else 100), form)


def _set(path: Path) -> Path:
    return path if path.suffix == ".zip" else path.parent


READ_IMAGE = [lambda path: load_image(path, (3, 16, 16), resize=True), lambda path: load_image(path, (1, 8, 8))]
READ_SET = [lambda path: load_image_set(_set(path)), lambda path: load_gray_images(_set(path))]
READ_RECORDING = [nine, load_recording, lambda path: load_recording(path, rate_hz=100, part=Part(start=0.5, seconds=1))]
READ_NETWORK = {
    "autoencoder": load_autoencoder,
    "features": load_feature_net,
    "classifier": load_ecg_classifier,
}

reads("images", "images", damaged_bytes, *READ_IMAGE)
reads("sets", "sets", damaged_bytes, *READ_SET)
reads("kernels", "kernels", damaged_bytes, read_kernel)
reads("masks", "images", damaged_bytes, lambda path: mask_from_file(path, 16, 16), read_kernel)
reads("signals", "signals", damaged_bytes, lambda path: load_signals(str(path)))
reads("records", "records", damaged_text, *READ_RECORDING, victims="*.hea")
reads("tables", "tables", damaged_text, *READ_RECORDING)
reads("recordings", "recordings", damaged_bytes, *READ_RECORDING)
reads("ptbxl", "ptbxl", damaged_text, lambda _: read_index("."), lambda _: load_split(".", "train", EcgFormat()))
reads("priors", "priors", damaged_metadata, lambda path: used(load_prior(path)))
reads("cards", "cards", damaged_json, read_card)
reads("networks", "networks", damaged_metadata, lambda path: READ_NETWORK[path.stem](path))
reads("checkpoints", "checkpoints", damaged_bytes, read_weights, load_prior, load_kernel_space, load_autoencoder)
reads("diffusers", "diffusers_folder", by_kind, lambda _: load_prior("p"), victims="*.json")
reads("expected", "expected", damaged_text, lambda _: load_expected("e", "tiny"))
reads("recipes", "texts", damaged_text, load_recipe, victims="r.toml")


def read_draws(path: Path) -> object:
    """Draws of all kinds, by the folder, the store or the file that `path` lies in."""
    top = Path(path.parts[0])
    return (StoredSamples.open(top).load() if top.suffix else Samples.load(top)).mean()


def view(path: Path) -> object:
    """Draws as `midguide view` reads them."""
    return [reader.thing(Path(path.parts[0]), 0) for reader in READERS.values()]


reads("draws", "draws", by_kind, read_draws, view)


@campaign
def large_images(rng: random.Random) -> Run:
    content = bytearray(valid.of("large")[0]["x.png"])
    content[rng.randrange(100, len(content))] ^= rng.choice((0, 0, 1))
    put(rng, Path("x.png"), bytes(content))
    return lambda: load_image("x.png", (3, 16, 16), resize=True)


@campaign
def array_headers(rng: random.Random) -> Run:
    there = [files["x.npy"] for kind in ("recordings", "signals") for files in valid.of(kind) if "x.npy" in files]
    content = rng.choice(there)
    put(rng, Path("x.npy"), damaged_text(rng, content[:128]) + content[128:])
    return rng.choice(
        [
            lambda: load_recording("x.npy", rate_hz=100),
            lambda: read_kernel(Path("x.npy")),
            lambda: load_signals("x.npy"),
        ]
    )


@campaign
def cards_beside(rng: random.Random) -> Run:
    write(Path("p.safetensors"), valid.of("priors")[1]["p.safetensors"])
    put(rng, Path("p.json"), damaged_json(rng, rng.choice(valid.of("cards"))["p.json"]))
    return lambda: load_prior("p.safetensors")


@campaign
def prior_settings(rng: random.Random) -> Run:
    """Settings of a prior as Python or a command line give them."""
    write(Path("p.safetensors"), valid.of("priors")[1]["p.safetensors"])
    stated = {"prediction": "v", "schedule": "vp-linear", "event_shape": [3, 16, 16], "value_range": [-1.0, 1.0]}
    stated |= {"network": {"channels": 32}, "dtype": "float32", "chunk": 2, "latent_scale": 1.0}
    key = rng.choice(list(stated))
    changed = in_tree(rng, {key: stated[key]})
    return lambda: used(load_prior("p.safetensors", changed))


BOMBS = (
    b"\x80\x02" + b"N0" * 10**7,
    b"\x80\x02" + b"(" * 10**7,
    b"\x80\x04" + b"]\x94" * 10**7,
    b"\x80\x02" + b"2" * 10**7,
)


@campaign
def pickles(rng: random.Random) -> Run:
    """Pickles inside of an archive of torch whose sums are right, and bombs."""
    content = next(files["nested.pt"] for files in valid.of("checkpoints") if "nested.pt" in files)
    with zipfile.ZipFile("x.pt", "w") as made, zipfile.ZipFile(io.BytesIO(content)) as source:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                data = damaged_bytes(rng, data, 6) if rng.random() < 0.97 else rng.choice(BOMBS)
            made.writestr(name, data, zipfile.ZIP_DEFLATED)
    return rng.choice([lambda: read_weights(Path("x.pt")), lambda: load_kernel_space("x.pt")])


@campaign
def progress(rng: random.Random) -> Run:
    """Runs that go on from damaged files give the draws that they should, or none."""
    files = rng.choice(valid.of("progress"))
    victim = rng.choice([name for name in files if name != "right.npy"])
    for path, content in files.items():
        write(Path(path), content) if path != victim else put(rng, Path(path), by_kind(rng, content))
    right = np.load("right.npy") if not os.path.islink("right.npy") else None
    where = {"checkpoint": "run.progress"} if "run.progress" in files else {"out": "draws.zarr"}

    def resumed() -> None:
        got = sample(make_sampler("dps", {"steps": 4}), vectors(), 2, chunk=1, **where).draws[:]
        if not np.array_equal(got.numpy(), right):
            raise Spoiled("other draws")

    return resumed


@campaign
def trainings(rng: random.Random) -> Run:
    """Trainings that go on from a damaged checkpoint or log."""
    files = valid.of("trainings")[0]
    victim = rng.choice([name for name in files if name.startswith("out/") and name.endswith((".pt", ".jsonl"))])
    for path, content in files.items():
        write(Path(path), content) if path != victim else put(rng, Path(path), damaged_bytes(rng, content))
    return lambda: load_recipe("r.toml").job(Data(path=Path("images"))).train(Training(Path("out")))


def report(path: Path) -> object:
    """The results of a study as `study report` and `study merge` read them."""
    top = Path(path.parts[0])
    parts = parts_of([top])
    study = parse_study(parts[0].store.plain)
    if len(parts) > 1:
        return merge(study, parts, Path("merged"), partial=True)
    return make_report(study, Store.open(top))


reads("results", "studies", by_kind, report)
