"""Train the feature network that FID and KID of 64x64 faces use; 12 minutes of one core.

    python benchmarks/train_features.py DATA/train.zip --held-out DATA/test.zip --out src/midguide/features

Writes NAME.safetensors and its card NAME.json, with the accuracy on the held-out images.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from midguide.data.images import load_image_set
from midguide.training.config import CardConfig
from midguide.training.features import FeatureTraining, export_features, train_features

CARD = CardConfig(
    description="classifier of how a face photograph (64x64) was changed and turned; its features serve FID and KID",
    data="UTKFace (Zhang, Song, Qi 2017), 21,534 images resized from 200x200",
    license="non-commercial research only, as the images it is trained on",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="faces-64-classifier")
    parser.add_argument("--steps", type=int, default=FeatureTraining.steps)
    options = parser.parse_args()

    torch.set_num_threads(1)  # the sums, and so the weights, depend on the number of threads
    started = time.monotonic()

    def tell(step: int, loss: float) -> None:
        if step % 250 == 0:
            print(f"step {step}, loss {loss:.3f}, {time.monotonic() - started:.0f} s", file=sys.stderr)

    config = FeatureTraining(name=options.name, steps=options.steps)
    network = train_features(config, load_image_set(options.data), on_step=tell)
    command = f"python benchmarks/train_features.py {options.data.name} --held-out {options.held_out.name}"
    command += f" --out {options.out.name} --name {options.name} --steps {options.steps}"
    for path in export_features(
        config, network, load_image_set(options.held_out), options.out, card=CARD, command=command
    ):
        print(path)


if __name__ == "__main__":
    main()
