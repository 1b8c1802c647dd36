"""A calibration as one HTML page: verdict, figures, command, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from midguide._version import __version__
from midguide.calibration.figures import coverage_figure, rank_figure
from midguide.studies.calibrate.found import Calibrated, Found, Mean
from midguide.studies.report.html import HEAD, STYLE, inline, line

SUMMARY = ("sampler", "verdict", "coverage at 0.9", "CRPS", "energy score", "chi-square", "forwards", "vjps", "seconds")


def as_html(found: Found, command: str, title: str) -> str:
    """The page as one file that needs no other.

    Args:
        found: what was found.
        command: what makes the page again.
        title: its heading.
    """
    plan = found.plan
    parts = [f"{HEAD}<title>{escape(title)}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{escape(title)}</h1>")
    if found.missing:
        parts.append(f"<p><b>Not complete: {found.missing} units are missing.</b></p>")
    parts.append(_table(SUMMARY, [summary(found, each) for each in found.samplers]))
    parts += [f"<p>{escape(note)}</p>" for note in found.notes()]
    parts += [f"<p>Left out: {escape(name)} ({escape(why)}).</p>" for name, why in found.left_out.items()]
    for each in found.samplers:
        parts += _section(found, each)
    seeds = (
        f"{plan.n} problems, {plan.draws} draws each, seed {plan.seed}, level {plan.level:g}, midguide {__version__}"
    )
    parts.append(f"<h2>How it was made</h2><pre>{escape(command)}</pre><p>{escape(seeds)}.</p></html>")
    return "\n".join(parts) + "\n"


def summary(found: Found, each: Calibrated) -> list[str]:
    """The line of a sampler in the table of all."""
    at = {c.level: c for c in each.central}
    scores = [_score(each, name, found.reference) for name in ("crps", "energy_score")]
    chi = _plus_minus(each.scores.get("chi_square"))
    coverage = _plus_minus(Mean(at[0.9].share, at[0.9].ci95)) if 0.9 in at else "-"
    cost = [f"{each.cost.get(name, 0):.{digits}f}" for name, digits in COSTS]
    return [each.label, each.verdict(), coverage, *scores, chi, *cost]


COSTS = (("network_forwards", 0), ("network_vjps", 0), ("seconds", 2))


def quantities(each: Calibrated) -> list[list[str]]:
    """A line for each test quantity: ranks, p-values, verdict."""
    judged = [
        [
            j.quantity,
            str(j.n),
            f"{j.p:.2g}",
            f"{j.adjusted:.2g}",
            j.verdict,
            f"{j.mean:.2f}",
            f"{j.spread:.2f}",
            j.meaning,
        ]
        for j in each.judged
    ]
    return judged + [[name, "-", "-", "-", "left out", "-", "-", why] for name, why in each.left_out.items()]


QUANTITIES_HEAD = ("test quantity", "n", "p", "p of the family", "verdict", "mean rank", "spread", "meaning")


def _section(found: Found, each: Calibrated) -> Iterator[str]:
    yield f"<h2>{escape(each.label)}</h2><p>{escape(each.verdict())}.</p>"
    for why, count in each.failed.items():
        yield f"<p>{count} problems failed: {escape(why)}</p>"
    yield _table(QUANTITIES_HEAD, quantities(each))
    if each.ranks:
        yield inline(rank_figure(each.ranks, found.plan.draws, found.plan.level))
    curves = {"central intervals": each.central, "highest density": each.highest, "random points (TARP)": each.tarp}
    if any(curves.values()):
        yield inline(coverage_figure(curves))


def _score(each: Calibrated, name: str, reference: str) -> str:
    behind = each.behind.get(name)
    more = f" ({behind.mean:+.3g} ± {behind.ci95:.2g} against {reference})" if behind else ""
    return _plus_minus(each.scores.get(name)) + more


def _plus_minus(value: Mean | None) -> str:
    return "-" if value is None else f"{value.mean:.3g} ± {value.ci95:.2g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"<table>{line('th', header)}{''.join(line('td', row) for row in rows)}</table>"
