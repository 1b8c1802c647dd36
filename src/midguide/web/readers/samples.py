"""Draws as `Samples.save` writes them, with what a command wrote beside them; and a bare file of draws."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midguide.catalogue.shown import brief
from midguide.errors import DataError, MidguideError
from midguide.inference.cost import Cost
from midguide.inference.samples import WEIGHTS, Samples
from midguide.inference.stored import STORE, StoredSamples
from midguide.inference.summary import check_observation, told
from midguide.inference.verdict.base import band_in_words
from midguide.storage.outside import Outside
from midguide.storage.tensors import read_tensors
from midguide.web.base import READERS, Viewed

RESULT = Outside("file of results", "run the command that wrote it again")
STORES = (".zarr", ".nc")
"""Endings of what `sample(..., out=...)` writes; of one observation all draws are read."""
FILE, METRICS = "samples.safetensors", "metrics.json"


@READERS.register("samples")
def samples(path: Path, observation: int) -> Viewed | None:
    """A folder of `Samples.save`, of `midguide reconstruct`, or of a unit of a study; a `.safetensors`; or a store."""
    if path.suffix in STORES or os.path.isdir(path / STORE):
        stored = StoredSamples.open(path if path.suffix in STORES else path / STORE).load(observation)
        return viewed(stored, 0, path.resolve().name, {})
    if os.path.isfile(path) and path.suffix != ".safetensors":
        return None
    folder = path if os.path.isdir(path) else path.parent
    if os.path.isdir(path) and not os.path.exists(path / FILE):
        return None
    beside = os.path.isdir(path) or (path.name == FILE and os.path.exists(folder / "samples.json"))
    result = Samples.load(folder) if beside else _bare(path)
    check_observation(result, observation)
    return viewed(result, observation, path.resolve().name, metrics_of(folder) if beside else {})


def viewed(result: Samples, observation: int, title: str, metrics: Mapping[str, Any]) -> Viewed:
    """What a page shows of draws, and of the numbers that a command wrote."""
    weights, shape = result.weights(), tuple(result.draws.shape[2:])
    tensors = {name: result.tensors[name][observation] for name in ("truth", "y") if name in result.tensors}
    facts = {key: brief(value) for key, value in told(result).items()}
    facts |= described(metrics, ("prior", "operator", "sampler", "noise", "sigma", "rate", "seed"))
    return Viewed(
        title=title,
        draws=result.draws[observation],
        signal=result.signal,
        truth=tensors.get("truth"),
        measurement=tensors["y"] if "y" in tensors and _like(tensors["y"], shape) else None,
        weights=None if weights is None else weights[observation],
        verdict=lines_of(metrics["verdict"]) if "verdict" in metrics else _judged(result),
        facts=facts,
    )


def described(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """What a command wrote under these names, in words."""
    return {name: brief(metrics[name]) for name in names if metrics.get(name) is not None}


def lines_of(verdict: Any) -> list[dict[str, str]]:
    """The verdict of `metrics.json` in words.

    Raises:
        DataError: If it is not a verdict.
    """
    try:
        return [
            {
                "check": str(each["check"]),
                "line": f"{each['value']:.3g}, expected {band_in_words(each['low'], each['high'])}"
                if each["value"] is not None
                else "not a number",
                "advice": str(each["advice"] or ""),
            }
            for each in verdict
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f"{METRICS} holds no verdict: {error}", hint="run the command that wrote it again") from error


def _judged(result: Samples) -> list[dict[str, str]]:
    """What the checks say that need no problem."""
    try:
        return [{"check": each.check, "line": each.line(), "advice": each.advice} for each in result.check().judged]
    except MidguideError:
        return []


def metrics_of(folder: Path) -> dict[str, Any]:
    """The numbers beside the draws; none where there are none.

    Raises:
        DataError: If the file is damaged.
    """
    if not os.path.exists(folder / METRICS):
        return {}
    found = RESULT.json(folder / METRICS)
    return found if isinstance(found, dict) else {}


def _bare(path: Path) -> Samples:
    """The draws of a `.safetensors` without its JSON.

    Raises:
        DataError: If it holds no `draws` of shape (observation, sample, *signal).
    """
    tensors = read_tensors(RESULT, path)[1]
    draws = tensors.pop("draws", None)
    if draws is None or draws.ndim < 3 or not draws.numel() or not draws.is_floating_point():
        raise DataError(f"{path} holds no draws of shape (observation, sample, *signal)")
    log_weight, _ = (tensors.pop(name, None) for name in WEIGHTS)
    known = {name: tensors[name] for name in ("truth", "y") if name in tensors and len(tensors[name]) == len(draws)}
    return Samples(draws, Cost(0, 0, 0, 0), {}, known, log_weight)


def _like(y: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a measurement can be shown as the signals are: an image of few channels, or the same shape."""
    image = len(shape) == 3 and y.ndim == 3 and y.shape[0] in (1, 3)
    return (tuple(y.shape) == shape or image) and bool(torch.isfinite(y).all())
