"""What a verdict is, what a check is, and the checks by name.

A check compares numbers of a result with a band. In that band they lie for draws of the exact posterior of data that
the model itself makes. A check never shows that a result is right: it finds something, or nothing.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from midguide.catalogue.base import Catalogue
from midguide.errors import ConfigError
from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.maths.chances import Band

FALSE_ALARMS = 0.01
"""Share of right results of which a verdict says something, at most."""

BLIND = (
    "parts of the signal that nothing measures, beyond what the prior's statistics tell; "
    "errors common to the prior and the data; modes that no draw has found"
)
"""What no check here sees."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A number of a result beside the band of right answers.

    Args:
        check: registered name of the check.
        what: what the number is, in words.
        value: the number; that of the worst observation, where there are several.
        low: least value in the band, or None.
        high: largest value in the band, or None.
        advice: likely causes and what to change, the most likely first; empty where the value is in its band.
        rank: where a finding stands among several: the least is the most likely to explain the others.

    Example:
        >>> judged = Judged(check="misfit", what="chi-square", value=3.0, low=0.9, high=1.1, advice="raise `steps`")
        >>> judged.line()
        'chi-square 3, expected 0.9 to 1.1'
    """

    check: str
    what: str
    value: float
    low: float | None
    high: float | None
    advice: str = ""
    rank: int = 5

    @property
    def found(self) -> bool:
        """Whether the value is outside its band."""
        return not Band(self.low, self.high).holds(self.value)

    @property
    def excess(self) -> float:
        """How far outside the band, above 0, or inside it, below 0: a logarithm where that can be."""
        over = -math.inf if self.high is None else _gap(self.value, self.high)
        under = -math.inf if self.low is None else _gap(self.low, self.value)
        return max(over, under) if not math.isnan(self.value) else math.inf

    def line(self) -> str:
        """The number with its band, in words."""
        return f"{self.what} {self.value:.3g}, expected {band_in_words(self.low, self.high)}"


def _gap(larger: float, smaller: float) -> float:
    if larger > 0 and smaller > 0:
        return math.log(larger / smaller)
    return larger - smaller


def band_in_words(low: float | None, high: float | None) -> str:
    """`0.9 to 1.1`, or one side of it."""
    if low is None or high is None:
        return f"at most {high:.3g}" if low is None else f"at least {low:.3g}"
    return f"{low:.3g} to {high:.3g}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the checks of a result found.

    Args:
        judged: every number that was compared with a band, findings first, the likeliest to explain the rest at the
            top.
        left_out: checks that did not apply, with the reason, by name.
        false_alarms: share of right results of which something is found, at most; criteria of samplers (their signs,
            the weights) and a prior that is not the law of the data come on top.
    """

    judged: tuple[Judged, ...]
    left_out: dict[str, str]
    false_alarms: float = FALSE_ALARMS

    @property
    def findings(self) -> tuple[Judged, ...]:
        """The numbers outside their bands."""
        return tuple(each for each in self.judged if each.found)

    def short(self) -> str:
        """The verdict in a few words, for a table."""
        if not self.judged:
            return "no check applies"
        if not self.findings:
            return f"nothing found by {len({each.check for each in self.judged})} checks"
        first, *others = self.findings
        more = f", and {len(others)} more" if others else ""
        return f"{first.check} {first.value:.3g}, expected {band_in_words(first.low, first.high)}{more}"

    def line(self) -> str:
        """The verdict in one line, with what to change."""
        if not self.judged:
            return "no check applies: " + "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
        if not self.findings:
            names = ", ".join(dict.fromkeys(each.check for each in self.judged))
            return f"nothing found by these checks: {names}"
        first, *others = self.findings
        more = f" (and {len(others)} more)" if others else ""
        return f"{first.check}: {first.line()}{more}. {first.advice}"

    def as_json(self) -> list[dict[str, Any]]:
        """Every number as an object `check, value, low, high, advice`; `advice` is null where nothing was found."""
        keys = ("check", "value", "low", "high")
        return [{**{key: asdict(each)[key] for key in keys}, "advice": each.advice or None} for each in self.judged]

    def __str__(self) -> str:
        lines = [self.line()]
        lines += [f"  {'! ' if each.found else '  '}{each.check}: {each.line()}" for each in self.judged]
        lines += [f"    {each.check}: {each.advice}" for each in self.findings[1:]]
        lines += [f"  left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join([*lines, f"  not seen by any check: {BLIND}"])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'<b>found</b>' if each.found else ''}</td><td>{html.escape(each.check)}</td>"
            f"<td>{html.escape(each.what)}</td><td>{each.value:.3g}</td>"
            f"<td>{html.escape(band_in_words(each.low, each.high))}</td><td>{html.escape(each.advice)}</td></tr>"
            for each in self.judged
        )
        head = "".join(f"<th>{name}</th>" for name in ("", "check", "what", "value", "expected", "what to change"))
        out = "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
        small = (f"Left out: {html.escape(out)}. " if out else "") + f"Not seen by any check: {html.escape(BLIND)}."
        line = html.escape(self.line())
        return f"<p>{line}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{small}</p>"


Check = Callable[[Evidence, float], Iterable[Judged]]
"""`(evidence, level) -> numbers`, outside their bands for a share of `level` of right results; raises `LeftOut`."""


def _check_check(thing: object) -> None:
    """Refuse what is not a check."""
    if not callable(thing) or isinstance(thing, type):
        raise ConfigError("it is not a check", hint="a function (evidence, level) -> list[Judged]")


CHECKS: Catalogue[Check] = Catalogue(
    "check", "midguide.inference.verdict", group="midguide.checks", context=("evidence", "level"), check=_check_check
)
"""Checks of results by name."""


def judge(pieces: Iterable[Evidence], false_alarms: float = FALSE_ALARMS) -> Verdict:
    """What all checks find in the observations of a result.

    Observations share the false alarms evenly, and so do the checks of each (Bonferroni).

    Args:
        pieces: the evidence of each observation.
        false_alarms: share of right results of which something is found, at most.

    Raises:
        ConfigError: If the share is not between 0 and 1.
    """
    if not 0.0 < false_alarms < 1.0:
        raise ConfigError(f"false_alarms must be between 0 and 1, got {false_alarms}", hint="0.01 is the default")
    pieces = list(pieces)
    level = false_alarms / max(len(pieces), 1) / len(CHECKS)
    worst: dict[tuple[str, str], Judged] = {}
    left_out: dict[str, str] = {}
    for number, evidence in enumerate(pieces):
        for name, entry in CHECKS.items():
            try:
                found = list(entry.thing(evidence, level))
            except LeftOut as why:
                left_out.setdefault(name, why.message)
                continue
            left_out |= evidence.omitted
            for each in found:
                place = f"{each.what} of observation {number}" if len(pieces) > 1 else each.what
                key = each.check, each.what
                if key not in worst or each.excess > worst[key].excess:
                    worst[key] = replace(each, what=place)
    done = {check for check, _ in worst}
    judged = sorted(worst.values(), key=lambda each: (not each.found, each.rank, -each.excess))
    left_out = {name: why for name, why in left_out.items() if name not in done}
    return Verdict(judged=tuple(judged), left_out=left_out, false_alarms=false_alarms)
