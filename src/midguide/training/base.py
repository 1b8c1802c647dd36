"""What can be trained: kinds of recipes, and the job that a recipe becomes with its data.

    @RECIPES.register("autoencoder")
    @dataclass(frozen=True, kw_only=True)
    class AutoencoderTrainingConfig(LoopConfig): ...

A recipe is a TOML file of the settings of its kind. `kind` says which, and `body` which network `[network]` shapes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from midguide.catalogue.base import NO_CHANGES, Catalogue
from midguide.catalogue.settings import override
from midguide.errors import ConfigError, about
from midguide.priors import cards
from midguide.storage.outside import MIB, Outside

if TYPE_CHECKING:
    from torch import Tensor, nn

    from midguide.training.report import Origin

OnStep = Callable[[int, int, float], None]
"""Told the steps that are done, how many there will be as far as is known, and the loss since the last call."""

_RECIPE = Outside(
    "recipe", "a TOML file such as priors/shipped/faces-64.toml, or its name", ConfigError, limit=16 * MIB
)


class Stopped(KeyboardInterrupt):
    """What `on_step` raises to stop a training after a step that is complete: a checkpoint of it is written."""


@dataclass(frozen=True)
class Run:
    """Where, how long and from which weights a recipe is trained.

    Args:
        folder: for the checkpoint, the log, and what comes out.
        device: where to compute; `cuda` under `torchrun` gives each process its own GPU.
        minutes: time of the training, earlier runs included, in place of the steps of the recipe.
        weights: to start from, by name; by default random ones.
        on_step: called after every step, on a GPU after every few; may raise `Stopped`.
        note: takes a line for the reader.
        check: measure before the first step whether memory and time suffice.
        fork: folder of another training, whose checkpoint this one begins with.
    """

    folder: Path
    device: str = "cpu"
    minutes: float | None = None
    weights: Mapping[str, Tensor] | None = None
    on_step: OnStep = lambda step, total, loss: None
    note: Callable[[str], None] = lambda text: None
    check: bool = False
    fork: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a recipe is trained on, as the command line says it.

    Args:
        path: of the data; None for a recipe that draws them.
        held_out: of data to judge by.
        autoencoder: file of the autoencoder, for a prior of latents.
        strict: refuse data of which one is broken, instead of leaving it out.
        note: takes a line for the reader, such as what is left out.
    """

    path: Path | None = None
    held_out: Path | None = None
    autoencoder: Path | None = None
    strict: bool = False
    note: Callable[[str], None] = lambda text: None

    @property
    def place(self) -> Path:
        """Path of the data.

        Raises:
            ConfigError: If none is given.
        """
        if self.path is None:
            raise ConfigError("this recipe needs data", hint="--data PATH, such as a folder or zip file of images")
        return self.path

    def refuse(self, *names: str, hint: str) -> None:
        """Refuse the options of these names where they are given.

        Raises:
            ConfigError: If one is.
        """
        for name in names:
            if getattr(self, name):
                option = {"path": "data"}.get(name, name).replace("_", "-")
                raise ConfigError(f"`--{option}` is not for this kind of recipe", hint=f"leave it out: {hint}")


class Job(Protocol):
    """A recipe with its data, read and fit for its network."""

    @property
    def what(self) -> str:
        """What the data are, in the plural."""
        ...

    @property
    def source(self) -> Sized:
        """What to train on."""
        ...

    @property
    def kept(self) -> Sized:
        """What to judge by."""
        ...

    def train(self, run: Run) -> nn.Module:
        """Train until the recipe or the time ends, or go on with what lies in the folder."""
        ...

    def export(self, network: nn.Module, folder: Path, origin: Origin) -> tuple[Path, ...]:
        """Write the file, its card and pictures."""
        ...


class Recipe(Protocol):
    """The settings of a training: a frozen dataclass, mostly a `LoopConfig`."""

    @property
    def name(self) -> str:
        """Of what is trained."""
        ...

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        ...

    def job(self, data: Data) -> Job:
        """Read the data.

        Raises:
            ConfigError: If an option does not go with the recipe.
            DataError: If the data cannot be read, or are too few.
            ShapeError: If they do not fit the network.
        """
        ...


def _check_recipe(thing: object) -> None:
    if lacking := [part for part in ("name", "steps", "checkpoint_every", "job") if not hasattr(thing, part)]:
        raise ConfigError(f"it lacks {', '.join(lacking)}", hint="a LoopConfig with a method job(data)")


RECIPES: Catalogue[Recipe] = Catalogue(
    "kind of recipe", "midguide.training", group="midguide.recipes", check=_check_recipe
)
"""Kinds of recipes by name."""


def load_recipe(path: str | Path, changes: Mapping[str, object] = NO_CHANGES) -> Any:
    """Read a recipe from a TOML file, or that of a name.

    A file without `kind` is the recipe of a prior: of images, or of the domain whose table it has.

    Args:
        path: of the file, or the name of a prior whose recipe it is.
        changes: settings to put in the place of its own; keys may be dotted.

    Raises:
        ConfigError: If there is no such file, it is no TOML, a key is unknown or a value of the wrong type.

    Example:
        >>> load_recipe("faces-64").name
        'faces-64'
    """
    file = Path(path)
    if not os.path.isfile(file):
        if error := cards.not_installed(str(path)):
            raise error
        file = cards.recipe(str(path)) or file
    table = _RECIPE.toml(file)
    with about(str(path)):
        return recipe_of(table, changes)


def recipe_of(table: Mapping[str, Any], changes: Mapping[str, object] = NO_CHANGES) -> Any:
    """The recipe in a table, as in a file or on a card.

    Args:
        table: plain values.
        changes: settings to put in their place; keys may be dotted (`network.channels`).

    Raises:
        ConfigError: If a key is unknown or a value of the wrong type.
    """
    table = copy.deepcopy(dict(table))
    for key, value in changes.items():
        override(table, key, value)
    of_a_domain = (f"{key}-prior" for key in table if f"{key}-prior" in RECIPES)
    kind = str(table.pop("kind", next(of_a_domain, "prior")))
    if "body" in table:
        table["network"] = {"body": table.pop("body"), **table.get("network", {})}
    return RECIPES[kind].make(table)
