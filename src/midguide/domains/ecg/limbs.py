"""Whether limb leads agree with each other, before anything is made of them; and which lead is wrong where not.

Six limb leads have four relations (Einthoven, Goldberger). Rounding breaks them by a count of the converter. Leads in
an unexpected order, a lead with its sign turned, or another gain break them by a large part of the signal. So this
module measures the relations: what is left of the leads beside their best I and II, second by second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from midguide.domains.ecg.leads import LIMB, limb_weights
from midguide.errors import DataError

LEAST_MV, SHARE = 0.02, 0.1
"""Of a disagreement that is not noise: its root mean square in some second, also as a share of that of the leads."""
FLAT_MV = 0.002
"""A lead that moves by less in a whole recording was not connected: two steps of the usual 1000 per mV."""


@dataclass(frozen=True)
class Conflict:
    """Limb leads that contradict each other.

    Args:
        largest: violation of a relation at some time, in mV.
        lead: the one lead without which the others agree; empty where there is none, or several.
        how: what is wrong with it.
        exchanged: for each limb lead the one whose values it has, where a change of names explains all.
    """

    largest: float
    lead: str = ""
    how: str = ""
    exchanged: tuple[tuple[str, str], ...] = ()


def is_flat(lead: Tensor) -> bool:
    """Whether the values of a lead (mV, shape (time,), NaN where there is none) move by less than `FLAT_MV`."""
    known = lead[lead.isfinite()]
    return len(known) > 0 and float(known.max() - known.min()) < FLAT_MV


def disagreement(signal: Tensor, leads: Sequence[str]) -> float:
    """Largest violation of a relation between limb leads at any time, in mV; 0 where fewer than three are known."""
    values, names = _known(signal, leads)
    return float(_residuals(values, names).abs().max()) if len(names) >= 3 and values.shape[1] else 0.0


def _known(signal: Tensor, leads: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Limb leads that are not flat or empty, at the times when all of them are known."""
    rows = [i for i, name in enumerate(leads) if name in LIMB and not is_flat(signal[i]) and signal[i].isfinite().any()]
    return signal[rows][:, signal[rows].isfinite().all(0)], [leads[i] for i in rows]


def conflict(signal: Tensor, leads: Sequence[str], rate_hz: float) -> Conflict | None:
    """How the limb leads of a recording contradict each other; None where they agree up to noise.

    Args:
        signal: mV, shape (leads, time), NaN where there is none.
        leads: names of the rows. Others than limb leads, flat and empty ones do not count.
        rate_hz: samples per second.
    """
    values, names = _known(signal, leads)
    if len(names) < 3 or values.shape[1] < 2:
        return None
    grams = _grams(values, rate_hz)
    limit = _limit(grams)
    if _left(grams, names) <= limit:
        return None
    largest = float(_residuals(values, names).abs().max())
    if found := _wrong_lead(grams, names, limit):
        return Conflict(largest, *found)
    return Conflict(largest, exchanged=_exchanged(grams, names, limit))


def order_of(signal: Tensor, rate_hz: float) -> tuple[str, ...] | None:
    """The order of rows in which the limb leads agree, where there is one: twelve rows, the others are V1 to V6.

    Args:
        signal: mV, shape (12, time), NaN where there is none.
        rate_hz: samples per second.
    """
    known = signal.isfinite().all(0)
    if len(signal) != 12 or int(known.sum()) < 2:
        return None
    grams = _grams(signal[:, known], rate_hz)
    limit, found = _limit(grams), []
    for one, two in permutations(range(12), 2):
        rows = {"I": one, "II": two}
        for name in LIMB[2:]:
            weights = -limb_weights([name])[0]
            near = [k for k in range(12) if k not in rows.values() and _off(grams, k, one, two, weights) <= limit]
            if len(near) != 1:
                break
            rows[name] = near[0]
        else:
            found.append(rows)
    if len(found) != 1:
        return None
    by_row, chest = {row: name for name, row in found[0].items()}, iter(f"V{k}" for k in range(1, 7))
    return tuple(by_row.get(row) or next(chest) for row in range(12))


def refused(name: str, found: Conflict) -> DataError:
    """The error for limb leads that contradict each other."""
    what = f"the limb leads of {name} contradict each other by up to {found.largest:.2f} mV"
    if found.lead:
        return DataError(f"{what}: {found.lead} {found.how}", hint=f"leave it out with --lead {found.lead}=")
    if found.exchanged:
        words = ", ".join(f"{lead} in the place of {other}" for lead, other in found.exchanged)
        maps = " ".join(f"--lead {lead}={other}" for lead, other in found.exchanged)
        return DataError(f"{what}; they agree with {words}", hint=f"{maps} takes them so")
    return DataError(
        f"{what}, and no single lead explains it", hint="--lead III= leaves a lead out; is the order right?"
    )


def _grams(values: Tensor, rate_hz: float) -> Tensor:
    """Mean products of leads in each second, shape (seconds, leads, leads)."""
    size = max(int(rate_hz), 1)
    count = max(values.shape[1] // size, 1)
    blocks = values[:, : count * size].unflatten(1, (count, -1)) if values.shape[1] >= size else values[:, None]
    return torch.einsum("ibt,jbt->bij", blocks, blocks) / blocks.shape[-1]


def _limit(grams: Tensor) -> float:
    power = grams.diagonal(dim1=1, dim2=2).mean()
    return max(LEAST_MV, SHARE * float(power.clamp_min(0).sqrt()))


def _left(grams: Tensor, names: Sequence[str]) -> float:
    """Root mean square, for each relation and in the worst second, of what is left beside the best I and II."""
    weights = limb_weights(names)
    rest = torch.eye(len(names), dtype=torch.float64) - weights @ torch.linalg.pinv(weights)
    power = torch.einsum("ij,bjk,ki->b", rest, grams, rest) / (len(names) - 2)
    return float(power.max().clamp_min(0).sqrt())


def _residuals(values: Tensor, names: Sequence[str]) -> Tensor:
    """Violations of the relations, each lead against two others that determine it, shape (relations, time)."""
    inverse = torch.linalg.inv(limb_weights(names[:2]))
    return values[2:] - limb_weights(names[2:]) @ inverse @ values[:2]


def _wrong_lead(grams: Tensor, names: list[str], limit: float) -> tuple[str, str] | None:
    """The one lead without which the others agree, and what it is; of three leads none can be told."""
    if len(names) < 4:
        return None
    without = {name: [i for i, other in enumerate(names) if other != name] for name in names}
    fits = [k for k, rows in without.items() if _left(_ordered(grams, rows), [names[i] for i in rows]) <= limit]
    if len(fits) != 1:
        return None
    rows, row = without[fits[0]], names.index(fits[0])
    inverse = torch.linalg.pinv(limb_weights([names[i] for i in rows]))
    mix = (limb_weights([fits[0]]) @ inverse)[0]
    gram = grams.mean(0)
    cross, power = float(mix @ gram[rows, row]), float(mix @ gram[rows][:, rows] @ mix)
    gain = cross / power if power > 0 else 0.0
    alike = cross / (power * float(gram[row, row])) ** 0.5 if power * float(gram[row, row]) > 0 else 0.0
    if abs(alike) < 0.95:
        return fits[0], "is not what follows from the others"
    return fits[0], "is upside down" if -1.1 < gain < -0.9 else f"is {gain:.2g} times what follows from the others"


def _exchanged(grams: Tensor, names: list[str], limit: float) -> tuple[tuple[str, str], ...]:
    """A change of names after which all agree, where there is exactly one that moves fewest leads."""
    if len(names) < 4:
        return ()
    mean, same = grams.mean(0, keepdim=True), tuple(range(len(names)))
    found = [order for order in permutations(same) if order != same and _left(_ordered(mean, order), names) <= limit]
    found = [order for order in found if _left(_ordered(grams, order), names) <= limit]
    moves = {order: sum(i != k for i, k in enumerate(order)) for order in found}
    fewest = [order for order in found if moves[order] == min(moves.values())]
    if len(fewest) != 1:
        return ()
    return tuple((names[i], names[k]) for i, k in enumerate(fewest[0]) if i != k)


def _ordered(grams: Tensor, rows: Sequence[int]) -> Tensor:
    return grams[:, list(rows)][:, :, list(rows)]


def _off(grams: Tensor, row: int, one: int, two: int, weights: Tensor) -> float:
    """Root mean square of a row minus what I and II of two others give, in the worst second."""
    mix = torch.zeros(grams.shape[1], dtype=torch.float64)
    mix[row], mix[one], mix[two] = 1.0, weights[0], weights[1]
    return float(torch.einsum("i,bij,j->b", mix, grams, mix).max().clamp_min(0).sqrt())
