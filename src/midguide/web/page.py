"""A posterior as one HTML file that needs no other: no server, no requests, values inside as base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import torch
from torch import Tensor

from midguide._version import __version__
from midguide.errors import NumericalError
from midguide.maths.weights import weighted_mean, weighted_quantile, weighted_variance
from midguide.plots.base import as_frames, body_of
from midguide.signals.base import Signal
from midguide.web.base import Viewed

MOST_VALUES = 2**24
"""Of all draws on a page; more draws than fit are left out, and the page says so."""
LEVELS = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
RGB = 3


def as_html(viewed: Viewed) -> str:
    """The page of a posterior.

    Raises:
        NumericalError: If a draw is not finite.
        ShapeError: If signals of this shape cannot be shown.
    """
    content = json.dumps(_content(viewed)).replace("<", "\\u003c").replace("\u2028", "").replace("\u2029", "")
    return filled("view", title=viewed.title, data=content)


def filled(name: str, *, title: str, data: str, connect: str = "'none'") -> str:
    """The page of this name with its style and its script, in the head that all pages share.

    Args:
        name: of `assets/NAME.html`, the body, and `assets/NAME.js`.
        title: is escaped.
        data: JSON without `<`.
        connect: what the script may ask, as a source of a Content-Security-Policy.
    """
    assets = files("midguide.web") / "assets"
    page, css, body, *scripts = (
        (assets / kind).read_text("utf-8")
        for kind in ("page.html", "page.css", f"{name}.html", "page.js", f"{name}.js")
    )
    title = escape(title)
    body = Template(body).substitute(title=title)
    script = "".join(scripts)
    return Template(page).substitute(title=title, css=css, body=body, script=script, data=data, connect=connect)


def _content(viewed: Viewed) -> dict[str, Any]:
    """All data of the script."""
    body, signal = body_of(viewed.signal), viewed.signal
    if not bool(torch.isfinite(viewed.draws).all()):
        raise NumericalError("a draw holds NaN or infinity", hint="look for `failed` in samples.json")
    frames = body in ("image", "volume", "video")
    shown = min(len(viewed.draws), max(1, MOST_VALUES // max(viewed.draws[0].numel(), 1)))
    packed = _Packed(8 if frames else 16)
    for name, values in _planes(viewed, shown).items():
        packed.add(name, _frames(values, signal, name) if frames else _rows(values, signal, name))
    axes = signal.axes
    weights = None if viewed.weights is None else (viewed.weights[:shown] / viewed.weights[:shown].sum()).tolist()
    many = f"{len(viewed.draws)} draws" + ("" if shown == len(viewed.draws) else f", of which {shown} are shown")
    return {
        "title": viewed.title,
        "about": f"{many} of one {body} {tuple(signal.shape)}; midguide {__version__}",
        "body": "frames" if frames else "rows",
        "slices": packed.planes[0]["shape"][0] if frames else 1,
        "range": signal.value_range or [packed.planes[0]["low"], packed.planes[0]["high"]],
        "unit": signal.unit,
        "labels": list(axes[0].labels) if axes and len(signal.shape) > 1 else [],
        "rate": axes[-1].rate if axes else None,
        "unit_x": axes[-1].unit if axes else "",
        "weights": weights,
        "verdict": list(viewed.verdict),
        "facts": {str(key): str(value) for key, value in viewed.facts.items()},
        "planes": packed.planes,
        "values": base64.b64encode(b"".join(packed.parts)).decode(),
    }


def _planes(viewed: Viewed, shown: int) -> Mapping[str, Tensor]:
    """All there is to look at, by name; statistics are of all draws."""
    draws = viewed.draws.detach().cpu().float()
    count = len(draws)
    weights = torch.full((count,), 1 / count, dtype=torch.float64) if viewed.weights is None else viewed.weights.cpu()
    planes = {f"draw {i + 1}": draws[i] for i in range(shown)}
    planes |= {"mean": weighted_mean(draws, weights), "std": weighted_variance(draws, weights).sqrt()}
    planes |= dict(zip(LEVELS, weighted_quantile(draws, weights, list(LEVELS.values())), strict=True))
    others = {"truth": viewed.truth, "measurement": viewed.measurement, "measured": viewed.measured}
    return planes | {name: value.detach().cpu().float() for name, value in others.items() if value is not None}


def _frames(values: Tensor, signal: Signal, name: str) -> Tensor:
    """As (frame, H, W, channel) with one or three channels."""
    own = values.ndim == len(signal.shape) and name != "measurement"
    pictures = as_frames(values, signal) if own else as_frames(values, Signal(shape=tuple(values.shape)))
    if pictures.shape[1] != RGB or name == "measured":
        pictures = pictures.square().mean(1, True).sqrt() if name == "std" else pictures.mean(1, keepdim=True)
    return pictures.permute(0, 2, 3, 1)


def _rows(values: Tensor, signal: Signal, name: str) -> Tensor:
    """As (row, place), in the unit of the signal."""
    scale = 1.0 if name == "measured" else signal.unit_size
    return scale * (values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[None])


class _Packed:
    """Planes of numbers of 8 or 16 bits between the smallest and the largest value of each."""

    def __init__(self, bits: int) -> None:
        self.bits, self.planes, self.parts, self._size = bits, list[dict[str, Any]](), list[bytes](), 0

    def add(self, name: str, values: Tensor) -> None:
        low, high = float(values.min()), float(values.max())
        steps = (values.double() - low) / ((high - low) or 1.0) * (2**self.bits - 1)
        kind = "u1" if self.bits == 8 else "<u2"
        part = steps.round().numpy().astype(kind).tobytes()
        shape = list(values.shape)
        plane = {"name": name, "low": low, "high": high, "shape": shape, "bits": self.bits, "start": self._size}
        self.planes.append(plane)
        self.parts.append(part)
        self._size += len(part)
