"""Training a small classifier without labels, whose features serve FID and KID where nothing better is at hand.

Every image is changed in a known way and turned by a known angle, and the network has to say which (the angles: Gidaris
et al. 2018, "Unsupervised representation learning by predicting image rotations"). What it must see for that,
sharpness, noise, texture, whether the parts of a face belong together, is what tells good reconstructions from bad
ones. Its distances are comparable with its own only, never with those of Inception features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from midguide.maths.rng import global_seed
from midguide.nn.feature_net import FeatureNet, FeatureNetConfig, load_feature_net, save_feature_net
from midguide.storage.files import replacing
from midguide.training.changes import ANGLES, CHANGES, changed, rotated
from midguide.training.config import CardConfig


@dataclass(frozen=True, kw_only=True)
class FeatureTraining:
    """How to train a feature network.

    Args:
        name: of its files, and of the features in tables.
        channels: of its first layer; there are four times as many features.
        steps: optimizer steps (AdamW).
        batch: images per step.
        learning_rate: peak of a one-cycle schedule.
        weight_decay: of AdamW.
        bfloat16: compute in bfloat16 where it is safe (autocast).
        seed: of initial weights, data order and changes.
    """

    name: str
    channels: int = 32
    steps: int = 7_000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    bfloat16: bool = True
    seed: int = 0


def train_features(
    config: FeatureTraining, images: Tensor, *, on_step: Callable[[int, float], None] = lambda step, loss: None
) -> FeatureNet:
    """Train on the CPU.

    Args:
        config: the recipe.
        images: uint8, shape (N, C, H, W), square.
        on_step: called with the number of finished steps and the loss of the last.

    Returns:
        The network in evaluation mode.
    """
    shape = FeatureNetConfig(
        channels=config.channels, classes=(ANGLES, len(CHANGES)), event_shape=tuple(images.shape[1:])
    )
    with global_seed(config.seed):
        network = FeatureNet(shape)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.steps, pct_start=0.1)
    generator = Generator().manual_seed(config.seed)
    for step in range(config.steps):
        picked = images[torch.randint(len(images), (config.batch,), generator=generator)]
        x, labels = question(picked, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            logits = network(x)
        losses = [F.cross_entropy(each.float(), label) for each, label in zip(logits, labels, strict=True)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        on_step(step + 1, float(loss.detach()))
    return network.eval()


def question(images: Tensor, generator: Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Changed and turned images in [-1, 1], and what was done to each: its turns and its number in `CHANGES`.

    Args:
        images: uint8, shape (B, C, H, W); half of them are mirrored.
        generator: of everything drawn.
    """
    x = images.float() / 127.5 - 1.0
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    turns = torch.randint(ANGLES, (len(x),), generator=generator)
    kinds = torch.randint(len(CHANGES), (len(x),), generator=generator)
    x = changed(torch.where(mirrored, x.flip(3), x), kinds, generator)
    return rotated(x, turns), (turns, kinds)


def accuracies(network: FeatureNet, images: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Share of right answers on images that were not trained on: of the angle, of the change, and of each change."""
    x, (turns, kinds) = question(images, Generator().manual_seed(seed))
    with torch.no_grad():
        answers = [torch.cat(parts) for parts in zip(*(network(part) for part in x.split(64)), strict=True)]
    right = answers[1].argmax(1) == kinds
    each = {name: float(right[kinds == number].double().mean()) for number, name in enumerate(CHANGES)}
    return {
        "angle": float((answers[0].argmax(1) == turns).double().mean()),
        "change": float(right.double().mean()),
        **each,
    }


def export_features(
    config: FeatureTraining, network: FeatureNet, held_out: Tensor, out: Path, *, card: CardConfig, command: str
) -> tuple[Path, Path]:
    """Write `NAME.safetensors` and its card `NAME.json` into `out`.

    Args:
        config: the recipe that was run.
        network: what it gave.
        held_out: uint8 images that were not trained on, shape (N, C, H, W).
        out: folder.
        card: what to say of data and license.
        command: how to train it again.
    """
    path, card_path = out / f"{config.name}.safetensors", out / f"{config.name}.json"
    save_feature_net(path, network.state_dict(), network.config)
    stored, sha256 = load_feature_net(path)
    text = {
        "name": config.name,
        **asdict(card),
        "event_shape": list(network.config.event_shape),
        "features": network.config.features,
        "parameters": sum(value.numel() for value in network.parameters()),
        "sha256": sha256,
        "command": command,
        "training": asdict(config),
        "held_out_images": len(held_out),
        "held_out_accuracy": accuracies(stored, held_out),
    }
    with replacing(card_path) as temporary:
        temporary.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    return path, card_path
