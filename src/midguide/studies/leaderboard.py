"""The leaderboard: lines of the benchmark as a figure, as one HTML page that sorts itself, and as Markdown tables."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from midguide.known.base import KNOWN
from midguide.studies.benchmark import REFERENCES, Line
from midguide.studies.report.html import HEAD, SCROLLS
from midguide.studies.report.rows import student

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = ("mgps", "dps", "ddrm", "pgdm")
"""Samplers that figures always name, since readers know them."""
BEST = 4
"""How many others figures name: the nearest to the posterior at the largest budget."""
COLUMNS = (
    ("problem", "Known posterior."),
    ("sampler", ""),
    ("budget", "Network calls of a draw, at most; 0 for references."),
    ("calls", "Forwards and vector-Jacobian products of a draw."),
    ("error", "Distance from the posterior: 0 as exact draws, 1 as draws of the prior."),
    ("± error", "Half of the 95 % interval over problems of the kind."),
    ("sliced W2", "In the unit of the signal."),
    ("gap, dB", "Squared error of the mean of the draws above the least possible one."),
    ("± gap", "Half of the 95 % interval."),
    ("90 % intervals hold", "Share of exact draws inside the central 90 % intervals of the draws."),
    ("n", "Problems."),
    ("failures", "Problems without a value."),
)
STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:76em;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}th{cursor:pointer;background:#f4f4f4;position:sticky;top:0}"
    "tr.own{background:#fff3c4;font-weight:bold}tr.reference{color:#777}img{max-width:100%}select{margin:0 1em .8em 0}"
    + SCROLLS
)
SCRIPT = """
const table = document.querySelector('table'), body = table.tBodies[0], rows = [...body.rows];
const key = (row, i) => { const c = row.cells[i]; const n = parseFloat(c.dataset.v ?? c.textContent);
  return Number.isNaN(n) ? c.textContent : n; };
let last = -1, up = true;
function sort(i) {
  up = i === last ? !up : true; last = i;
  rows.sort((a, b) => { const x = key(a, i), y = key(b, i);
    const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === 'number' ? -1 : 1;
    return up ? order : -order; });
  rows.forEach(row => body.appendChild(row));
}
[...table.tHead.rows[0].cells].forEach((cell, i) => cell.addEventListener('click', () => sort(i)));
function filter() {
  const wanted = [...document.querySelectorAll('select')].map(s => [Number(s.dataset.column), s.value]);
  rows.forEach(row => { row.hidden = wanted.some(([i, v]) => v !== '' && row.cells[i].textContent !== v &&
    !(i === 2 && row.classList.contains('reference'))); });
}
document.querySelectorAll('select').forEach(s => s.addEventListener('change', filter));
"""


class Mean(NamedTuple):
    """A sampler at a budget over several kinds of problems: calls, and means; half of the 95 % interval over seeds."""

    sampler: str
    budget: int
    calls: float
    error: float
    error_ci95: float | None
    gap: float
    coverage: float
    problems: int


def means(lines: Iterable[Line], problems: Sequence[str]) -> list[Mean]:
    """Means over problems, for samplers that have a value on all of them, the nearest to the posterior first."""
    cells: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        if line.problem in problems and not math.isnan(line.error):
            cells.setdefault((line.sampler, line.budget), []).append(line)
    whole = {key: own for key, own in cells.items() if len(own) == len(problems)}
    return sorted((_mean(*key, own) for key, own in whole.items()), key=lambda mean: mean.error)


def _mean(sampler: str, budget: int, own: Sequence[Line]) -> Mean:
    errors = [line.error for line in own]
    calls, gap = fmean(line.calls for line in own), fmean(line.gap for line in own)
    return Mean(
        sampler, budget, calls, fmean(errors), _pooled(own), gap, fmean(line.coverage for line in own), len(own)
    )


def _pooled(own: Sequence[Line]) -> float | None:
    """Half of the 95 % interval of the mean error over these kinds of problems, from the scatter within each kind."""
    freedom = sum(line.seeds - 1 for line in own)
    if any(line.seeds < 2 or math.isnan(line.error_ci95) for line in own):
        return None
    variance = sum((line.error_ci95 / student(line.seeds - 1)) ** 2 for line in own) / len(own) ** 2
    return student(freedom) * math.sqrt(variance)


def families(lines: Iterable[Line]) -> dict[str, list[str]]:
    """The problems of each family, in the order of the lines; those of a user's file are a family of their own."""
    found: dict[str, list[str]] = {}
    for problem in dict.fromkeys(line.problem for line in lines):
        found.setdefault(family(problem), []).append(problem)
    return found


def family(problem: str) -> str:
    """The family of a known posterior."""
    return str(KNOWN[problem].facts.get("family", "own")) if problem in KNOWN else "own"


def title(problem: str) -> str:
    """What tables say of a known posterior."""
    return str(KNOWN[problem].facts.get("title", problem)) if problem in KNOWN else problem


def figure(lines: Sequence[Line], marked: str = "") -> Figure:
    """Distance from the posterior over network calls: one panel for linear problems, one for images.

    Args:
        lines: of the benchmark.
        marked: a sampler to stand out.
    """
    from matplotlib.figure import Figure

    groups = families(lines)
    images = groups.get("images", [])
    others = [p for name, problems in groups.items() if name not in ("images", "nonlinear") for p in problems]
    panels = [(f"real images ({len(images)} problems)", images), (f"other linear problems ({len(others)})", others)]
    panels += [(f"nonlinear ({len(groups['nonlinear'])})", groups["nonlinear"])] if "nonlinear" in groups else []
    panels = [panel for panel in panels if panel[1]]
    made = Figure(figsize=(5.2 * len(panels), 4.6), dpi=120, layout="constrained")
    for axes, (heading, problems) in zip(made.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, means(lines, problems), heading, marked)
    return made


def _panel(axes: Axes, found: Sequence[Mean], heading: str, marked: str) -> None:
    curves: dict[str, list[Mean]] = {}
    for mean in sorted(found, key=lambda mean: mean.calls):
        if mean.sampler not in REFERENCES:
            curves.setdefault(mean.sampler, []).append(mean)
    ranked = sorted(curves, key=lambda name: curves[name][-1].error)
    wanted: list[str] = [*([marked] if marked in curves else []), *ranked[:BEST], *NAMED]
    named = sorted({name for name in wanted if name in curves}, key=lambda name: curves[name][-1].error)
    for name, own in curves.items():
        color, width = (f"C{named.index(name) % 10}", 2.0) if name in named else ("0.8", 0.8)
        width = 3.5 if name == marked else width
        axes.plot([m.calls for m in own], [m.error for m in own], "o-", color=color, linewidth=width, markersize=3)
    places = _spread([curves[name][-1].error for name in named], 0.055)
    for name, place in zip(named, places, strict=True):
        color = f"C{named.index(name) % 10}"
        axes.text(1.08 * curves[name][-1].calls, place, name, color=color, va="center", fontsize=8)
    axes.axhline(1, linestyle="--", linewidth=1, color="0.4")
    axes.text(0.01, 1.01, "as far as the prior", transform=axes.get_yaxis_transform(), fontsize=7, color="0.4")
    floor = next((mean.error for mean in found if mean.sampler == "exact"), 0.0)
    axes.axhline(floor, linestyle="--", linewidth=1, color="0.4")
    axes.text(0.01, floor + 0.01, "exact draws", transform=axes.get_yaxis_transform(), fontsize=7, color="0.4")
    axes.set_xscale("log")
    axes.set_xlim(20, 3.2 * max([mean.calls for mean in found] + [30.0]))
    axes.set_xticks([25, 50, 100, 200, 300, 500], ["25", "50", "100", "", "300", ""])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.25)
    axes.set_title(heading, fontsize=10)
    axes.set_xlabel("network calls of a draw")
    axes.set_ylabel("distance from the posterior")


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Places of labels near ascending values, at least `gap` apart."""
    places: list[float] = []
    for value in values:
        places.append(max(min(value, 1.2), places[-1] + gap) if places else min(value, 1.2))
    return places


def as_html(lines: Sequence[Line], marked: str = "") -> str:
    """One page that needs no other and no server: a figure, and all lines, sorted by a click on a heading.

    Args:
        lines: of the benchmark.
        marked: a sampler to stand out.
    """
    picture = io.BytesIO()
    figure(lines, marked).savefig(picture, format="png")
    image = base64.b64encode(picture.getvalue()).decode()
    heads = "".join(f'<th title="{escape(tip)}">{escape(name)}</th>' for name, tip in COLUMNS)
    body = "".join(_html_row(line, marked) for line in lines)
    return "\n".join(
        [
            f"{HEAD}<title>Leaderboard</title><style>{STYLE}</style>",
            "<h1>How near do samplers come to posteriors that are known?</h1>",
            "<p>Error 0: as near as exact draws. Error 1: as far as draws of the prior. Click a heading to sort.</p>",
            f'<img alt="Distance from the posterior over network calls" src="data:image/png;base64,{image}">',
            f"<p>{_select(lines, 0)}{_select(lines, 1)}{_select(lines, 2)}</p>",
            f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>",
            f"<script>{SCRIPT}</script>",
        ]
    )


def _select(lines: Sequence[Line], column: int) -> str:
    """A list to choose the shown lines from."""
    name = COLUMNS[column][0]
    values = dict.fromkeys(str(getattr(line, name)) for line in lines if column != 2 or line.budget)
    choices = "".join(f"<option>{escape(value)}</option>" for value in values)
    return f'<select data-column="{column}"><option value="">every {name}</option>{choices}</select>'


def _html_row(line: Line, marked: str) -> str:
    kind = "own" if line.sampler == marked else "reference" if line.sampler in REFERENCES else ""
    numbers = [line.calls, line.error, line.error_ci95, line.sliced_wasserstein, line.gap, line.gap_ci95, line.coverage]
    forms = ("{:.0f}", "{:.3f}", "{:.3f}", "{:.3f}", "{:.2f}", "{:.2f}", "{:.3f}")
    cells = [escape(line.problem), escape(line.sampler), str(line.budget)]
    cells += ["" if math.isnan(x) else form.format(x) for form, x in zip(forms, numbers, strict=True)]
    cells += [str(line.seeds), str(line.failures)]
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def as_markdown(lines: Sequence[Line]) -> str:
    """A table for each family of problems, and for each budget: means over its problems, the nearest first."""
    parts = []
    for name, problems in families(lines).items():
        titles = "; ".join(f"`{problem}` ({title(problem)})" for problem in problems)
        parts.append(f"### {name[0].upper()}{name[1:]}\n\n{titles}.\n")
        found = means(lines, problems)
        budgets = sorted({mean.budget for mean in found} - {0})
        header = ["sampler", *(f"error at {budget} calls" for budget in budgets), "gap, dB", "90 % hold"]
        rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        at_most = {mean.sampler: (-mean.budget, mean.error) for mean in sorted(found, key=lambda mean: mean.budget)}
        at_most |= {
            name: (-max(budgets, default=0), error) for name, (_, error) in at_most.items() if name in REFERENCES
        }
        samplers = sorted(at_most, key=lambda name: at_most[name])
        parts.append("\n".join([*rows, *(_markdown_row(sampler, budgets, found) for sampler in samplers)]) + "\n")
    return "\n".join(parts)


def _markdown_row(sampler: str, budgets: Sequence[int], found: Sequence[Mean]) -> str:
    """Errors at each budget; gap and coverage at the largest one."""
    own = {mean.budget: mean for mean in found if mean.sampler == sampler}
    last = own[max(own)]
    if sampler in REFERENCES:
        cells = [_with_interval(last)] * len(budgets)
    else:
        cells = [_with_interval(own[budget]) if budget in own else "" for budget in budgets]
    return f"| `{sampler}` | {' | '.join(cells)} | {last.gap:.2f} | {100 * last.coverage:.0f} % |"


def _with_interval(mean: Mean) -> str:
    return f"{mean.error:.3f}" + (f" ± {mean.error_ci95:.3f}" if mean.error_ci95 is not None else "")
