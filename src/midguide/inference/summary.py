"""How draws show themselves: in words, as a table of their statistics, as a page with a picture and the verdict."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from midguide.catalogue import shown
from midguide.catalogue.shown import brief
from midguide.errors import MidguideError, ShapeError
from midguide.inference.verdict.base import Verdict
from midguide.maths.weights import weighted_mean, weighted_quantile, weighted_variance
from midguide.problem import Problem

if TYPE_CHECKING:
    from midguide.inference.samples import Samples

LEVELS = (0.05, 0.5, 0.95)
COLUMNS = ("", "mean", "std", "5 %", "median", "95 %", "truth")
MOST_ROWS = 16
MOST_VALUES, MOST_EXACT = 2**22, 2**11
"""Draws of more values, signals of more entries with a dense prior: a notebook shows them without their verdict."""
DPI = 64


@dataclass(frozen=True)
class Summary:
    """Statistics of one observation.

    Args:
        title: what was drawn.
        columns: of the table.
        rows: of the table, as text.
        notes: what else there is to say, one line each.
        verdict: what the checks found; None where nothing could be judged.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    verdict: Verdict | None

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in lines]
        verdict = [] if self.verdict is None else [f"verdict: {self.verdict.line()}"]
        return "\n".join([self.title, *table, *self.notes, *verdict])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        verdict = "" if self.verdict is None else self.verdict._repr_html_()
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p><b>{escape(self.title)}</b></p>{table}{notes}{verdict}"


def told(samples: Samples) -> Mapping[str, Any]:
    """Draws in words: how many of what, from which sampler and problem, at what cost."""
    observations, n, *shape = samples.draws.shape
    record, cost = samples.record, samples.cost
    kind = str(samples.draws.dtype).removeprefix("torch.")
    known: dict[str, Any] = {
        "draws": f"{n} of each of {observations} observations",
        "signals": f"{tuple(shape)} {kind}",
    }
    sampler = record.get("sampler")
    if isinstance(sampler, Mapping):
        known["sampler"] = f"{sampler.get('name', '')}({brief(sampler.get('settings', {}))})"
    operator = record.get("operator")
    if isinstance(operator, Mapping):
        known["operator"] = f"{operator.get('name', '')}({brief(operator.get('settings', {}))})"
    known |= {"seed": record["seed"]} if "seed" in record else {}
    if samples.log_weight is not None:
        known["effective sample size"] = samples.effective_sample_size()
    if samples.log_evidence is not None:
        known["log evidence"] = samples.log_evidence.mean(1)
    calls = f"{cost.network_forwards:g} network forwards, {cost.network_vjps:g} vjps a draw, {cost.seconds:.1f} s"
    known["cost"] = calls
    return known | ({"remarks": "; ".join(record["remarks"])} if record.get("remarks") else {})


def summarized(samples: Samples, observation: int, problem: Problem | None) -> Summary:
    """See `Samples.summary`.

    Raises:
        ShapeError: If there is no such observation.
    """
    check_observation(samples, observation)
    truth, weights = samples.tensors.get("truth"), samples.weights()
    own = samples.draws[observation]
    w = torch.full((len(own),), 1 / len(own), dtype=torch.float64) if weights is None else weights[observation].cpu()
    names, values = _places(samples, own)
    columns = [weighted_mean(values, w), weighted_variance(values, w).sqrt(), *weighted_quantile(values, w, LEVELS)]
    if truth is not None and truth.shape == samples.draws[:, 0].shape:
        columns.append(_places(samples, truth[observation][None])[1][0])
    cells = [[f"{value:.3g}" for value in column.tolist()] for column in columns]
    notes = (f"effective sample size: {float(samples.effective_sample_size()[observation]):.1f} of {len(own)}",)
    notes += tuple(f"{key}: {brief(value)}" for key, value in told(samples).items() if key in ("cost", "remarks"))
    return Summary(
        f"observation {observation}: {len(own)} draws of signals {tuple(own.shape[1:])}",
        COLUMNS[: 1 + len(columns)],
        tuple(zip(names, *cells, strict=True)),
        notes,
        _verdict(samples, problem),
    )


def check_observation(samples: Samples, observation: int) -> None:
    """Refuse the number of an observation that does not exist.

    Raises:
        ShapeError: If there is none of this number.
    """
    if not 0 <= observation < len(samples.draws):
        raise ShapeError(
            f"there is no observation {observation}, the draws are of {len(samples.draws)}", hint="they count from 0"
        )


def _places(samples: Samples, draws: Tensor) -> tuple[list[str], Tensor]:
    """Names of the rows of a summary, and their values in float64, shape (n, row)."""
    flat = draws.cpu().double()
    if flat[0].numel() <= MOST_ROWS:
        flat = flat.flatten(1)
        return [str(i) for i in range(flat.shape[1])], flat
    if flat.ndim < 3 or flat.shape[1] > MOST_ROWS:
        return ["average"], flat.flatten(1).mean(1, keepdim=True)
    axis = next(iter(samples.signal.axes), None)
    names = list(axis.labels) if axis is not None and len(axis.labels) == flat.shape[1] else None
    return names or [f"average {i}" for i in range(flat.shape[1])], flat.flatten(2).mean(2)


def _verdict(samples: Samples, problem: Problem | None) -> Verdict | None:
    """What the checks say; None where they cannot say anything."""
    try:
        verdict = samples.check(problem)
    except (MidguideError, RuntimeError):
        return None
    return verdict if verdict.judged else None


def as_page(samples: Samples) -> str:
    """Draws in a notebook: what they are, a picture of the first observation, the verdict."""
    parts = [shown.table("Samples", samples.shown())]
    try:
        file = io.BytesIO()
        made = samples.plot()
        made.savefig(file, format="png", dpi=DPI)
        parts.append(shown.inline(file.getvalue(), "draws of observation 0", int(made.get_figwidth() * DPI)))
    except (MidguideError, ValueError):  # signals that no picture is made for
        pass
    verdict = _verdict(samples, None) if _is_quick(samples) else None
    return "".join(parts) + (verdict._repr_html_() if verdict else "<p>Judged by <code>check(problem)</code>.</p>")


def _is_quick(samples: Samples) -> bool:
    """Whether the checks of draws take less than about a second."""
    dense = samples.problem is not None and samples.problem.denoiser.exact_moments
    return samples.draws.numel() <= MOST_VALUES and not (dense and samples.draws[0, 0].numel() > MOST_EXACT)
