"""Published weights that a user has: the folder they lie in, and reading them safely."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from midguide.errors import CheckpointError, reason
from midguide.storage.files import sha256_of
from midguide.storage.tensors import TENSORS, read_tensors, read_torch

VARIABLE = "MIDGUIDE_WEIGHTS"


def weights_folder() -> Path:
    """The folder that the environment variable `MIDGUIDE_WEIGHTS` names, else `weights` where the command runs."""
    return Path(os.environ.get(VARIABLE) or "weights")


def read_weights(name: str, origin: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file in `weights_folder()`, and its SHA-256.

    Reading other formats than safetensors runs no code of the file. Where the name ends in eight hexadecimal digits, as
    torchvision's do, they are the start of the SHA-256, which must agree.

    Args:
        name: the file's name.
        origin: where to get it, for the message.

    Raises:
        CheckpointError: If the file is missing, damaged, or not the one of its name.
    """
    path = weights_folder() / name
    if not os.path.isfile(path):
        raise CheckpointError(
            f"it needs the file {name} ({origin}), which is not in {path.parent.resolve()}",
            hint=f"put it there, or name its folder by --weights or the environment variable {VARIABLE}",
        )
    try:
        sha256 = sha256_of(path)
        promised = re.search(r"-([0-9a-f]{8})\.pth$", name)
        if promised and not sha256.startswith(promised[1]):
            raise CheckpointError(
                f"{path} is not the published file: its sha256 starts with {sha256[:8]}", hint="download it again"
            )
        tensors = read_tensors(TENSORS, path)[1] if path.suffix == ".safetensors" else read_torch(TENSORS, path)
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError("it holds no table of tensors")
    except (OSError, SafetensorError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as weights: {reason(error)}", hint="is it complete?") from error
    return tensors, sha256
