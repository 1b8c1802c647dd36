"""Campaigns over readers: each damages valid inputs of one kind and gives what reads them."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import valid
from damage import ODD, WRONG, damaged_bytes, damaged_json, damaged_text, damaged_tree, put
from pool import Campaign, Run, Spoiled

CAMPAIGNS: dict[str, Campaign] = {}


def campaign(function: Campaign) -> Campaign:
    """Registers a campaign under its name."""
    CAMPAIGNS[function.__name__.replace("_", "-")] = function
    return function


@campaign
def images(rng: random.Random, folder: Path) -> Run:
    from midguide.data.images import load_image

    ending, content = rng.choice(list(valid.images().items()))
    path = put(rng, folder / f"x.{ending}", damaged_bytes(rng, content))
    shape = rng.choice([(3, 16, 16), (1, 8, 8)])
    return lambda: load_image(path, shape, resize=True)


@campaign
def large_images(rng: random.Random, folder: Path) -> Run:
    from midguide.data.images import load_image

    content = bytearray(valid.images()["large.png"])
    content[rng.randrange(100, len(content))] ^= rng.choice((0, 0, 1))
    path = put(rng, folder / "x.png", bytes(content))
    return lambda: load_image(path, (3, 16, 16), resize=True)


@campaign
def sets(rng: random.Random, folder: Path) -> Run:
    from midguide.data.images import load_gray_images, load_image_set

    load = rng.choice([load_image_set, load_gray_images])
    if rng.random() < 0.4:
        for name in ("a.png", "b.png"):
            content = valid.images()["png"]
            put(rng, folder / "set" / name, content if rng.random() < 0.5 else damaged_bytes(rng, content))
        return lambda: load(folder / "set")
    packed = valid.archive(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    path = put(rng, folder / "set.zip", damaged_bytes(rng, packed))
    return lambda: load(path)


@campaign
def arrays(rng: random.Random, folder: Path) -> Run:
    from midguide.domains.ecg.recordings import load_recording
    from midguide.operators.convolution import read_kernel

    content = valid.array((12, 300)) if rng.random() < 0.5 else valid.array((3, 3), rng.choice(["<f8", "<i2", "|b1"]))
    text = content[:128] if rng.random() < 0.5 else b""
    damaged = damaged_text(rng, text.decode("latin-1"), 1).encode("utf-8", "surrogatepass") if text else b""
    path = put(rng, folder / "x.npy", damaged + content[128:] if text else damaged_bytes(rng, content))
    return rng.choice([lambda: load_recording(path, rate_hz=100), lambda: read_kernel(path)])


@campaign
def masks(rng: random.Random, folder: Path) -> Run:
    from midguide.operators.convolution import read_kernel
    from midguide.operators.mask import mask_from_file

    ending, content = rng.choice(list(valid.images().items()))
    path = put(rng, folder / f"m.{ending}", damaged_bytes(rng, content))
    return rng.choice([lambda: mask_from_file(path, 16, 16), lambda: read_kernel(path)])


@campaign
def records(rng: random.Random, folder: Path) -> Run:
    from midguide.domains.ecg.recordings import load_recording

    files = dict(valid.recording())
    name = rng.choice(["r.hea", "r.hea", "s.hea", "r.dat"])
    text = damaged_text(rng, files[name].decode("latin-1")).encode("utf-8", "surrogatepass")
    files[name] = damaged_bytes(rng, files[name]) if name == "r.dat" or rng.random() < 0.3 else text
    for each, content in files.items():
        put(rng, folder / each, content)
    return lambda: load_recording(folder / rng.choice(["r", "s", "r.hea", "s.hea"]))


@campaign
def tables(rng: random.Random, folder: Path) -> Run:
    from midguide.domains.ecg.recordings import load_recording

    content = damaged_text(rng, valid.table()).encode("utf-8", "surrogatepass")
    path = put(rng, folder / "x.csv", content)
    return lambda: load_recording(path, rate_hz=rng.choice([None, 100.0]))


@campaign
def priors(rng: random.Random, folder: Path) -> Run:
    from midguide.priors.loading import load_prior

    content = valid.latent_prior() if rng.random() < 0.3 else valid.prior()
    if rng.random() < 0.8:
        stated = damaged_json(rng, valid.metadata_of(content)["midguide"])
        content = valid.with_metadata(content, {"midguide": stated})
    else:
        content = damaged_bytes(rng, content)
    path = put(rng, folder / "p.safetensors", content)
    return lambda: _used(load_prior(path))


@campaign
def settings(rng: random.Random, folder: Path) -> Run:
    """Settings of a prior as Python or a command line give them."""
    from midguide.priors.loading import load_prior

    path = folder / "p.safetensors"
    path.write_bytes(valid.prior())
    stated = {"prediction": "v", "schedule": "vp-linear", "event_shape": [3, 16, 16], "value_range": [-1.0, 1.0]}
    stated |= {"network": {"channels": 32}, "dtype": "float32", "chunk": 2, "latent_scale": 1.0}
    key = rng.choice(list(stated))
    changed = damaged_tree(rng, {key: stated[key]})
    return lambda: _used(load_prior(path, changed))


@campaign
def schedules(rng: random.Random, folder: Path) -> Run:
    from midguide.diffusion.schedules import make_schedule

    known = ["vp-linear:0.1,0.2,1000", "vp-cosine", "vp-cosine:400", "vp-betas:0.1,0.2", "edm:0.002,80", "flow"]
    name = damaged_text(rng, rng.choice(known), 2)
    return lambda: make_schedule(name).times(rng.choice([1, 10, 10**12]))


@campaign
def checkpoints(rng: random.Random, folder: Path) -> Run:
    from midguide.priors.formats.weights import read_weights
    from midguide.priors.loading import load_prior

    content = damaged_bytes(rng, valid.checkpoint(rng.choice(["plain", "nested", "old"])), 6)
    path = put(rng, folder / f"x{rng.choice(['.pt', '.ckpt', '.bin', '.pth'])}", content)
    return rng.choice([lambda: read_weights(path), lambda: load_prior(path)])


@campaign
def pickles(rng: random.Random, folder: Path) -> Run:
    """Pickles inside of an archive of torch whose sums are right, and bombs."""
    from midguide.priors.formats.weights import read_weights

    path = folder / "x.pt"
    content = valid.checkpoint("nested")
    with zipfile.ZipFile(valid.folder() / "n.pt", "w") as made, zipfile.ZipFile(_file(content)) as source:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                bomb = rng.choice(
                    [b"\x80\x02" + b"N0" * 10**7, b"\x80\x02" + b"(" * 10**7, b"\x80\x04" + b"]\x94" * 10**7]
                )
                data = damaged_bytes(rng, data, 6) if rng.random() < 0.8 else bomb
            made.writestr(name, data, zipfile.ZIP_DEFLATED)
    path.write_bytes((valid.folder() / "n.pt").read_bytes())
    return lambda: read_weights(path)


@campaign
def networks(rng: random.Random, folder: Path) -> Run:
    """Autoencoders and networks of features."""
    from midguide.nn.feature_net import load_feature_net
    from midguide.priors.autoencoders import load_autoencoder

    content, load = rng.choice([(valid.autoencoder(), load_autoencoder), (valid.feature_net(), load_feature_net)])
    key, text = next(iter(valid.metadata_of(content).items()))
    damaged = valid.with_metadata(content, {key: damaged_json(rng, text)})
    path = put(rng, folder / "n.safetensors", damaged if rng.random() < 0.8 else damaged_bytes(rng, content))
    return lambda: load(path)


@campaign
def cards(rng: random.Random, folder: Path) -> Run:
    from midguide.priors.loading import load_prior

    shipped = Path(__import__("midguide").__file__).parent / "priors" / "shipped"
    card = rng.choice(sorted(shipped.glob("*.json")))
    (folder / "p.safetensors").write_bytes(valid.prior())
    path = put(rng, folder / "p.json", damaged_json(rng, card.read_text()).encode("utf-8", "surrogatepass"))
    from midguide.storage.cards import read_card

    return rng.choice([lambda: read_card(path), lambda: load_prior(folder / "p.safetensors")])


@campaign
def draws(rng: random.Random, folder: Path) -> Run:
    from midguide.inference.samples import Samples

    files = {name: content for name, content in valid.samples().items() if name != "run.progress"}
    name = rng.choice(list(files))
    files[name] = damaged_bytes(rng, files[name])
    for each, content in files.items():
        put(rng, folder / "draws" / each, content)
    return lambda: Samples.load(folder / "draws")


@campaign
def progress(rng: random.Random, folder: Path) -> Run:
    import torch

    from midguide import make_sampler, sample
    from midguide.testing.pieces import vectors

    path = put(rng, folder / "run.progress", damaged_bytes(rng, valid.samples()["run.progress"]))
    right = sample(make_sampler("dps", {"steps": 8}), vectors(), 2, chunk=2).draws

    def resumed() -> None:
        got = sample(make_sampler("dps", {"steps": 8}), vectors(), 2, chunk=2, checkpoint=path).draws
        if not torch.equal(got, right):
            raise Spoiled("other draws")

    return resumed


@campaign
def trainings(rng: random.Random, folder: Path) -> Run:
    """Trainings that go on from a damaged checkpoint or log."""
    from midguide.training.base import Data, Run, load_recipe

    files = dict(valid.training())
    kept = [name for name in files if name.startswith("out/") and name.endswith((".pt", ".jsonl"))]
    name = rng.choice(kept)
    files[name] = damaged_bytes(rng, files[name])
    for each, content in files.items():
        (put if each == name else lambda _, path, data: _write(path, data))(rng, folder / each, content)
    recipe = load_recipe(folder / "r.toml")
    return lambda: recipe.job(Data(path=folder / "images")).train(Run(folder / "out"))


@campaign
def recipes(rng: random.Random, folder: Path) -> Run:
    from midguide.training.base import load_recipe

    path = put(rng, folder / "r.toml", damaged_text(rng, valid.RECIPE).encode("utf-8", "surrogatepass"))
    return lambda: load_recipe(path)


@campaign
def studies(rng: random.Random, folder: Path) -> Run:
    from midguide.studies.spec.study import load_study

    path = put(rng, folder / "s.toml", damaged_text(rng, valid.STUDY, 2).encode("utf-8", "surrogatepass"))
    return lambda: load_study(path)


@campaign
def overrides(rng: random.Random, folder: Path) -> Run:
    from midguide import make_operator, make_sampler
    from midguide.catalogue.settings import parse_override

    sampler = rng.choice(["mgps", "dps", "ddrm", "red-diff", "pgdm", "daps", "tds", "fps", "mmps", "snips"])
    keys = ["steps", "midpoint", "guidance", "gradient_steps", "optimizer.rate", "particles", "x", "warm_start"]
    text = damaged_text(rng, f"{rng.choice(keys)}={rng.choice(ODD)}", 1)
    operator = rng.choice(["box-inpainting", "gaussian-blur", "super-resolution", "motion-blur", "jpeg", "radon"])
    own = damaged_tree(rng, {rng.choice(["std", "box", "factor", "size", "quality", "angles"]): 3})

    def made() -> None:
        key, value = parse_override(text)
        make_sampler(sampler, {key: value})

    return rng.choice([made, lambda: make_operator(operator, (3, 16, 16), **own)])


@campaign
def names(rng: random.Random, folder: Path) -> Run:
    """Names of recipes, under which files are written."""
    from midguide.training.base import load_recipe

    name = rng.choice([*ODD, *(text for text in WRONG if isinstance(text, str)), "..", "/tmp/x", "a/b", ".x"])
    path = folder / "r.toml"
    path.write_text(valid.RECIPE.replace('"small"', json.dumps(name)), encoding="utf-8", errors="surrogatepass")

    def loaded() -> None:
        recipe = load_recipe(path)
        if not recipe.name.strip() or "/" in recipe.name or recipe.name.startswith("."):
            raise Spoiled(f"the name {recipe.name!r} was taken")

    return loaded


@campaign
def stores(rng: random.Random, folder: Path) -> Run:
    from midguide.studies.engine.store import Store

    head = {"midguide-study": 1, "study": {"study": {"name": "tiny"}}, "expected": [], "code": {}}
    path = put(rng, folder / "out" / "study.json", damaged_json(rng, json.dumps(head)).encode("utf-8", "surrogatepass"))
    return lambda: Store.open(path.parent)


def _used(prior: object) -> None:
    """One call of a prior, as sampling makes it."""
    import torch

    schedule, shape = prior.schedule, prior.event_shape  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        prior(torch.zeros(1, *shape), schedule.times(3)[1])  # pyright: ignore[reportCallIssue]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _file(content: bytes) -> object:
    import io

    return io.BytesIO(content)
