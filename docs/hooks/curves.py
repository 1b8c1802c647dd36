"""The error of each sampler over network calls, as a small SVG: from the benchmark that comes with the package."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from midguide.studies.benchmark import Line, ours
from midguide.studies.leaderboard import Mean, families, means


@functools.cache
def _panels() -> dict[str, list[Mean]]:
    lines: Sequence[Line] = ours()
    groups = families(lines)
    linear = [p for name, problems in groups.items() if name not in ("images", "nonlinear") for p in problems]
    found = {"real images": means(lines, groups["images"]), "other linear problems": means(lines, linear)}
    return found | {"nonlinear": means(lines, groups["nonlinear"])}


def _own(sampler: str) -> dict[str, list[Mean]]:
    """The means of a sampler by panel, least calls first."""
    picked = {title: [mean for mean in found if mean.sampler == sampler] for title, found in _panels().items()}
    return {title: sorted(own, key=lambda mean: mean.calls) for title, own in picked.items() if own}


def sentence(sampler: str) -> str:
    """The errors of the figure in words."""
    said = []
    for title, own in _own(sampler).items():
        last = own[-1]
        interval = f" ± {last.error_ci95:.2f}" if last.error_ci95 is not None else ""
        said.append(f"{title}: {last.error:.2f}{interval} at {last.calls:.0f} calls, {last.problems} kinds of problems")
    text = "; ".join(said)
    return (
        f"{text[0].upper()}{text[1:]}.\nZero is as near as exact draws, one as far as draws of the prior. "
        "Gray lines are the other samplers.\nThe numbers come from `midguide benchmark --all`."
    )


@functools.cache
def of_sampler(sampler: str) -> dict[str, str]:
    """The figure by its place in the site; none for a sampler without lines in the benchmark."""
    panels = _own(sampler)
    if not panels:
        return {}
    figure = Figure(figsize=(3.0 * len(panels), 2.5), facecolor="white")
    for axes, (title, own) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        others: dict[str, list[Mean]] = {}
        for mean in sorted(_panels()[title], key=lambda mean: mean.calls):
            if mean.budget:
                others.setdefault(mean.sampler, []).append(mean)
        for curve in others.values():
            axes.plot([m.calls for m in curve], [min(m.error, 1.4) for m in curve], color="0.85", linewidth=0.7)
        axes.plot([m.calls for m in own], [min(m.error, 1.4) for m in own], "o-", color="#3949ab", markersize=4)
        axes.set(title=title, xlabel="network calls", ylim=(0, 1.45), xscale="log")
        ticks = [round(mean.calls) for mean in own]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.axhline(1.0, color="0.5", linestyle=":", linewidth=0.8)
    figure.axes[0].set_ylabel("error")
    figure.tight_layout()
    out = io.StringIO()
    with rc_context({"svg.hashsalt": "midguide", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return {f"reference/samplers/figures/{sampler}.svg": out.getvalue()}
