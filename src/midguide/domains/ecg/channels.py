"""Which channel of a file is which lead: by its name and unit, or as the user says; the others are set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from midguide.domains.ecg.formats.base import Channel, millivolts
from midguide.domains.ecg.leads import lead_name, signed_lead
from midguide.errors import ConfigError, DataError

MODIFIED = {"mlii": "II", "mli": "I", "mliii": "III", "ml2": "II", "cm5": "V5", "mcl1": "V1", "mv1": "V1", "mv2": "V2"}
MODIFIED |= {"mv5": "V5", "cc5": "V5", "modv1": "V1", "mcl5": "V5", "mcl6": "V6"}
"""Leads of recorders that are near a usual one and are not it: taken for it where the user says so."""


@dataclass(frozen=True)
class Chosen:
    """A channel that is a lead.

    Args:
        place: of the channel in the file.
        lead: its usual name.
        scale: from the channel's numbers to millivolts of the lead; negative where the channel is the lead times -1.
    """

    place: int
    lead: str
    scale: float


def parse_map(texts: Sequence[str]) -> dict[str, str]:
    """A channel by lead, from `II=MLII`; `III=` sets a lead aside.

    Raises:
        ConfigError: If a text has no `=`, names no lead, or names one twice.

    Example:
        >>> parse_map(["ii=MLII"])
        {'II': 'MLII'}
    """
    found: dict[str, str] = {}
    for text in texts:
        lead, mark, channel = text.partition("=")
        if not mark:
            raise ConfigError(f"--lead takes LEAD=CHANNEL, got `{text}`", hint="for example --lead II=MLII")
        name = lead_name(lead)
        if (signed_lead(lead) or ("", 1))[1] < 0:
            raise ConfigError(f"--lead {text} turns the lead", hint=f"turn the channel: --lead {name}=-{channel}")
        if name in found:
            raise ConfigError(f"--lead names {name} twice", hint="one channel for each lead")
        found[name] = channel.strip()
    return found


def choose(
    name: str, channels: Sequence[Channel], said: Mapping[str, str], unit: str | None
) -> tuple[list[Chosen], list[str]]:
    """The channels that are leads, and what to tell of the others.

    Args:
        name: of the recording, for messages.
        channels: of the file.
        said: channel by lead, as the user decides; `-NAME` is the channel times -1, nothing sets the lead aside.
        unit: what the user says of the numbers of channels that state none.

    Raises:
        ConfigError: If the file states another unit than is said.
        DataError: If a channel that is named does not exist, a lead has two, or none is left.
    """
    mapped = {lead_name(lead): channel for lead, channel in said.items()}
    taken = {lead: _find(name, lead, channel, channels) for lead, channel in mapped.items() if channel}
    chosen = [Chosen(place, lead, sign * _scale(name, channels[place], unit)) for lead, (place, sign) in taken.items()]
    aside: list[str] = []
    for place, channel in enumerate(channels):
        if place in {found.place for found in chosen}:
            continue
        lead = signed_lead(channel.name)
        why = _why_not(channel, lead, mapped)
        if why or lead is None:
            aside.append(f"{channel.name}{why}")
        else:
            chosen.append(Chosen(place, lead[0], lead[1] * _scale(name, channel, unit)))
    _check(name, channels, chosen, aside)
    chosen.sort(key=lambda found: found.place)
    told = [f"set aside, not taken as leads: {', '.join(aside)}"] if aside else []
    turned = [f"{found.lead} from {channels[found.place].name}" for found in chosen if found.scale < 0]
    return chosen, told + ([f"times -1: {', '.join(turned)}"] if turned else [])


def _find(name: str, lead: str, channel: str, channels: Sequence[Channel]) -> tuple[int, int]:
    """Place and sign of the channel that a user names."""
    known = [other.name.strip().lower() for other in channels]
    for text, sign in ((channel, 1), (channel.removeprefix("-"), -1)):
        if known.count(text.strip().lower()) == 1:
            place = known.index(text.strip().lower())
            own = signed_lead(channels[place].name)
            return place, sign * (own[1] if own and own[0] == lead else 1)
    raise DataError(
        f"{name} has no channel `{channel}`", hint=f"it has {', '.join(other.name for other in channels[:40])}"
    )


def _scale(name: str, channel: Channel, unit: str | None) -> float:
    """Millivolts of one of a channel's unit."""
    stated, said = (millivolts(text) if text else None for text in (channel.unit, unit))
    if unit is not None and said is None:
        raise ConfigError(f"unknown unit `{unit}`", hint="mV, uV or V")
    if stated is not None and said is not None and stated != said:
        raise ConfigError(
            f"{name} states its units, {channel.name} is in {channel.unit}; got the unit {unit}",
            hint="leave --unit out",
        )
    if channel.unit and stated is None:
        raise DataError(f"channel {channel.name} of {name} is in {channel.unit}, not in volts", hint="name another")
    return stated or said or 1.0


def _why_not(channel: Channel, lead: tuple[str, int] | None, mapped: Mapping[str, str]) -> str:
    """Why a channel is not one of the leads, in brackets; empty where nothing speaks against it."""
    if channel.unit and millivolts(channel.unit) is None:
        return f" (in {channel.unit})"
    if lead is None:
        near = MODIFIED.get(channel.name.strip().lower())
        return f" (--lead {near}={channel.name} takes it as {near})" if near else ""
    if lead[0] in mapped:
        other = mapped[lead[0]]
        return f" ({lead[0]} is taken from {other})" if other else " (as asked for)"
    return ""


def _check(name: str, channels: Sequence[Channel], chosen: Sequence[Chosen], aside: Sequence[str]) -> None:
    leads = [found.lead for found in chosen]
    twice = [lead for lead in leads if leads.count(lead) > 1]
    if twice:
        both = [channels[found.place].name for found in chosen if found.lead == twice[0]]
        raise DataError(
            f"{name} has a lead twice: {', '.join(both)} are both {twice[0]}", hint=f"--lead {twice[0]}=NAME says which"
        )
    if not chosen:
        raise DataError(
            f"no channel of {name} is known as a lead: {', '.join(aside) or 'it has none'}",
            hint="--lead II=NAME takes a channel as a lead",
        )
