"""Reading weights safely, and fitting them to a network."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import CheckpointError, ConfigError, reason
from midguide.storage.outside import GIB, Outside
from midguide.storage.pickles import foreign_imports
from midguide.storage.tensors import read_metadata, read_tensors, read_torch

# Where training codes keep the weights inside their checkpoints. The averaged ones (EMA) are meant to be used.
_AVERAGED = ("ema", "ema_state_dict", "model_ema")
_LAST = ("state_dict", "model_state_dict", "model")
_STARTS = (b"PK", b"\x80")  # a zip archive; a pickle, as torch wrote before 1.6
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pth.tar")
"""Endings of files that hold nothing but weights."""

CHECKPOINT = Outside("checkpoint", "is the file complete?", CheckpointError, limit=1024 * GIB)
_SHOWN = 3
AVERAGED = "the averaged weights (EMA) are used; averaged=False takes the last ones"
_ALONE = "ask its author for the weights alone, as safetensors or as a state dict saved by torch.save as it is"


def to_say(setting: str, plain: str) -> str:
    """The hint to give a setting, as Python and as a command line write it."""
    return f"pass {setting} to load_prior; on the command line --prior-set '{plain}'"


def to_load_prior(what: str) -> str:
    """The hint to pass something that Python has and a command line has not."""
    return f"pass {what} to load_prior; on the command line name a function that does: --prior own.py:function"


class Ignored:
    """Stands for what training checkpoints of other libraries name without needing it for weights."""

    def __init__(self, *arguments: object) -> None:
        """Takes what the other takes, and keeps nothing."""

    def __setstate__(self, state: object) -> None:
        """Keeps nothing."""


_NAMED = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",  # the best loss, say
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Args:
        last: the weights at the end of training, or the only ones.
        averaged: their average over the training (EMA) where the file also has that.
        remarks: what a reader of results should know, each one line.
        betas: those of the forward process, where they lie beside the weights.
    """

    last: Mapping[str, Tensor]
    averaged: Mapping[str, Tensor] | None = None
    remarks: tuple[str, ...] = ()
    betas: Tensor | None = None

    def choose(self, averaged: bool | None, where: str | Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        """The weights to use, by default the average, and what a record says of them.

        Raises:
            ConfigError: If the average is asked for and there is none.
        """
        told = {"remarks": list(self.remarks)} if self.remarks else {}
        if self.averaged is None:
            if averaged:
                raise ConfigError(f"{where} holds no averaged weights beside the others", hint="leave averaged out")
            return self.last, told
        if averaged is False:
            return self.last, {"weights": "last", **told}
        return self.averaged, {"weights": "averaged", "remarks": [AVERAGED, *self.remarks]}


def read_weights(path: Path) -> Weights:
    """The tensors of a `.safetensors` file, or of a torch checkpoint read so that nothing in it can run.

    Returns:
        Float32 or integer tensors by name, without the prefix that data-parallel training adds.

    Raises:
        CheckpointError: If the file is damaged, holds no weights, or wants to run code.
    """
    return weights_in(load(path), path)


def weights_in(loaded: Any, path: Path) -> Weights:
    """The tensors in what a checkpoint was read to: at the top, or in one of the usual containers.

    Raises:
        CheckpointError: If there are none.
    """
    averaged, last = _inside(loaded, _AVERAGED), _inside(loaded, _LAST)
    if not averaged and not last and not (last := _tensors(loaded)):
        raise CheckpointError(
            f"{path} holds no weights", hint=f"looked at the top and in {', '.join((*_AVERAGED, *_LAST))}"
        )
    return Weights(_plain(last or averaged), _plain(averaged) if last and averaged else None)


def betas_schedule(betas: Tensor, path: Path) -> DiscreteVP:
    """The forward process of the betas in a file, in float64; a usual one where they are its, rounded to float32.

    Raises:
        CheckpointError: If they are not betas.
    """
    betas = betas.double()
    if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas <= 1)).all()):
        raise CheckpointError(
            f"the betas in {path}, of shape {tuple(betas.shape)}, are not all between 0 and 1",
            hint="state the schedule that it was trained on, for example vp-scaled-linear",
        )
    kept = torch.cumprod(1.0 - betas, 0).tolist()
    for usual in (DiscreteVP.scaled_linear(), DiscreteVP.linear(), DiscreteVP.cosine()):
        pairs = zip(kept, usual.alphas_cumprod, strict=False)
        if len(kept) == usual.noisiest and all(abs(a - b) < 1e-6 * b for a, b in pairs):
            return usual
    return DiscreteVP(tuple(kept))


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        CheckpointError: If the file is damaged or of another kind.
    """
    check_start(path)
    return read_metadata(CHECKPOINT, path)


def load(path: Path) -> Any:
    """What a `.safetensors` file or a torch checkpoint holds, read so that nothing in it can run.

    Raises:
        CheckpointError: If the file is damaged, or wants to run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about pickle protocols
            check_start(path)
            if path.suffix == ".safetensors":
                return read_tensors(CHECKPOINT, path)[1]
            with torch.serialization.safe_globals([(Ignored, name) for name in _NAMED]):
                return read_torch(CHECKPOINT, path)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes make torch's reader raise anything
        what = reason(error).split(". ")[0] if str(error) else "it ends too early"
        raise CheckpointError(f"{path} cannot be read: {what}", hint="is the file complete?") from error


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wrapped = re.compile(r"((module|_orig_mod)\.)+")
    return {
        wrapped.sub("", name, 1) if wrapped.match(name) else name: v.float() if v.is_floating_point() else v
        for name, v in weights.items()
    }


def fit(network: nn.Module, weights: Mapping[str, Tensor], where: str | Path, *, hint: str) -> None:
    """Give a network, built on the meta device, its weights; they are not copied.

    Raises:
        CheckpointError: If names or shapes are not those of the network; says the first of each kind.
    """
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    faults = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} for {tuple(shape)}"
            for name, shape in wanted.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    refuse_misfit(faults, where, hint=hint)
    network.load_state_dict(dict(weights), assign=True)


def refuse_misfit(faults: Mapping[str, list[str]], where: str | Path, *, hint: str) -> None:
    """Refuse weights with faults: names of weights by what is wrong with them.

    Raises:
        CheckpointError: If there is a fault; says the first of each kind.
    """
    if any(faults.values()):
        words = "; ".join(f"{kind}: {_first(names)}" for kind, names in faults.items() if names)
        raise CheckpointError(f"the weights in {where} do not fit their network: {words}", hint=hint)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return repr(", ".join(names[:_SHOWN]))[1:-1] + more  # in a damaged file they may hold anything


def _inside(loaded: Any, containers: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors in the first of these containers that has some; containers may lie in each other."""
    for name in containers if isinstance(loaded, Mapping) else ():
        if found := _inside(loaded.get(name), (*_AVERAGED, *_LAST)) or _tensors(loaded.get(name)):
            return found
    return {}


def _tensors(loaded: Any) -> dict[str, Tensor]:
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    return {str(name): value for name, value in items if isinstance(value, Tensor)}


def check_start(path: Path) -> None:
    """Refuse text in place of weights: web pages and pointers of git-lfs are saved as checkpoints.

    Raises:
        CheckpointError: If it is text; quotes it.
    """
    with CHECKPOINT.open(path) as file:
        start = file.read(60)
    known = start[8:9] in (b"{", b"") if path.suffix == ".safetensors" else start.startswith(_STARTS)
    if start and not known:
        raise CheckpointError(
            f"{path} is not a checkpoint: it begins with {start.splitlines()[0].decode('ascii', 'backslashreplace')!r}",
            hint="was a web page or a pointer saved instead of the file? Download it again",
        )


def _refused(path: Path, message: str) -> CheckpointError:
    """The error for a file that torch would only read by running what it says."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    try:
        wanted = [named[1]] if named else foreign_imports(path)
    except ValueError as error:
        return CheckpointError(f"{path} cannot be read: {error}", hint="is the file complete?")
    if wanted:
        return CheckpointError(f"{path} is refused: reading it would run code, {_first(wanted)}", hint=_ALONE)
    return CheckpointError(f"{path} is a pickle that torch does not read safely, of a protocol above 3", hint=_ALONE)
