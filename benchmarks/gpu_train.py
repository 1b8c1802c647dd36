"""Trains `faces-64` in one call on a GPU, and joins what comes back: see benchmarks/gpu.sh.

    python benchmarks/gpu_train.py train FACES --work WORK --out OUT --seconds 540
    python benchmarks/gpu_train.py join PARTS --out OUT

A call that finds a checkpoint in WORK goes on from it. A later machine, which has none, can go on from the parts that
came back: `--parts PARTS`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import tomllib
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from midguide.catalogue.settings import build, override, parse_overrides
from midguide.diffusion import kernels
from midguide.diffusion.schedules import DiscreteVP, spaced_times
from midguide.priors.network import PREDICTIONS
from midguide.training.base import OnStep, Run
from midguide.training.config import DenoisingConfig, TrainingConfig
from midguide.training.denoiser import train
from midguide.training.held_out import HeldOut
from midguide.training.quality import quality
from midguide.training.report import Origin, export_prior
from midguide.training.sources import Images

RESERVE = 45.0
"""Seconds at the end for samples, their distance from data, and writing."""
LEAST = 1.0
"""Seconds of training, however little time there is."""
PART = 14 * 2**20
"""Bytes of a file of weights: fewer than the 15 MiB that may come back as one."""
CHANGES: dict[str, object] = {
    "name": "faces-64",
    "batch": 128,
    "learning_rate": 7e-4,
    "cooldown": 0.4,
    "more_emas": [0.9995, 0.9998],
    "checkpoint_every": 1_000_000,  # by the clock alone
    "card.description": "aligned face photographs, tightly cropped, RGB 64x64",
    "card.data": "UTKFace (Zhang, Song, Qi 2017), 21,534 images resized from 200x200",
    "card.license": "non-commercial research only, as the images it is trained on",
}


def recipe(given: argparse.Namespace) -> TrainingConfig:
    """The recipe with its changes; not by the catalogue of kinds, which would want more libraries."""
    named = Path(str(resources.files("midguide"))) / "priors" / "shipped" / f"{given.recipe}.toml"
    file = named if named.is_file() else Path(given.recipe)
    table = tomllib.loads(file.read_text("utf-8"))
    for key, value in (CHANGES | parse_overrides(given.set)).items():
        override(table, key, value)
    return build(TrainingConfig, table, str(file))


def read_images(path: Path) -> Tensor:
    """The images of a zip file in the order of their names, bytes, shape (N, 3, H, W); on all cores."""
    with zipfile.ZipFile(path) as archive:
        files = [archive.read(name) for name in sorted(archive.namelist()) if not name.endswith("/")]

    def pixels(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    with ThreadPoolExecutor() as pool:
        stacked = np.stack(list(pool.map(pixels, files)))
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def write_parts(weights: Mapping[str, Tensor], out: Path, most: int = PART) -> list[Path]:
    """Weights in bfloat16, in as few files as hold at most `most` bytes each, in the order of their names."""
    parts: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, value in weights.items():
        small = value.detach().to("cpu", torch.bfloat16).contiguous()
        if used + small.nbytes > most and parts[-1]:
            parts.append({})
            used = 0
        parts[-1][name], used = small, used + small.nbytes
    paths = [out / f"weights-{number}.safetensors" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        save_file(part, path)
    return paths


def read_parts(folder: Path) -> dict[str, Tensor]:
    """What `write_parts` wrote, in float32."""
    found = [load_file(path) for path in sorted(folder.glob("weights-*.safetensors"))]
    return {name: value.float() for part in found for name, value in part.items()}


@torch.no_grad()
def draw(network: nn.Module, config: DenoisingConfig, shape: tuple[int, ...], device: str, steps: int) -> Tensor:
    """Unconditional DDPM samples, 250 at a time, without the loop of the package: it would want more libraries."""
    schedule, generator = DiscreteVP.linear(), torch.Generator(device).manual_seed(0)
    times = spaced_times(schedule, steps, 2.0)
    done = []
    for first in range(0, shape[0], 250):
        x = torch.randn(min(250, shape[0] - first), *shape[1:], generator=generator, device=device)
        for t, s in zip(times, [*times[1:], None], strict=True):
            index = torch.full((len(x),), t - 1, device=device)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.bfloat16):
                out = network(x, index).float()
            x0 = PREDICTIONS[config.prediction](x, out, schedule.level(t))
            if s is None:
                x = x0
                continue
            move = kernels.ddim(schedule.level(s), schedule.level(t), 1.0)
            x = move.draw(x0, x, torch.randn(x.shape, generator=generator, device=device))
        done.append(x.clamp(-1, 1).cpu())
    return torch.cat(done)


def train_there(given: argparse.Namespace) -> None:
    """Train until the time is nearly up, draw, and write what comes back."""
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    config = recipe(given)
    pixels, kept = (Images(read_images(given.faces / f"{name}.zip"), flip=name == "train") for name in ("train", "val"))
    weights = None if given.parts is None else read_parts(given.parts)
    spent = time.monotonic() - started
    print(f"{len(pixels)} images in {spent:.0f} s on {device}", flush=True)
    minutes = max(given.seconds - spent - given.reserve, LEAST) / 60 + earlier(given.work)
    run = Run(given.work, device, minutes, weights, on_step=told(started))
    network = train(config, pixels, run, judge=HeldOut(config, kept.events()[:256], device))
    write_parts(network.state_dict(), given.out)
    log = (given.work / "log.jsonl").read_text("utf-8")
    (given.out / "log.jsonl").write_text(log, "utf-8")
    print(log.splitlines()[-1], flush=True)
    samples = draw(network, config, (given.samples, *kept.pixels.shape[1:]), device, given.steps)
    save_file({"samples": ((samples[:64] + 1) * 127.5).round().to(torch.uint8)}, given.out / "samples.safetensors")
    test = Images(read_images(given.faces / "test.zip"), flip=False).events()
    facts = vars(quality(samples, test)) | {"steps": given.steps, "spacing": 2.0}
    facts |= {"seconds": round(time.monotonic() - started)}
    facts |= {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    (given.out / "quality.json").write_text(json.dumps(facts, indent=2), "utf-8")
    print(json.dumps(facts), flush=True)


def earlier(work: Path) -> float:
    """Minutes of earlier calls in the same folder."""
    if not (work / "checkpoint.pt").exists():
        return 0.0
    return torch.load(work / "checkpoint.pt", map_location="cpu", weights_only=True)["seconds"] / 60


def told(started: float) -> OnStep:
    """Prints a line every 20 seconds."""
    last = started

    def tell(step: int, total: int, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{last - started:.0f} s: step {step} of about {total}, loss {loss:.4f}", flush=True)

    return tell


def join_here(given: argparse.Namespace) -> None:
    """The parts that came back as one prior, with its card; the denoising curve is measured here."""
    config = recipe(given)
    network = config.network.build()
    network.load_state_dict(read_parts(given.parts))
    log = [json.loads(line) for line in (given.parts / "log.jsonl").read_text("utf-8").splitlines()]
    kept = Images(read_images(given.faces / "val.zip"), flip=False)
    paths = export_prior(config, network, kept, given.out, origin=Origin(command="benchmarks/gpu.sh train", log=log))
    card = json.loads(paths[1].read_text("utf-8"))
    card["quality"] = json.loads((given.parts / "quality.json").read_text("utf-8"))
    paths[1].write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    print(*paths, sep="\n")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    there, here = modes.add_parser("train"), modes.add_parser("join")
    there.set_defaults(call=train_there)
    here.set_defaults(call=join_here)
    there.add_argument("faces", type=Path, help="folder with train.zip, val.zip and test.zip")
    here.add_argument("parts", type=Path, help="folder of what came back")
    here.add_argument("--faces", type=Path, default=Path(".gpu/faces"))
    for mode in (there, here):
        mode.add_argument("--out", type=Path, required=True)
        mode.add_argument("--recipe", default="images-64-m")
        mode.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    there.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    there.add_argument("--parts", type=Path, help="start from these weights")
    there.add_argument("--seconds", type=float, default=540.0, help="time of everything")
    there.add_argument("--reserve", type=float, default=RESERVE)
    there.add_argument("--samples", type=int, default=1000)
    there.add_argument("--steps", type=int, default=100)
    given = parser.parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    given.call(given)


if __name__ == "__main__":
    main(sys.argv[1:])
