"""Do draws, and y, look like signals of the prior, and what they make? For priors whose statistics are known.

A y of another value range lets draws either leave the range of the prior or explain nothing. Mapping draws back shows
which range it is. So does the distance by which y leaves all that the operator makes of signals of the prior's range.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.priors.statistics import Statistics

RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0))
"""Value ranges in which signals commonly come, the narrow ones first."""
USUAL = 0.01
"""Draws within the limit of this level are usual ones."""
NEARER = 0.7
"""A mapping that explains draws brings them nearer to signals of the prior by this factor at least."""
BEYOND = 1.5
"""A y that is larger by this factor than what the operator makes of signals is not theirs."""
EXPLAINED = (0.5, 2.0)
"""Where chi-square is in these limits draws explain y, so that unusual ones tell of y and not of the sampler."""


class Suspicion(NamedTuple):
    """What is wrong with y, in words, and how far it is from what the model makes.

    The words are there also where y is only unusual: for what else is found.
    """

    advice: str
    value: float
    high: float


def statistics(evidence: Evidence) -> Statistics:
    """What signals of the prior look like.

    Raises:
        LeftOut: If that is not known.
    """
    known = evidence.prior.statistics
    if known is None:
        raise LeftOut(
            "what signals of the prior look like is not known: prior.statistics = Statistics.of(signals) tells"
        )
    return known


def numbers(evidence: Evidence, draws: Tensor) -> Tensor:
    """The numbers of draws by which signals are known, shape (n, numbers)."""
    return torch.stack(list(statistics(evidence).measure(draws).values()), 1)


def distance(evidence: Evidence, draws: Tensor) -> float:
    """How unusual draws are on average, in standard deviations."""
    return evidence.average(statistics(evidence).distances(numbers(evidence, draws)))


def of_draws(evidence: Evidence, level: float) -> Suspicion:
    """What is wrong with y, as far as its size and the draws tell.

    Raises:
        LeftOut: If nothing tells that something is wrong with y.
    """
    if said := beyond(evidence):
        return Suspicion(said, 0.0, 0.0)
    value, limit = distance(evidence, evidence.draws), statistics(evidence).limit(level)
    if value > statistics(evidence).limit(USUAL):
        if said := _ranges(evidence):
            return Suspicion(said, value, limit)
        if (
            EXPLAINED[0] < evidence.average(evidence.chi_square) < EXPLAINED[1]
            and strangest(evidence)[0] != "roughness"
        ):
            return Suspicion(of_another_kind(evidence), value, limit)
    raise LeftOut("draws do not tell whether y is plausible")


def beyond(evidence: Evidence) -> str:
    """That y is larger than what the operator makes of signals in the range of the prior, in words; else empty."""
    known = evidence.prior.signal_range
    if known is None:
        return ""
    like = evidence.likelihood.y
    ends = [torch.full((1, *evidence.draws.shape[1:]), value).to(like) for value in known]
    signals = torch.cat([*ends, evidence.draws[:1].to(like).clamp(*known)])
    rows = evidence.likelihood.operator.select(torch.zeros(len(signals), dtype=torch.long, device=like.device))
    made = float(torch.where(evidence.measured.to(like.device), rows(signals), 0.0).abs().max())
    sigma = getattr(evidence.likelihood, "sigma_y", None)
    if not isinstance(sigma, float):
        return ""
    size = float(like[evidence.measured.to(like.device)].abs().double().quantile(0.99))
    if size <= BEYOND * made + 4 * sigma:
        return ""
    ratio = size / max(made, 1e-12) * max(map(abs, known))
    wide = [limits for limits in RANGES if limits[1] >= 0.7 * ratio]
    if made > 0 and wide:
        return range_in_words(wide[0], known)
    return f"value range: y reaches {size:.3g}, the operator makes at most {made:.3g} of signals of the prior"


def range_in_words(looks: tuple[float, float], known: tuple[float, float]) -> str:
    """That y is of another value range."""
    return (
        f"value range: y looks like signals of {looks[0]:g} to {looks[1]:g}, the prior's are {known[0]:g} to "
        f"{known[1]:g}; map them first"
    )


def of_another_kind(evidence: Evidence) -> str:
    """How draws differ from signals of the prior."""
    name, more = strangest(evidence)
    source = statistics(evidence).source
    how = "another coarse layout" if name == "layout" else f"{'more' if more else 'less'} `{name}`"
    return (
        f"prior: the draws have {how} than {source or 'its signals'}: y is one of another kind, crop or value range; "
        f"or the operator is another"
    )


def _ranges(evidence: Evidence) -> str:
    """The value range from which draws are far less strange once they are mapped; empty where there is none."""
    known = evidence.prior.signal_range
    if known is None:
        return ""
    low, high = known
    mapped = {
        limits: distance(evidence, low + (evidence.draws - limits[0]) / (limits[1] - limits[0]) * (high - low))
        for limits in RANGES
        if limits != known
    }
    best = min(mapped, key=mapped.__getitem__)
    usual = min(statistics(evidence).limit(USUAL), NEARER * distance(evidence, evidence.draws))
    return range_in_words(best, known) if mapped[best] <= usual else ""


def strangest(evidence: Evidence) -> tuple[str, bool]:
    """The number in which draws differ most from signals of the prior, and whether it is larger."""
    if "strangest" not in evidence.kept:
        known = statistics(evidence)
        gap = known.marginal(evidence.weights @ numbers(evidence, evidence.draws))
        place = int(gap.abs().argmax())
        evidence.kept["strangest"] = list(known.means)[place], bool(gap[place] > 0)
    return evidence.kept["strangest"]
