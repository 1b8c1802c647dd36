"""A training in as many processes as the environment says; each repeat makes two more steps."""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from midguide.training.base import Run
from midguide.training.config import LoopConfig
from midguide.training.loop import fit


class Lines:
    """Rows of one batch in order: this process's part of them, the same at every step."""

    def draw(self, count, generator):
        torch.rand((), generator=generator)  # so that the streams are used
        whole = torch.arange(8.0)[:, None] / 8
        rank = int(os.environ["RANK"])
        return whole[rank * count : (rank + 1) * count]


class Slope:
    """Fits x -> 3 x + 1."""

    def __init__(self, config):
        self.config = config

    def build(self):
        return nn.Linear(1, 1)

    def decays(self, name):
        return True

    def loss(self, network, x, generator):
        return (network(x) - 3 * x - 1).square().mean()


def main(out):
    """Go on from the checkpoint in `out`, or start."""
    done = torch.load(out / "checkpoint.pt", weights_only=True)["step"] if (out / "checkpoint.pt").exists() else 1
    config = LoopConfig(steps=done + 2, batch=8, warmup=1, learning_rate=0.1, cooldown=1.0, checkpoint_every=2)
    network = fit(Slope(config), Lines(), Run(out))
    if os.environ["RANK"] == "0":
        torch.save(network.state_dict(), out / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
