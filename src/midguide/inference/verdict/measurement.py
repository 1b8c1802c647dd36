"""Is y plausible under prior, operator and noise? The most frequent cause of nonsense is a y that is not."""

from __future__ import annotations

from midguide.inference.verdict.base import CHECKS, Judged
from midguide.inference.verdict.evidence import Evidence, LeftOut
from midguide.inference.verdict.suspicion import suspicion


@CHECKS.register("measurement")
def measurement(evidence: Evidence, level: float) -> list[Judged]:
    """The largest deviation of y from measurements of draws of the prior, in standard deviations."""
    if evidence.closed_form is None:
        raise LeftOut("the prior cannot be sampled without network calls")
    found = suspicion(evidence, level)
    assert found is not None
    advice, value, high = found
    what = "largest deviation of y from what the model makes, in standard deviations,"
    return [
        Judged(
            check="measurement",
            what=what,
            value=value,
            low=None,
            high=high,
            advice=advice if value > high else "",
            rank=0,
        )
    ]
