"""Likely causes of what checks find, the most likely first, and what to change.

What the data themselves show comes first (`measurement`): no sampler mends a y that the model does not make. Then what
the sampler says of itself, then its settings that differ from their defaults, then the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from midguide.inference.verdict import looks
from midguide.inference.verdict.evidence import Evidence
from midguide.inference.verdict.suspicion import suspicion
from midguide.maths.chances import Band
from midguide.samplers.base import Sign

STEPS = ("steps", "gradient_steps", "iterations", "moves", "particles", "walk_steps", "ode_steps", "corrections")
"""Settings of samplers of which more make an answer better."""
STRENGTHS = ("guidance", "strength", "weight", "rate", "step_size", "learning_rate")
"""Settings that have a best value: too small ones do not fit the data, too large ones overfit or overshoot."""
FAR = 2.0
"""A setting that differs from its default by a larger factor is named first."""
VERY_FAR = 10.0
"""The same for steps where draws fit too well, which few steps seldom explain."""
WHITE = 0.15
"""Residuals that are less correlated than this look like noise."""
COMMON = 0.25
"""Residuals that are to this share the same in all draws are the noise of the data."""
ROUNDING = 0.01
"""A smaller chi-square is not one of noise, however small, but of draws that repeat the data."""

Advice = tuple[str, int]
"""Causes in words, and the rank of the finding."""


def of_misfit(evidence: Evidence, value: float, band: Band) -> Advice:
    """Why draws explain the data worse than the noise has it, or better."""
    if said := suspicion(evidence):
        return said.advice, 1
    if value > 1:
        found = [*signs(evidence), *changed(evidence)]
        fit_better = [*more(evidence)]
        if not evidence.too_wide and not cleared(evidence):
            fit_better = [*noise_level(evidence, value), *fit_better, OPERATOR]
        return _joined([*found, *fit_better]), 2
    level = [] if cleared(evidence) or value < ROUNDING else noise_level(evidence, value)
    found = [*signs(evidence), *changed(evidence, VERY_FAR)]
    # what all draws leave unexplained is noise, smaller than assumed
    found = [*level, *found] if evidence.common > COMMON else [*found, *level]
    return _joined([*found, "overfitting: the draws follow the noise; " + fit_less(evidence)]), 2


def of_structure(evidence: Evidence, value: float) -> Advice:
    """Why residuals are not noise."""
    if said := suspicion(evidence):
        return said.advice, 1
    model = [] if cleared(evidence) else [OPERATOR]
    return _joined([*signs(evidence), *changed(evidence), *model, *more(evidence)]), 4


def of_spread(evidence: Evidence, value: float, band: Band) -> Advice:
    """Why draws differ too much, or too little."""
    if said := suspicion(evidence):
        return said.advice, 1
    if band.high is not None and value > band.high:
        return _joined([*signs(evidence), *changed(evidence), *more(evidence)]), 3
    found = [*signs(evidence), *changed(evidence, VERY_FAR)]
    return _joined([*found, f"the draws are too much alike; {fit_less(evidence)}"]), 3


def of_looks(evidence: Evidence) -> Advice:
    """Why draws do not look like signals of the prior."""
    if said := suspicion(evidence):
        return said.advice, 1
    name, more = looks.strangest(evidence)
    found = [*signs(evidence), *changed(evidence)]
    if name == "roughness" and more:
        value = evidence.average(evidence.chi_square)
        level = noise_level(evidence, value) if value > 1 else []
        return _joined(
            [*found, *level, "the draws hold noise: the sampler fits y too closely; " + fit_less(evidence)]
        ), 3
    return _joined([*found, looks.of_another_kind(evidence), "the sampler has not converged"]), 3


OPERATOR = "the operator is not the one that made y (kernel, mask, alignment), or the prior is one of other signals"


def signs(evidence: Evidence) -> list[str]:
    """What the sampler says of itself, where it is suspect."""
    found = []
    for name, meaning in evidence.record.get("signs", {}).items():
        sign = Sign(**meaning)
        if name in evidence.signs and bool((~(evidence.signs[name] <= sign.high)).any()):
            found.append(f"{sign.meaning}: {sign.advice}")
    return found


def changed(evidence: Evidence, fewer: float = FAR) -> list[str]:
    """Settings that are far from their defaults, the farthest first: another strength, or `fewer` times fewer steps."""
    lines = []
    for name in (*STEPS, *STRENGTHS):
        value, default = _number(evidence.setting, name), _number(evidence.default, name)
        if not value or not default:
            continue
        ratio = math.log(value / default)
        if ratio < -math.log(FAR if name in STRENGTHS else fewer) or (ratio > math.log(FAR) and name in STRENGTHS):
            change = "raise" if ratio < 0 else "lower"
            lines.append((-abs(ratio), f"`{name}` is {value:g}, its default {default:g}: {change} it"))
    return [line for _, line in sorted(lines)]


def more(evidence: Evidence) -> list[str]:
    """Settings that bring draws nearer to the data."""
    known = {name: value for name in (*STEPS, *STRENGTHS) if (value := _number(evidence.setting, name))}
    names = [f"`{name}` ({value:g} now)" for name, value in known.items()][:2]
    return [f"not converged: raise {' or '.join(names)}, or take another preset or sampler"] if names else []


def fit_less(evidence: Evidence) -> str:
    """What makes draws follow the data less closely."""
    known = {name: value for name in STRENGTHS if (value := _number(evidence.setting, name))}
    other = "take another sampler: `midguide calibrate` compares them on draws of the prior"
    lower = [f"lower `{name}` ({value:g} now), or " for name, value in known.items()][:1]
    return "".join([*lower, other])


def cleared(evidence: Evidence) -> bool:
    """Whether y was found plausible under prior, operator and noise level, so that they are not to blame."""
    suspicion(evidence)
    return getattr(evidence.kept["suspicion"], "advice", None) == ""


def noise_level(evidence: Evidence, value: float) -> list[str]:
    """The noise level under which residuals of this mean square are right; of large ones only where they are white.

    Its ratio to the given level holds in every unit: a command may take the level in mV where y is in another.
    """
    sigma = getattr(evidence.likelihood, "sigma_y", None)
    if not isinstance(sigma, float | int) or value <= 0 or (value > 1 and not white(evidence)):
        return []
    size = "small: the residuals are white, of" if value > 1 else "large: the residuals have the"
    ratio = value**0.5
    return [f"sigma_y is too {size} standard deviation {sigma * ratio:.2g}, {ratio:.2g} times sigma_y"]


def white(evidence: Evidence) -> bool:
    """Whether neighboring residuals are hardly correlated, or there are none."""
    return abs(evidence.correlation[0]) < WHITE


def _number(settings: Mapping[str, Any], name: str) -> float:
    """A setting where it is a positive number, or a table with a default one; else 0."""
    value = settings.get(name)
    value = value.get("default") if isinstance(value, Mapping) else value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0


def _joined(causes: list[str]) -> str:
    """Causes as one line, each once."""
    return "; or ".join(dict.fromkeys(causes)) or "the sampler's own error: compare with another sampler"
