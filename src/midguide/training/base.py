"""What can be trained: kinds of recipes, and the job that a recipe becomes with its data.

    @RECIPES.register("autoencoder")
    @dataclass(frozen=True, kw_only=True)
    class AutoencoderTrainingConfig(LoopConfig): ...

A recipe is a TOML file of the settings of its kind. `kind` says which, and `body` which network `[network]` shapes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError, about

if TYPE_CHECKING:
    from torch import nn

    from midguide.training.report import Origin

OnStep = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a recipe is trained on, as the command line says it.

    Args:
        path: of the data.
        held_out: of data to judge by.
        autoencoder: file of the autoencoder, for a prior of latents.
        strict: refuse data of which one is broken, instead of leaving it out.
        note: takes a line for the reader, such as what is left out.
    """

    path: Path
    held_out: Path | None = None
    autoencoder: Path | None = None
    strict: bool = False
    note: Callable[[str], None] = lambda text: None

    def refuse(self, *names: str, hint: str) -> None:
        """Refuse the options of these names where they are given.

        Raises:
            ConfigError: If one is.
        """
        for name in names:
            if getattr(self, name):
                option = name.replace("_", "-")
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

    def train(self, folder: Path, device: str, on_step: OnStep) -> nn.Module:
        """Train until the recipe ends, or go on with what lies in the folder."""
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


def load_recipe(path: str | Path) -> Any:
    """Read a recipe from a TOML file.

    A file without `kind` is the recipe of a prior: of images, or of the domain whose table it has.

    Raises:
        ConfigError: If there is no such file, it is no TOML, a key is unknown or a value of the wrong type.

    Example:
        >>> from importlib import resources
        >>> load_recipe(resources.files("midguide") / "priors" / "shipped" / "faces-64.toml").name
        'faces-64'
    """
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", hint="see priors/shipped/faces-64.toml in the package for an example"
        ) from error
    with about(str(path)):
        of_a_domain = (f"{key}-prior" for key in table if f"{key}-prior" in RECIPES)
        kind = str(table.pop("kind", next(of_a_domain, "prior")))
        if "body" in table:
            table["network"] = {"body": table.pop("body"), **table.get("network", {})}
        return RECIPES[kind].make(table)
