"""Networks trained to draw the hidden part of electrocardiograms from the known part: no priors, each for its masks.

The baselines "TrainedDiff" of the MGPS paper. Such a network takes the noisy hidden part, the known part, and which is
which, as channels; its answer counts where something is hidden. Posterior samplers need no such training: what they
are compared with here has seen the very task.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from midguide.errors import CheckpointError, ConfigError
from midguide.maths.autodiff import frozen
from midguide.priors.formats.native import build_network, stated_in
from midguide.priors.formats.weights import read_weights
from midguide.priors.network import NetworkDenoiser
from midguide.priors.settings import PriorSettings
from midguide.storage.files import sha256_of

Condition = Literal["half", "half-of-each-lead"]
"""What is hidden in training: one half of all leads at the same time, or of each lead a half of its own."""


def half_masks(condition: Condition, like: Tensor, generator: torch.Generator) -> Tensor:
    """What is known of each signal of shape (B, leads, time): a random half in time, of all leads or of each."""
    batch, leads, samples = like.shape
    rows = leads if condition == "half-of-each-lead" else 1
    second = torch.rand(batch, rows, 1, generator=generator, device=generator.device) < 0.5
    times, half = torch.arange(samples, device=generator.device), samples // 2
    return torch.where(second, times < samples - half, times >= half).expand(batch, leads, samples)


def conditioned(x_t: Tensor, known: Tensor, observed: Tensor) -> Tensor:
    """The input of a network, shape (B, 3 leads, time): the noisy hidden part, the known part, which is known."""
    return torch.cat([torch.where(observed, 0.0, x_t), known, observed.to(x_t.dtype)], dim=1)


@dataclass(frozen=True, eq=False)
class ConditionalNetwork:
    """A network that draws what is hidden.

    Args:
        network: `network(conditioned(...), index)`.
        spec: how to use it.
        sha256: of its file.
    """

    network: nn.Module
    spec: PriorSettings
    sha256: str

    def denoiser(self, known: Tensor, observed: Tensor) -> NetworkDenoiser:
        """`E[x_0 | x_t, known part]`, of which only the hidden part means anything.

        Args:
            known: N signals, zero where hidden, shape (N, leads, time).
            observed: boolean, of the same shape. The denoiser takes as many rows for each signal, one after another.
        """

        def predict(x_t: Tensor, label: Tensor) -> Tensor:
            rows = len(x_t) // len(known)
            y, mask = (part.to(x_t.device).repeat_interleave(rows, dim=0) for part in (known, observed))
            return self.network(conditioned(x_t, y.to(x_t.dtype), mask), label)

        return NetworkDenoiser(predict, *self.spec.complete(), value_range=None, name="conditional")


def load_conditional(path: str | Path) -> ConditionalNetwork:
    """Read the network that a recipe with a `condition` wrote.

    Raises:
        ConfigError: If there is no such file.
        CheckpointError: If it is damaged or of another kind.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise ConfigError(f"there is no network {path}", hint="train it: see domains/ecg/shipped/ecg-256-half.toml")
    spec = stated_in(path)
    if spec.condition is None:
        raise CheckpointError(
            f"{path} is a prior, trained for no kind of hidden part", hint="see domains/ecg/shipped/ecg-256-half.toml"
        )
    network = build_network(spec, read_weights(path).last, path)
    return ConditionalNetwork(frozen(network), spec, sha256_of(path))
