"""Tensors from files of outside: safetensors, and checkpoints of torch, of which nothing is run."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

from midguide.errors import CheckpointError
from midguide.storage.outside import GIB, MIB, Outside, afford, size_of
from midguide.storage.pickles import LONGEST, TooLong, instructions, stays_within

TENSORS = Outside("file of weights", "is it complete? Download it again", CheckpointError, limit=1024 * GIB)
_PACKED = 4  # torch packs nothing; an archive that unpacks to more than this many times its size is a bomb
_SPARE = MIB
_SHORT = MIB  # a pickle that has too few bytes for too many instructions


def read_tensors(gate: Outside, path: str | Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensors of a `.safetensors` file.

    Raises:
        MidguideError: If the file is missing or damaged.
    """
    from safetensors import safe_open

    path = gate.check(path)
    with gate.damage(path), safe_open(path, "pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(gate: Outside, path: str | Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file, without its tensors.

    Raises:
        MidguideError: If the file is missing or damaged.
    """
    from safetensors import safe_open

    path = gate.check(path)
    with gate.damage(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_torch(gate: Outside, path: str | Path, device: str = "cpu") -> Any:
    """What `torch.save` wrote, read so that nothing in it can run.

    Raises:
        pickle.UnpicklingError: If it would run code.
        Exception: If torch raises anything else on damage; call it inside of `gate.damage`.
        MidguideError: If it is not a regular file, or unpacks to more than a checkpoint does.
    """
    import torch

    check_packed(gate, path)
    loaded = torch.load(path, map_location=device, weights_only=True)
    afford(_bytes_of(loaded), f"{gate.what} {path}", error=gate.error)
    return loaded


def check_packed(gate: Outside, path: str | Path) -> None:
    """Refuse a checkpoint that would unpack to far more than its size, or whose pickle would take minutes to read.

    Raises:
        MidguideError: If it would, or is not a regular file.
    """
    path = gate.check(path)
    size = pickles = path.stat().st_size
    packed = zipfile.is_zipfile(path)
    if packed:
        with gate.archive(path) as archive:
            infos = archive.infolist()
        unpacked, most = sum(info.file_size for info in infos), _PACKED * pickles + _SPARE
        pickles = max((info.file_size for info in infos if info.filename.endswith(".pkl")), default=0)
        if unpacked > most:
            raise gate.damaged(path, f"it unpacks to {size_of(unpacked)}, as no checkpoint does")
        if pickles > LONGEST:
            raise gate.damaged(path, f"its pickle has {size_of(pickles)}, more than {size_of(LONGEST)}")
        afford(unpacked, f"{gate.what} {path}", error=gate.error)
    if pickles > _SHORT or not packed:
        try:
            within = stays_within(instructions(path), size) or packed
        except TooLong as error:
            raise gate.damaged(path, str(error)) from error
        except Exception:  # torch says what is damaged
            return
        if not within:
            raise gate.damaged(path, "a tensor in it has more values than the file has bytes")


def _bytes_of(loaded: Any, depth: int = 8) -> int:
    """What the tensors in a checkpoint take once each is written out; in the file they may repeat their values."""
    import torch

    if isinstance(loaded, torch.Tensor):
        return math.prod(loaded.shape) * loaded.element_size()
    items = loaded.values() if isinstance(loaded, dict) else loaded if isinstance(loaded, list | tuple) else ()
    return sum(_bytes_of(item, depth - 1) for item in items) if depth else 0
