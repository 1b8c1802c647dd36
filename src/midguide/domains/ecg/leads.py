"""The twelve leads of an electrocardiogram: names, the relations between them, and how a prior holds them.

Of the six limb leads two are independent (Einthoven, Goldberger): with I and II,

    III = II - I,   aVR = -(I + II) / 2,   aVL = I - II / 2 = (I - III) / 2,   aVF = II - I / 2 = (II + III) / 2.

A prior models nine leads (I, II, III and V1 to V6); the augmented ones are always derived, never modeled.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from midguide.errors import ConfigError, ShapeError
from midguide.signals.base import SIGNALS, Axis, Signal, Space

LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
TWELVE = LIMB + CHEST
"""The usual order, that of PTB-XL."""
MODELED = LIMB[:3] + CHEST
"""The leads of a prior, in its order."""

LEAD_SETS: dict[str, tuple[str, ...]] = {
    "smartwatch": ("I",),
    "six-lead": ("I", "II"),
    "holter": ("II", "V1", "V5"),
}
"""Leads that devices record. A six-lead device measures I and II; `holter` stands for a recorder of three channels."""

# Each limb lead as (weight of I, weight of II).
_FROM_I_AND_II = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
_SPELLINGS = {name.lower(): name for name in TWELVE}
_SPELLINGS |= {f"d{roman.lower()}": roman for roman in LIMB[:3]}  # derivation: the Romance languages
_SPELLINGS |= {f"d{number}": name for number, name in enumerate(LIMB[:3], 1)}
_SPELLINGS |= {f"c{number}": name for number, name in enumerate(CHEST, 1)}  # C for chest
_PREFIXES = re.compile(r"^(mdc_ecg_(lead|elec_potl)|ecg|ekg|lead|ableitung|d[eé]rivation|derivaci[oó]n|derivazione)")
_REMARKS = re.compile(r"[(\[](einthoven|goldberger|augmented|wilson)[^)\]]*[)\]]|-(ref|0)$")
_SEPARATORS = " _.:"
_MINUS = re.compile(r"^(minus|neg(ative)?|inv(erted)?|\(-\)|[\N{HYPHEN}\N{EN DASH}\N{MINUS SIGN}])[ _.]*")
_TURNED = re.compile(r"[ _(]+(minus|neg(ative)?|inv(erted)?)\)?$")


@dataclass(frozen=True, kw_only=True)
class EcgFormat:
    """How a prior holds electrocardiograms: what it takes to bring a recording into its form and back.

    Args:
        leads: the leads, in order.
        rate_hz: samples per second.
        unit_mv: millivolts of one unit of the prior; about the standard deviation of the data, so that the prior's
            noise levels are spread over what there is to learn.
        high_pass_hz: what is slower was removed from the data (baseline wander); 0 for nothing.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    leads: tuple[str, ...] = MODELED
    rate_hz: float = 100.0
    unit_mv: float = 0.22
    high_pass_hz: float = 0.6

    def __post_init__(self) -> None:
        object.__setattr__(self, "leads", tuple(self.leads))
        if not self.rate_hz > 0 or not self.unit_mv > 0 or not 0 <= self.high_pass_hz < self.rate_hz / 2:
            raise ConfigError(
                f"rate_hz={self.rate_hz}, unit_mv={self.unit_mv}, high_pass_hz={self.high_pass_hz} are not a format",
                hint="rate and unit are positive, the high-pass is below half the rate",
            )
        if self.leads != MODELED:
            raise ConfigError(f"a prior holds the leads {', '.join(MODELED)}, got {', '.join(self.leads)}")

    @property
    def signal(self) -> Signal:
        """What the core knows of such a prior's signals."""
        axes = Axis(name="lead", labels=self.leads), Axis(name="time", unit="s", rate=self.rate_hz)
        return Signal(
            unit="mV",
            unit_size=self.unit_mv,
            axes=axes,
            space=EINTHOVEN,
            kind="ecg",
            settings={**asdict(self), "leads": list(self.leads)},
        )

    @classmethod
    def of(cls, signal: Signal) -> Self | None:
        """How the prior of such signals holds electrocardiograms; None where they are something else."""
        return cls(**signal.settings) if signal.kind == "ecg" else None


@SIGNALS.register("ecg", settings=EcgFormat, summary="electrocardiograms of nine leads, of which the others follow")
def ecg_signal(**form: Any) -> Signal:
    """The signals of a prior that holds electrocardiograms in this form."""
    return EcgFormat(**form).signal


def signed_lead(text: str) -> tuple[str, int] | None:
    """The lead that a channel holds and its sign, or None where the name is that of no lead.

    Names come with words in front (`ECG II`, `lead ii`, `MDC_ECG_LEAD_AVR`), in other countries' letters (`DI`, `D1`,
    `C1`), and in any case. A minus in front, or after a space, is a sign: `-aVR`, as in the Cabrera order; a word for
    it counts, too (`minus aVR`). A modified lead (`MLII`) is not the lead; `ECG1` is some first channel.

    Example:
        >>> signed_lead("ECG II"), signed_lead("-AVR"), signed_lead("MLII")
        (('II', 1), ('aVR', -1), None)
    """
    key = unicodedata.normalize("NFKC", text).strip("'\" \t").lower()
    upright = _TURNED.sub("", _REMARKS.sub("", key).strip())
    key, sign = upright, -1 if _TURNED.search(key) else 1
    while True:
        key = _MINUS.sub("-", key)
        if re.match(r"(?<!\w)-\s?[a-z]", key):
            key, sign = key[1:].strip(), -sign
        bare = _PREFIXES.sub("", key)
        if bare == key:
            break
        # Right after the word a hyphen joins: `lead-I`. After a space it is a minus: `lead -aVR`.
        key = bare.removeprefix("-").strip(_SEPARATORS) if bare.startswith("-") else bare.strip(_SEPARATORS)
    name = _SPELLINGS.get(re.sub(r"(?<=av)[ _.]|(?<=^a)[ _.](?=v)", "", key))
    return None if name is None else (name, sign)


def lead_name(text: str) -> str:
    """The usual spelling of a lead's name, whatever its case: `AVR` -> `aVR`, `lead ii` -> `II`.

    It says which lead it is, not its sign: who needs both asks `signed_lead`.

    Raises:
        ConfigError: If there is no such lead.

    Example:
        >>> lead_name("AVF")
        'aVF'
    """
    found = signed_lead(text)
    if found is None:
        raise ConfigError(f"unknown lead `{text}`", hint=f"leads: {', '.join(TWELVE)}; or {', '.join(LEAD_SETS)}")
    return found[0]


def parse_leads(text: str) -> tuple[str, ...]:
    """Leads from a list with commas, in which a name of `LEAD_SETS` stands for its leads; in the usual order.

    A sign is of no account: who knows `-aVR` knows `aVR`.

    Raises:
        ConfigError: If a lead is unknown, or there is none.

    Example:
        >>> parse_leads("v2, smartwatch")
        ('I', 'V2')
    """
    found: set[str] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        found |= set(LEAD_SETS.get(part.lower(), ())) or {lead_name(part)}
    if not found:
        raise ConfigError("no lead is observed", hint="name at least one, for example I")
    return tuple(name for name in TWELVE if name in found)


def determined(leads: Collection[str]) -> tuple[str, ...]:
    """The given leads and those that follow from them: any two limb leads determine all six.

    Example:
        >>> determined(["aVR", "I", "V1"])
        ('I', 'II', 'III', 'aVR', 'aVL', 'aVF', 'V1')
    """
    known = set(leads)
    if len(known & set(LIMB)) >= 2:
        known |= set(LIMB)
    return tuple(name for name in TWELVE if name in known)


def modeled(leads: Collection[str]) -> tuple[str, ...]:
    """The leads of a prior that are known where these are, in its order.

    Raises:
        ConfigError: If an augmented lead is alone among the limb leads; it shows none of the prior's.

    Example:
        >>> modeled(["II", "aVR", "V1"])
        ('I', 'II', 'III', 'V1')
    """
    known = determined(leads)
    if "I" not in known and any(name not in MODELED for name in leads):
        raise ConfigError(
            f"one augmented lead alone, as in {','.join(leads)!r}, shows none of the prior's leads",
            hint="observe a second limb lead with it, or leave it out",
        )
    return tuple(name for name in MODELED if name in known)


def limb_weights(leads: Sequence[str]) -> Tensor:
    """Each of some limb leads as (weight of I, weight of II), float64, shape (leads, 2)."""
    return torch.tensor([_FROM_I_AND_II[name] for name in leads], dtype=torch.float64)


def limb_leads(signal: Tensor, leads: Sequence[str]) -> Tensor:
    """I and II by least squares from two or more limb leads.

    Args:
        signal: values of the leads, shape (..., leads, time).
        leads: their names, two or more of them limb leads.

    Returns:
        I and II, shape (..., 2, time); exact where the leads agree with each other.
    """
    rows = [i for i, name in enumerate(leads) if name in LIMB]
    if len(rows) < 2:
        raise ShapeError(f"I and II need two limb leads, got {', '.join(leads) or 'none'}")
    inverse = torch.linalg.pinv(limb_weights([leads[i] for i in rows])).to(signal)
    return inverse @ signal[..., rows, :]


def twelve_leads(nine: Tensor) -> Tensor:
    """All twelve leads from the nine modeled ones; aVR, aVL and aVF follow from I and II.

    Args:
        nine: in the order of `MODELED`, shape (..., 9, time), any unit. I, II and III should agree: see
            `with_einthoven`.

    Returns:
        In the order of `TWELVE`, shape (..., 12, time).

    Example:
        >>> twelve_leads(torch.ones(9, 1))[3:6, 0]
        tensor([-1.0000,  0.5000,  0.5000])
    """
    _check_nine(nine)
    augmented = limb_weights(LIMB[3:]).to(nine)
    return torch.cat([nine[..., :3, :], augmented @ nine[..., :2, :], nine[..., 3:, :]], dim=-2)


def with_einthoven(nine: Tensor, observed: Collection[str] | Tensor = ()) -> Tensor:
    """The nearest nine leads with III = II - I, where observed limb leads keep their values.

    Let `r = I + III - II` be the residual, and m the number of limb leads (of I, II and III) that may change. The
    projection takes `r/m` from each of these, with the sign that the lead has in r. Where all three are observed, all
    three change.

    Args:
        nine: in the order of `MODELED`, shape (..., 9, time).
        observed: leads whose values stay; or which values do, boolean, broadcastable to `nine`.

    Returns:
        The same shape; III is II - I to the last bit.
    """
    _check_nine(nine)
    if not isinstance(observed, Tensor):
        observed = torch.tensor([name in observed for name in MODELED], device=nine.device)[:, None]
    known = observed[..., :3, :]
    free = (~known | known.all(-2, keepdim=True)).to(nine.dtype)
    signs = torch.tensor([1.0, -1.0, 1.0], dtype=nine.dtype, device=nine.device)[:, None]
    residual = nine[..., 0:1, :] + nine[..., 2:3, :] - nine[..., 1:2, :]
    moves = signs * free / free.sum(-2, keepdim=True)
    first, second = (nine[..., :3, :] - moves * residual)[..., :2, :].unbind(-2)
    limb = torch.stack([first, second, second - first], dim=-2)
    return torch.cat([limb, nine[..., 3:, :]], dim=-2)


EINTHOVEN = Space("einthoven", with_einthoven)
"""Nine leads with III = II - I."""


def einthoven_error(leads: Tensor) -> Tensor:
    """Largest violation of the relations between limb leads, in the unit of the signal.

    Args:
        leads: nine or twelve leads in the usual order, shape (..., 9 or 12, time).

    Returns:
        Shape (...): the maximum over time of `|I + III - II|`, and for twelve leads of the three others.
    """
    count = 6 if leads.shape[-2] == len(TWELVE) else 3
    if leads.shape[-2] not in (len(MODELED), len(TWELVE)):
        raise ShapeError(f"expected 9 or 12 leads, got a signal of shape {tuple(leads.shape)}")
    weights = limb_weights(LIMB[2:count]).to(leads)
    return (leads[..., 2:count, :] - weights @ leads[..., :2, :]).abs().amax(dim=(-2, -1))


def _check_nine(nine: Tensor) -> None:
    if nine.ndim < 2 or nine.shape[-2] != len(MODELED):
        raise ShapeError(f"expected the leads {', '.join(MODELED)} in rows, got shape {tuple(nine.shape)}")
