"""Starting from a prior that is already trained, to adapt it to other data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide.catalogue.base import NO_CHANGES
from midguide.errors import CheckpointError, ConfigError
from midguide.maths.rng import global_seed
from midguide.nn.base import DEFAULT
from midguide.nn.unet import UNetConfig
from midguide.priors import cards
from midguide.priors.autoencoders import split
from midguide.priors.formats.base import unknown_prior
from midguide.priors.formats.native import build_network, stated_in
from midguide.priors.formats.weights import read_weights
from midguide.storage.cards import Card, read_card
from midguide.training.base import recipe_of

RATE = 2e-4
"""Largest learning rate of an adaptation."""
COURSE = {"warmup": 50, "cooldown": 0.5, "steps": 2000, "checkpoint_every": 200}
"""Its course: gentler and shorter than that of a training from nothing."""
AVERAGES = (0.98, 0.995)
"""Short averages beside that of the recipe: an adaptation may have no more than hundreds of steps."""


def weights_of(prior: str) -> tuple[Path, dict[str, Tensor]]:
    """The file of a prior to start from, shipped or one's own, and its weights in float32.

    Raises:
        ConfigError: If there is no such prior, or it is one of latents.
        CheckpointError: If its file is damaged, of another kind, or trained on another schedule.
    """
    path = cards.weights_of(prior) if prior in cards.shipped() else Path(prior)
    if not os.path.isfile(path):
        raise unknown_prior(prior)
    stated = stated_in(path)
    if stated.autoencoder is not None:
        raise ConfigError(f"`{prior}` is a prior of latents", hint="--from takes priors of pixels or signals")
    if stated.schedule not in (None, "vp-linear"):
        raise CheckpointError(f"`{prior}` was trained on {stated.schedule}", hint="trainings here are on vp-linear")
    network = build_network(stated, split(read_weights(path).last)[0], path).float()
    return path, {name: value.detach().clone() for name, value in network.state_dict().items()}


def fitted(recipe: Any, path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a prior for the network of a recipe, which may have more blocks and attention than the prior's.

    What it has beyond does nothing at first, so that the training begins with the prior as it is.

    Args:
        recipe: of the training.
        path: of the prior's file.
        weights: of the prior, by name.

    Raises:
        ConfigError: If the network of the recipe is neither that of the prior nor a deeper one.
    """
    with torch.device("meta"):
        network = recipe.network.build()
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    if wanted == {name: value.shape for name, value in weights.items()}:
        return dict(weights)
    shape = stated_in(path).network
    if not (isinstance(shape, UNetConfig) and isinstance(recipe.network, UNetConfig) and recipe.network.deepens(shape)):
        raise ConfigError(
            "the prior to start from does not fit the network of the recipe",
            hint="leave the recipe out, to take its own; a U-Net may have more `blocks` and `attention`, nothing else",
        )
    with global_seed(recipe.seed):
        deeper = recipe.network.build()
    deeper.start_as(shape, weights)
    return {name: value.detach().clone() for name, value in deeper.state_dict().items()}


def adaptation(prior: str, path: Path, changes: Mapping[str, object] = NO_CHANGES, *, files: bool = True) -> Any:
    """The recipe of adapting a prior: that on its card, with a gentler rate, fewer steps and shorter averages.

    Args:
        prior: what the user calls it.
        path: of its file.
        changes: settings that the user gives, by name.
        files: whether data are given: then a prior of pictures that are drawn becomes one of images.

    Raises:
        ConfigError: If no card beside the file states a recipe.
    """
    file = path.with_suffix(".json")
    card = read_card(file) if os.path.isfile(file) else Card(name=path.stem)
    if not card.training:
        raise ConfigError(
            f"there is no card with a recipe beside {path}", hint="name the recipe: midguide train RECIPE"
        )
    stated = {key: value for key, value in card.training.items() if value is not None}
    if files and stated.get("kind") == "glyphs":
        stated["kind"] = "prior"
    license_ = f"that of `{card.name}` ({card.license}), and that of the data it was adapted to"
    own = {
        "body": card.facts.get("body", DEFAULT),
        "name": f"{card.name}-adapted",
        "card": {"description": f"`{card.name}` adapted: {card.description}", "data": card.data, "license": license_},
        "learning_rate": min(RATE, float(card.training.get("learning_rate", RATE))),
        "more_emas": AVERAGES,
    }
    return recipe_of(stated | own | COURSE, changes)
