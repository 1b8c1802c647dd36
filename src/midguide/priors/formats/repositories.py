"""Folders and repositories of the diffusers library: how files are fetched, found and read to networks."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from midguide.errors import CheckpointError, ConfigError, DataError, reason
from midguide.priors.formats.weights import read_weights, refuse_misfit
from midguide.storage.files import sha256_of
from midguide.storage.outside import MIB, Outside
from midguide.storage.record import fingerprint

STEM = "diffusion_pytorch_model"
NAMES = re.compile(
    STEM + r"(\.(?P<variant>(?!safetensors|bin)(?!.*-of-)[\w-]+))?\.(?P<ending>safetensors|bin)"
    r"(?P<index>\.index(\.(?P<late>[\w-]+))?\.json)?"
)
"""Names of files of weights: with a variant such as `fp16`, and indexes of shards."""
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""The id of a repository, `owner/name`."""
CONNECTION_TIMEOUT = 10.0  # seconds
_FOLDER = "is it a folder of diffusers?"
_CONFIGURATION = Outside("configuration", _FOLDER, CheckpointError, limit=64 * MIB, place=_FOLDER)


def fetch_repository(name: str, *, revision: str | None = None, weights: Sequence[str] = WEIGHTS) -> Path:
    """The folder of a repository of the Hugging Face hub, downloaded if it is not in the cache.

    The cache is that of the library, or `huggingface` in MIDGUIDE_CACHE where that is set.

    Args:
        name: `owner/name`.
        revision: commit, tag or branch; the newest by default.
        weights: names of the files of weights that are wanted.

    Raises:
        ConfigError: If huggingface_hub is not installed.
        DataError: If there is no such repository, or no connection.
    """
    hub = library("huggingface_hub")
    own = os.environ.get("MIDGUIDE_CACHE")
    cache = Path(own) / "huggingface" if own else None
    patterns = ["*.json", *(f"{folder}{file}" for folder in ("", "unet/", "vqvae/", "vae/") for file in weights)]
    download = hub.snapshot_download  # brings the part of the library that sets up its logger
    settings = {"revision": revision, "cache_dir": cache, "allow_patterns": patterns}
    try:
        with silenced("huggingface_hub"):  # which tells of every attempt
            if revision is not None and (unreachable := _unreachable(hub, name, revision)):
                return _cached(download, name, settings, unreachable)
            return Path(download(name, **settings))
    except Exception as error:  # of several libraries: connection, HTTP, cache
        other = "no prior, no file, and no repository" if revision is None else "cannot get the repository"
        raise DataError(
            f"{other} {name!r} to download: {reason(error)}",
            hint="check the name and the network; a downloaded repository is loaded by the path of its folder",
        ) from error


def _unreachable(hub: Any, name: str, revision: str) -> Exception | None:
    """Why a repository does not answer, asked once: for a commit the library asks six times over half a minute."""
    try:
        hub.HfApi().repo_info(name, revision=revision, timeout=CONNECTION_TIMEOUT)
    except Exception as error:  # of several libraries
        return error
    return None


def _cached(download: Callable[..., str], name: str, settings: Mapping[str, Any], otherwise: Exception) -> Path:
    """The folder of a repository in the cache; where it is not there, the error that kept it from being downloaded."""
    try:
        return Path(download(name, **settings, local_files_only=True))
    except Exception:  # of several libraries
        raise otherwise from None


class Files(NamedTuple):
    """The weights of one network: a file, or an index and its shards.

    Args:
        main: the file, or the index.
        parts: the files with weights.
        variant: the word in their names, such as `fp16`; empty where there is none.
        safe: whether they are safetensors.
    """

    main: Path
    parts: tuple[Path, ...]
    variant: str
    safe: bool

    @property
    def sha256(self) -> str:
        """Digest of the file, or of those of the shards."""
        sums = [sha256_of(path) for path in self.parts]
        return sums[0] if len(sums) == 1 else fingerprint(sums)


def files_in(folder: Path, name: str | None = None) -> Files:
    """The files of weights in a folder: safetensors where there are some, and the plain ones before variants.

    Args:
        folder: of one network.
        name: that very file.

    Raises:
        CheckpointError: If there are none, or a shard is missing.
    """
    found = {path.name: match for path in sorted(folder.glob(f"{STEM}*")) if (match := NAMES.fullmatch(path.name))}

    def order(file: str) -> tuple[bool, bool, bool, str]:
        variant, ending = _variant(found[file]), found[file]["ending"]
        return "non_ema" in variant, bool(variant), ending != "safetensors", file

    if name is not None:
        found = {file: match for file, match in found.items() if file == name}
    if not found:
        known = (*WEIGHTS, f"{STEM}.fp16.safetensors", f"{STEM}.safetensors.index.json")
        raise CheckpointError(f"{folder} holds no weights", hint=f"expected {', '.join(known[:-1])} or {known[-1]}")
    chosen = min(found, key=order)
    match, main = found[chosen], folder / chosen
    parts = (main,) if not match["index"] else _shards(main)
    return Files(main, parts, _variant(match), match["ending"] == "safetensors")


def _variant(match: re.Match[str]) -> str:
    return match["variant"] or match["late"] or ""


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names.

    Raises:
        CheckpointError: If it names none, one that is missing, or one outside its folder.
    """
    table = read_json(index).get("weight_map")
    names = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
    if not names:
        raise CheckpointError(f"{index} names no files of weights", hint="is it complete?")
    for name in names:
        if Path(name).name != name or not os.path.isfile(index.parent / name):
            raise CheckpointError(
                f"{index} names {name[:80]!r}, which is not beside it", hint="are all shards downloaded?"
            )
    return tuple(index.parent / name for name in names)


def network_in(files: Files, kind: str) -> Any:
    diffusers = library("diffusers")
    weights = files.main
    for part in () if files.safe else files.parts:
        read_weights(part)  # which says of a file that wants to run code that it does
    try:
        with silenced("diffusers.models.modeling_utils", "diffusers.configuration_utils"):  # it is said below
            network, found = getattr(diffusers, kind).from_pretrained(
                weights.parent,
                use_safetensors=files.safe,
                variant=files.variant or None,
                torch_dtype=torch.float32,
                local_files_only=True,
                low_cpu_mem_usage=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # of diffusers, safetensors and torch
        raise CheckpointError(
            f"{weights} cannot be read: {reason(error)}", hint="are the file and its config.json complete?"
        ) from error
    faults = {
        "missing": sorted(found["missing_keys"]),
        "unexpected": sorted(found["unexpected_keys"]),
        "of another shape": [
            f"{name} {tuple(has)} for {tuple(wants)}" for name, has, wants in sorted(found["mismatched_keys"])
        ],
    }
    hint = (
        f"{files.main.parent / 'config.json'} states another network: see its layers_per_block, block types and widths"
    )
    refuse_misfit(faults, weights, hint=hint)
    return network


@contextmanager
def silenced(*loggers: str) -> Iterator[None]:
    """Nothing below an error is logged by these loggers, and no bar shown by the library of the first."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    bars = import_module("diffusers.utils.logging") if loggers[0].startswith("diffusers") else None
    shown = bars is not None and bars.is_progress_bar_enabled()
    try:
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        if bars is not None:
            bars.disable_progress_bar()
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars is not None and shown:
            bars.enable_progress_bar()


def library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed: {error}", hint="pip install 'midguide[hub]'") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds something else.
    """
    found = _CONFIGURATION.json(path)
    if not isinstance(found, dict):
        raise _CONFIGURATION.damaged(path, f"it holds {found!r:.40}, expected an object in braces")
    return found
