"""What is known of an electrocardiogram: all leads for half of the time, or some leads for all of it.

Events are the nine modeled leads, shape (9, time), in the order of `midguide.domains.ecg.leads.MODELED`.
"""

from __future__ import annotations

import torch

from midguide.domains.ecg.leads import MODELED, modeled, parse_leads
from midguide.errors import ConfigError, ShapeError, unknown
from midguide.maths.rng import Rng
from midguide.operators.base import OPERATORS
from midguide.operators.mask import Mask

HALVES = ("first", "second", "random")


@OPERATORS.register("ecg-missing-block", summary="one half of an electrocardiogram is hidden", needs="nine leads")
def missing_block(
    event_shape: tuple[int, ...], *, seed: int = 0, hidden: str = "second", count: int | None = None
) -> Mask:
    """Hide one half of all leads: `hidden` is first, second, or random.

    Args:
        event_shape: (9, time); of an odd number of samples, the larger half is measured.
        seed: with `random`, observation i hides what the stream (seed, "block", i) says.
        hidden: which half.
        count: with `random`, how many observations get a half of their own; None for one that serves all.

    Raises:
        ConfigError: If there is no such half, or the count is not positive or not needed.

    Example:
        >>> missing_block((9, 4)).mask[0]
        tensor([ True,  True, False, False])
    """
    samples = _samples(event_shape)
    if hidden not in HALVES:
        raise unknown("half", hidden, HALVES)
    if count is not None and (count < 1 or hidden != "random"):
        raise ConfigError(f"count={count} with hidden={hidden!r}", hint="a positive count, with hidden = random")
    rows = 1 if count is None else count
    second = torch.full((rows, 1), hidden == "second")
    if hidden == "random":
        second = Rng([(seed, "block", i) for i in range(rows)]).uniform(torch.empty(rows, 1)) < 0.5
    times, half = torch.arange(samples), samples // 2
    mask = torch.where(second, times < samples - half, times >= half)[:, None].expand(rows, len(MODELED), samples)
    return Mask(mask[0].clone()) if count is None else Mask(mask.clone(), per_observation=True)


@OPERATORS.register("ecg-missing-leads", summary="some leads of an electrocardiogram are known", needs="nine leads")
def missing_leads(
    event_shape: tuple[int, ...], *, seed: int = 0, observed: str = "I", recorded: int | None = None
) -> Mask:
    """Measure some leads only, and those that follow from them.

    Args:
        event_shape: (9, time).
        seed: nothing is drawn.
        observed: leads with commas, or a device of `leads.LEAD_SETS`: smartwatch (I), six-lead (I and II),
            holter (II, V1, V5). Two limb leads determine the third.
        recorded: samples that were recorded; the zeros that a shorter recording ends with are then not measured. By
            default all are, also the zeros.

    Raises:
        ConfigError: If a lead is unknown, none of the prior's leads is determined, or `recorded` is out of range.

    Example:
        >>> missing_leads((9, 4), observed="six-lead").mask[:, 0].nonzero().flatten().tolist()
        [0, 1, 2]
    """
    samples = _samples(event_shape)
    if recorded is not None and not 1 <= recorded <= samples:
        raise ConfigError(f"recorded={recorded} of {samples} samples", hint="leave it out where all were recorded")
    known = modeled(parse_leads(observed))
    rows = torch.tensor([name in known for name in MODELED])
    times = torch.arange(samples) < (samples if recorded is None else recorded)
    return Mask(rows[:, None] & times)


def _samples(event_shape: tuple[int, ...]) -> int:
    if len(event_shape) != 2 or event_shape[0] != len(MODELED):
        raise ShapeError(
            f"an electrocardiogram has shape (9, time), the prior's events have {tuple(event_shape)}",
            hint=f"its leads are {', '.join(MODELED)}",
        )
    return event_shape[1]
