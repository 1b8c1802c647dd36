"""Cards: what is known of a file of weights, as JSON beside it or in its place."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midguide.catalogue.settings import as_plain, build
from midguide.errors import CheckpointError, ConfigError
from midguide.storage.files import replacing
from midguide.storage.outside import MIB, Outside


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a file of weights; in JSON the facts lie beside the other fields.

    Args:
        name: what users call it.
        description: what it is, and who trained it.
        data: what it was trained on.
        license: of the weights, as far as their authors state one.
        format: how the file is read, a name of `priors.formats.base.FORMATS`.
        conventions: settings of the prior that the file does not state, or states wrongly; see `PriorSettings`.
        event_shape: shape of one sample.
        signal_shape: shape of one decoded sample, for a prior of latents.
        parameters: number of weights; of the network alone, for a prior of latents.
        sha256: of the file; of the weights in a repository. Of public ones as third parties state it: no authors do,
            and it was not computed here. None where it is not known; then the sum of the first download is recorded.
        size: how large, in bytes; of an archive about.
        home: page of its authors.
        source: address of the file; of a repository its id.
        file: name in the cache.
        member: name of the checkpoint, where the file is a zip archive or a repository.
        revision: of a repository, its commit.
        command: how it was trained.
        training: its recipe.
        facts: what else there is to say: curves, qualities.

    Raises:
        ConfigError: If the sum is not one.
    """

    name: str
    description: str = ""
    data: str = ""
    license: str = ""
    format: str = "native"
    conventions: Mapping[str, Any] = field(default_factory=dict)
    event_shape: tuple[int, ...] = ()
    signal_shape: tuple[int, ...] = ()
    parameters: int | None = None
    sha256: str | None = None
    size: int | None = None
    home: str = ""
    source: str = ""
    file: str = ""
    member: str | None = None
    revision: str | None = None
    command: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ConfigError(f"sha256 must be 64 digits from 0 to f, got `{self.sha256[:80]}`")


_CARD = Outside("card", "is the file complete?", CheckpointError, limit=64 * MIB)
_FIELDS = {f.name for f in dataclasses.fields(Card)}


def read_card(path: Path) -> Card:
    """The card in a file of JSON.

    Raises:
        CheckpointError: If it is missing or damaged, or a value is impossible.
    """
    table = _CARD.json(path)
    with _CARD.stated(path):
        known = {key: value for key, value in table.items() if key in _FIELDS}
        return build(Card, known | {"facts": {k: v for k, v in table.items() if k not in known}}, "card")


def write_card(path: Path, card: Card) -> None:
    """Write a card as JSON; fields without a value are left out."""
    table = {key: value for key, value in as_plain(card, full=False).items() if key != "facts"}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(table | dict(card.facts), indent=2) + "\n", encoding="utf-8")


def read_cards(folder: Path) -> dict[str, Card]:
    """All cards of a folder by name, sorted."""
    return {card.name: card for card in map(read_card, sorted(folder.glob("*.json")))}
