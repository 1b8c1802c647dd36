"""What a file format of priors is, and how a name or a file becomes a prior."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from midguide.catalogue import plugins
from midguide.catalogue.base import Catalogue
from midguide.catalogue.settings import build
from midguide.errors import CheckpointError, ConfigError, MidguideError, suggestion
from midguide.nn.base import Takes, check_fits
from midguide.priors import cards
from midguide.priors.base import Autoencoder, Denoiser
from midguide.priors.formats.contents import Contents
from midguide.priors.formats.weights import Weights, load, metadata_of, weights_in
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.network import NetworkDenoiser
from midguide.priors.settings import EXECUTION, UNBOUNDED, PriorSettings, prior_settings
from midguide.priors.statistics import Statistics
from midguide.storage import hub
from midguide.storage.cards import Card, read_card

LOG = logging.getLogger("midguide")
"""Says on stderr, where nothing else is set up, what a reader of results should know of a prior's file."""

Network = nn.Module | Callable[[Tensor, Tensor], Tensor]

CONVENTIONS = EXECUTION | {"name", "format", "prediction", "schedule", "event_shape", "value_range"}
CONVENTIONS |= {"learned_variance", "label", "signal", "latent_scale", "latent_shift"}
"""Settings that every format takes; others are its own, see `Format.uses`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a prior is read from.

    Args:
        given: what it was called by: a name, a path, or an object.
        place: the file or folder, where there is one.
        card: what is known of it, for shipped and public priors.
        label: what to call it in records where nothing else says it.
        provenance: what records say of its origin.
    """

    given: Any
    place: Path | None = None
    card: Card | None = None
    label: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file or folder.

        Raises:
            ConfigError: If there is none.
        """
        if self.place is None:
            raise ConfigError(f"there is no file `{self.given}`", hint="is the path right?")
        return self.place

    @property
    def name(self) -> str:
        """What to call the prior in records."""
        stem = "" if self.place is None else self.place.resolve().name if self.is_folder else self.place.stem
        return self.label or (self.card.name if self.card else stem) or "custom"

    @property
    def suffix(self) -> str:
        """The ending of the file's name in small letters; empty where there is no file."""
        if self.place is None or not os.path.isfile(self.place):
            return ""
        name = self.place.name.lower()
        return ".pth.tar" if name.endswith((".pth.tar", ".pt.tar", ".ckpt.tar")) else Path(name).suffix

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.place is not None and os.path.isdir(self.place)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Those of a `.safetensors` file; empty for others."""
        return metadata_of(self.path) if self.suffix == ".safetensors" else {}

    @cached_property
    def contents(self) -> Contents:
        """All that the checkpoint holds, read once."""
        return Contents(load(self.path))

    @cached_property
    def weights(self) -> Weights:
        """The tensors in the file, where its names are those of the network."""
        return weights_in(self.contents.loaded, self.path)


class Format(ABC):
    """One way in which priors come: a file format, or a kind of object.

    A format is a class in a file of its own, registered in `FORMATS`, or named as `FILE.py:NAME` in the setting
    `format` of a prior.

    Attributes:
        extensions: endings of its files.
        uses: settings that it takes beside those that all formats take.
        order: formats are asked in this order, the lowest first, whether they recognize a source; those that take
            whatever looks like weights come last.
        home: where it is described.

    Example:
        >>> class Gain(Format):
        ...     extensions = (".gain",)
        ...
        ...     def recognizes(self, source):
        ...         return source.suffix == ".gain"
        ...
        ...     def read(self, source, said):
        ...         "Returns `network_prior(network, stated, said, provenance={...})`."
    """

    extensions: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[frozenset[str]] = frozenset()
    order: ClassVar[int] = 50
    home: ClassVar[str] = ""

    @abstractmethod
    def recognizes(self, source: Source) -> bool:
        """Whether `source` is of this format; must not raise for one of another."""

    @abstractmethod
    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior, with what is said in the place of what the file states; see `network_prior`."""

    def fetch(self, card: Card) -> Path:
        """The file of a public prior, downloaded if it is not in the cache."""
        return hub.fetch(card)


def _check_format(thing: object) -> None:
    lacking = getattr(thing, "__abstractmethods__", ())
    if not (isinstance(thing, type) and issubclass(thing, Format)) or lacking:
        raise ConfigError(
            f"it lacks {', '.join(sorted(lacking))}" if lacking else "it is not a subclass of Format",
            hint="class Mine(Format) with recognizes(source) and read(source, said)",
        )


FORMATS: Catalogue[type[Format]] = Catalogue(
    "format",
    "midguide.priors.formats",
    group="midguide.formats",
    check=_check_format,
    columns=lambda entry: {
        "extensions": " ".join(entry.thing.extensions),
        "uses": sorted(entry.thing.uses),
        "home": entry.thing.home,
    },
)
"""Formats of priors by name."""


def find(given: object) -> Source:
    """What is called so: a shipped prior, a file or folder, a public one, which is downloaded; or an object."""
    if not isinstance(given, str | Path):
        return Source(given=given)
    name = str(given)
    if name in cards.shipped():
        return Source(given=name, card=cards.shipped()[name], place=cards.weights_of(name))
    if os.path.exists(name):
        return Source(given=name, place=Path(name))
    if card := hub.CARDS.get(name):
        return Source(given=name, card=card, place=_format(card.format).fetch(card))
    return Source(given=name)


def _with_statistics(prior: Denoiser, source: Source) -> Denoiser:
    """The prior, with what its card says its signals look like, if it says so of signals in its value range."""
    card = source.card or _card_beside(source, prior)
    told = card and card.facts.get("statistics")
    if card and told:
        known = build(Statistics, told, f"statistics on the card of {card.name}")
        prior.statistics = known if known.value_range == prior.signal_range else None
    return prior


def _card_beside(source: Source, prior: Denoiser) -> Card | None:
    """The card that lies beside a file and is of this very file."""
    if source.suffix in ("", ".json") or not os.path.isfile(source.path.with_suffix(".json")):
        return None
    try:
        card = read_card(source.path.with_suffix(".json"))
    except MidguideError:  # some other file of JSON
        return None
    return card if card.sha256 is not None and card.sha256 == prior.provenance.get("sha256") else None


def read(source: Source, said: PriorSettings) -> Denoiser:
    """The prior that a source is, in whatever format.

    Raises:
        ConfigError: If no format recognizes it, or the format does not use a setting that is given.
        CheckpointError: If the file is damaged, unsafe, or does not fit its network.
    """
    form = _recognized(source, said)
    if source.card is not None:
        said = prior_settings(source.card.conventions, f"card of {source.card.name}").changed(said)
    for name in said.stated():
        if name not in CONVENTIONS | form.uses:
            users = [f"`{other}`" for other, entry in FORMATS.items() if name in entry.thing.uses]
            what = source.given if isinstance(source.given, str) else source.name
            raise ConfigError(
                f"the setting `{name}` does not apply to `{what}`, of the format `{FORMATS.name_of(form)}`",
                hint="leave it out" + (f"; it is for {', '.join(users)}" if users else ""),
            )
    if not (own := plugins.source_digest(form)):
        prior = _with_statistics(form.read(source, said), source)
        for remark in prior.provenance.get("remarks", ()) if source.place is not None else ():
            LOG.warning("%s: %s", source.name, remark)
        return prior
    with plugins.outside_code(f"the format `{FORMATS.name_of(form)}`"):
        prior = form.read(source, said)
    prior.provenance = {**prior.provenance, "format_sha256": own}  # a stranger's format is part of what the prior is
    return prior


def network_prior(
    network: Network,
    stated: PriorSettings,
    said: PriorSettings,
    *,
    provenance: Mapping[str, Any],
    autoencoder: Autoencoder | None = None,
    takes: Takes | None = None,
) -> NetworkDenoiser | LatentPrior:
    """A network as a prior, with its autoencoder where it is one of latents.

    Args:
        network: called as `network(x, label)`.
        stated: what its file states, or its format means.
        said: what is said in place of that.
        provenance: what the record says of its origin: format, sha256.
        autoencoder: that of the latents.
        takes: which samples the network can take, where that is known.

    Raises:
        ConfigError: If a setting is missing, or belongs to a prior of latents, which this is not.
        ShapeError: If the network cannot take samples of this shape.

    Example:
        >>> stated = PriorSettings(prediction="x0", schedule="edm", event_shape=(2, 4))
        >>> prior = network_prior(lambda x, label: 0 * x, stated, PriorSettings(), provenance={"format": "mine"})
        >>> prior.event_shape
        (2, 4)
    """
    settings = stated.changed(said)
    schedule, prediction, event_shape = settings.complete()
    if takes is not None:
        check_fits(takes, event_shape, "samples", hint="change event_shape, the shape of one sample")
    coder = _autoencoder(autoencoder, said, settings)
    signal = settings.signals
    denoiser = NetworkDenoiser(
        network,
        schedule,
        prediction,
        event_shape,
        value_range=settings.bounds if coder is None else None,
        learned_variance=bool(settings.learned_variance),
        label=settings.label,
        name=settings.name or "custom",
        projection=None if signal.space is None or coder is not None else signal.space.project,
        dtype=settings.dtypes[0],
        device=settings.device,
        channels_last=settings.channels_last,
        compile=bool(settings.compile),
        checkpointing=bool(settings.checkpointing),
        chunk=settings.chunk,
    )
    denoiser.provenance, denoiser.signal = provenance, signal
    if coder is None:
        return denoiser
    both = LatentPrior(denoiser, coder if settings.device is None else coder.to(str(settings.device)))
    both.provenance, both.signal = denoiser.provenance, signal
    return both


def _autoencoder(autoencoder: Autoencoder | None, said: PriorSettings, settings: PriorSettings) -> Autoencoder | None:
    """The autoencoder with what is said of it; None where there is none."""
    own = {name: value for name, value in said.stated().items() if name.startswith("latent_")}
    if not isinstance(autoencoder, NetworkAutoencoder):
        if own:
            raise ConfigError(
                f"`{next(iter(own))}` belongs to a prior of latents, which this is not", hint="leave it out"
            )
        return autoencoder
    changed = autoencoder.changed(
        value_range=said.bounds,
        scale=said.latent_scale,
        shift=said.latent_shift,
        rows=said.latent_chunk,
        dtype=said.dtypes[1],
        checkpointing=bool(settings.checkpointing),
    )
    if said.value_range == UNBOUNDED:
        changed.value_range = None
    return changed


def _format(name: str) -> Format:
    return FORMATS[name].thing()


def _recognized(source: Source, said: PriorSettings) -> Format:
    """The format that is asked for, or that of the card, or the first that recognizes the source."""
    if named := said.format or (source.card.format if source.card else None):
        return _format(named)
    known = sorted((entry.thing() for entry in FORMATS.values()), key=lambda form: form.order)
    if found := next((form for form in known if _recognizes(form, source)), None):
        return found
    if source.place is not None:
        raise CheckpointError(f"{source.place} is not a prior that can be read", hint=f"known are {_known(known)}")
    if not isinstance(source.given, str):
        raise ConfigError(
            f"{source.label or 'a prior'} is of type {type(source.given).__name__}, which is not a prior",
            hint="a Denoiser, such as load_prior returns, or a network",
        )
    raise unknown_prior(source.given)


def _recognizes(form: Format, source: Source) -> bool:
    """Whether a format recognizes a source; a stranger's that fails does not, and says so."""
    if not plugins.source_digest(form):
        return form.recognizes(source)
    try:
        with plugins.outside_code(f"the format `{FORMATS.name_of(form)}`"):
            return form.recognizes(source)
    except MidguideError as error:
        plugins.warn(error)
        return False


def _known(formats: list[Format]) -> str:
    return ", ".join(f"{FORMATS.name_of(form)} ({' '.join(form.extensions)})" for form in formats if form.extensions)


def unknown_prior(name: str) -> ConfigError:
    """The error for a name that is not valid."""
    if path := cards.recipe(name):
        return ConfigError(
            f"`{name}` is not shipped: there is only its recipe",
            hint=f"train it: midguide train {path} --data PATH; then give its .safetensors file as the prior",
        )
    if error := cards.not_installed(name):
        return error
    hint = f"{suggestion(name, [*cards.shipped(), *hub.CARDS])}; or give the path of a file or folder"
    return ConfigError(f"no prior and no file is called `{name}`", hint=hint)
