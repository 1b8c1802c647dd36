"""A prior that a Python file of the user makes, for the command line: `FILE.py:NAME`."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from midguide.errors import CheckpointError, ConfigError, MidguideError
from midguide.priors.formats.base import Pretrained
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.network import NetworkDenoiser
from midguide.storage.record import fingerprint

PLACE = re.compile(r"(.+\.py):(\w+)")
"""A file and a name in it."""


def load_python(path: Path, name: str) -> Pretrained:
    """What `name` in the Python file `path` is, or returns if it is a function: something that `load_prior` returned.

    The file is run, with its folder in front of the import path. How the network is run (dtype, device, chunks) is for
    the caller to say again. The sha256 is that of the file's text, of all settings, and of the weights of networks that
    are modules; what another callable holds is not seen.

    Raises:
        ConfigError: there is no such file or name, or it is no prior.
        CheckpointError: the file, or its function, fails.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", hint="as FILE.py:NAME, with NAME a function that returns a prior")
    found = _made(path, name)
    denoiser = found.denoiser if isinstance(found, LatentPrior) else found
    if not isinstance(denoiser, NetworkDenoiser):
        raise ConfigError(
            f"{name} in {path} makes a {type(found).__name__}, which is no prior with a network",
            hint="let it return what midguide.load_prior(network, ...) returns",
        )
    autoencoder = found.autoencoder if isinstance(found, LatentPrior) else None
    networks = [denoiser.network, autoencoder.network if isinstance(autoencoder, NetworkAutoencoder) else None]
    return Pretrained(
        network=denoiser.network,
        schedule=denoiser.schedule,
        prediction=denoiser.prediction,
        event_shape=denoiser.event_shape,
        value_range=denoiser.value_range,
        learned_variance=denoiser.learned_variance,
        label=denoiser.label,
        name=denoiser.name if denoiser.name != "custom" else f"{path.name}:{name}",
        provenance={"format": "python", "sha256": fingerprint([path.read_text("utf-8"), found, *networks])},
        autoencoder=autoencoder,
        signal=found.signal,
    )


def _made(path: Path, name: str) -> Any:
    """The object of that name, called if it is a function."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        names = runpy.run_path(str(path), run_name=path.stem)
        if name not in names:
            known = [key for key, value in names.items() if _is_own(value, path)]
            raise ConfigError(f"{path} has no {name}", hint=f"its functions: {', '.join(known) or 'none'}")
        found = names[name]
        return found() if isinstance(found, FunctionType) else found
    except MidguideError:
        raise
    except Exception as error:  # whatever the file raises
        reason = next(iter(str(error).splitlines()), "")
        raise CheckpointError(
            f"{path} fails: {type(error).__name__}: {reason}", hint="call the function in Python to see where"
        ) from error
    finally:
        sys.path.remove(folder)


def _is_own(value: object, path: Path) -> bool:
    """Whether it is a function of the file, not one that it imported."""
    return isinstance(value, FunctionType) and value.__module__ == path.stem
