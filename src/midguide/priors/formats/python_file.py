"""A prior that a Python file of the user makes, also for the command line: `FILE.py:NAME`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from midguide.catalogue import plugins
from midguide.errors import about
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, read
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.network import NetworkDenoiser
from midguide.priors.settings import PriorSettings
from midguide.storage.record import fingerprint


@FORMATS.register("python")
class PythonFile(Format):
    """`FILE.py:NAME`: a prior or a network, or a function without arguments that returns one. The file is run."""

    extensions = (".py",)
    uses = frozenset({"network", "class_index", "averaged", "quantize"})
    order = 5

    def recognizes(self, source: Source) -> bool:
        return isinstance(source.given, str) and plugins.PLACE.fullmatch(source.given) is not None

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """What the file calls so, or what it returns, read like any other prior.

        The digest covers the file's text, all settings, and the weights of networks that are modules. It does not see
        what another callable holds.

        Raises:
            ConfigError: If there is no such file or name, or it is not a prior.
            CheckpointError: If the file, or its function, fails.
        """
        path, _, name = source.given.rpartition(":")
        place, made = Path(path).expanduser(), _made(path, name)
        facts = {"format": "python", "sha256": _digest(place, made)}
        with about(f"{place.name}:{name}"):
            found = Source(given=made, label=f"{place.name}:{name}", provenance=facts)
            return read(found, replace(said, format=None))


def _made(path: str, name: str) -> Any:
    """The object of that name; if it is a function that needs no argument, what it returns."""
    found = plugins.load_object(path, name)
    if inspect.isfunction(found) and not _required(found):
        with plugins.outside_code(path):
            return found()
    return found if inspect.isfunction(found) else copy.deepcopy(found)  # the file is run once, its objects are shared


def _required(function: Callable[..., Any]) -> list[str]:
    """The parameters that have no default."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _digest(path: Path, made: Any) -> str:
    denoiser = made.denoiser if isinstance(made, LatentPrior) else made
    network = denoiser.network if isinstance(denoiser, NetworkDenoiser) else None
    coder = made.autoencoder if isinstance(made, LatentPrior) else None
    coder = coder.network if isinstance(coder, NetworkAutoencoder) else None
    return fingerprint([path.read_text("utf-8"), made, network, coder])
