"""Trains the network that reads glyphs, `glyphs-32-reader`, from nothing but the generator, and writes its card.

    python benchmarks/glyph_reader.py --steps 1500

Pictures are drawn without end; numbers below 4096, on which its accuracy is measured, are never trained on. Half of the
pictures have noise of up to 0.1, so that a draw with a little noise left is read like a clean one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.data.glyphs import CHARACTERS, SIZE, glyph_classes, glyphs
from midguide.maths.rng import global_seed
from midguide.metrics.readings import READER, card_path
from midguide.nn.feature_net import FeatureNet, FeatureNetConfig, load_feature_net, save_feature_net
from midguide.storage.files import replacing, sha256_of
from midguide.training.glyphs import HELD_OUT

LAST = 2**40
MOST_NOISE = 0.1


def batch(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures, half of them noisy, and their classes."""
    numbers = torch.randint(HELD_OUT, LAST, (count,), generator=generator)
    noise = MOST_NOISE * torch.rand(count, 1, 1, 1, generator=generator)
    noise *= torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    pictures = glyphs(numbers)
    return pictures + noise * torch.randn(pictures.shape, generator=generator), glyph_classes(numbers)


def train(config: FeatureNetConfig, steps: int, rows: int, rate: float) -> FeatureNet:
    with global_seed(0):
        network = FeatureNet(config)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        pictures, classes = batch(rows, generator)
        loss = F.cross_entropy(network(pictures)[0], classes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        course.step()
        if step % 100 == 0:
            print(step, f"{float(loss.detach()):.4f}", f"{time.process_time():.0f} CPU s", flush=True)
    return network.eval()


def accuracy(network: FeatureNet, noise: float) -> float:
    """Share of right readings of the held-out pictures."""
    numbers = torch.arange(HELD_OUT)
    generator = torch.Generator().manual_seed(1)
    right = 0
    for part in numbers.split(256):
        pictures = glyphs(part)
        pictures = pictures + noise * torch.randn(pictures.shape, generator=generator)
        with torch.no_grad():
            right += int((network(pictures)[0].argmax(1) == glyph_classes(part)).sum())
    return right / HELD_OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=128, help="pictures a step")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak of the learning rate")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--out", type=Path, default=card_path().parent)
    given = parser.parse_args()
    config = FeatureNetConfig(channels=given.channels, classes=(len(CHARACTERS),), event_shape=(1, SIZE, SIZE))
    network = train(config, given.steps, given.rows, given.rate)
    seconds = time.process_time()
    path = given.out / f"{READER}.safetensors"
    save_feature_net(path, network.state_dict(), config)
    stored, _ = load_feature_net(path)
    found = {f"noise {noise:g}": accuracy(stored, noise) for noise in (0.0, 0.1)}
    print(found)
    card = {
        "name": READER,
        "description": "which letter or digit a gray 32x32 picture shows",
        "data": f"midguide.data.glyphs, pictures drawn without end; numbers from {HELD_OUT}, seed 0",
        "license": "Apache-2.0, as this package; drawn from the DejaVu fonts, which are free to use, embed and modify",
        "parameters": sum(p.numel() for p in network.parameters()),
        "command": f"python benchmarks/glyph_reader.py --steps {given.steps}",
        "cost": f"{seconds:.0f} CPU seconds of one core",
        "accuracy": {"held_out": HELD_OUT, **found},
        "sha256": sha256_of(path),
    }
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
