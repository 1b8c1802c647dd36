"""Priors that are objects: any network, with its conventions said, and any `Denoiser`, which has its own."""

from __future__ import annotations

from midguide.errors import ConfigError
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.latent import LatentPrior
from midguide.priors.network import NetworkDenoiser
from midguide.priors.settings import UNBOUNDED, PriorSettings


@FORMATS.register("denoiser")
class Ready(Format):
    """A `Denoiser`: exact, such as a Gaussian, or with a network, which takes other settings."""

    order = 0

    def recognizes(self, source: Source) -> bool:
        return isinstance(source.given, Denoiser)

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """The prior itself; of one with a network another with the same network, and with what is said of it.

        Raises:
            ConfigError: If a setting is given that this prior does not have.
        """
        prior = source.given
        network = prior.denoiser if isinstance(prior, LatentPrior) else prior
        if isinstance(network, NetworkDenoiser):
            return _again(network, prior, source, said)
        others = said.stated().keys() - {"name", "format", "device"} - ({"dtype"} if said.dtype == "float32" else set())
        if others:
            raise ConfigError(
                f"the setting `{min(others)}` belongs to a network, which the prior {source.name} is not",
                hint="leave it out",
            )
        if source.provenance:
            prior.provenance = source.provenance
        return prior if said.device is None else prior.to(str(said.device))


@FORMATS.register("network")
class Plain(Format):
    """A network, called as `network(x, label)`: `prediction`, `schedule` and `event_shape` must be said."""

    order = 1

    def recognizes(self, source: Source) -> bool:
        return callable(source.given)

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        stated = PriorSettings(name=source.name, value_range=(-1.0, 1.0))
        return network_prior(source.given, stated, said, provenance=source.provenance)


def _again(network: NetworkDenoiser, prior: Denoiser, source: Source, said: PriorSettings) -> Denoiser:
    """The same network as a prior with other settings."""
    stated = PriorSettings(
        name=network.name if network.name != "custom" else source.name,
        prediction=network.prediction,
        schedule=network.schedule,
        event_shape=network.event_shape,
        value_range=network.value_range or UNBOUNDED,
        learned_variance=network.learned_variance,
        label=network.label,
        signal=prior.signal,
        dtype=network.dtype,
        device=network.device,
        channels_last=network.channels_last,
        chunk=network.chunk,
    )
    facts = source.provenance or network.provenance
    return network_prior(network.network, stated, said, provenance=facts, autoencoder=prior.autoencoder)
