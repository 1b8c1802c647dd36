"""Mistakes that are planted in how the autoencoder of a prior of latents is used, and named."""

from __future__ import annotations

import pytest
from torch import Tensor

from midguide.cli import main
from midguide.cli.commands.check_prior import photographs
from midguide.diagnostics.autoencoder import check_autoencoder
from midguide.priors.latent import LatentPrior, NetworkAutoencoder
from midguide.priors.loading import load_prior

IMAGES = photographs((3, 64, 64), (-1.0, 1.0))


@pytest.fixture(scope="module")
def shipped() -> NetworkAutoencoder:
    prior = load_prior("faces-64-latent")
    assert isinstance(prior, LatentPrior)
    assert isinstance(prior.autoencoder, NetworkAutoencoder)
    return prior.autoencoder


class Reversed:
    """An autoencoder of BGR pictures, made of one of RGB."""

    def __init__(self, inner: NetworkAutoencoder) -> None:
        self.inner, self.event_shape, self.latent_shape = inner, inner.event_shape, inner.latent_shape
        self.value_range = inner.value_range

    def encode(self, x: Tensor) -> Tensor:
        return self.inner.encode(x.flip(1))

    def decode(self, z: Tensor) -> Tensor:
        return self.inner.decode(z).flip(1)

    def to(self, device: str) -> Reversed:
        return self


def test_the_shipped_autoencoder_is_used_as_it_was_trained(shipped: NetworkAutoencoder) -> None:
    assert check_autoencoder(shipped, IMAGES) == []


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (0.0, 255.0)])
def test_a_wrong_value_range_of_signals_is_named(shipped: NetworkAutoencoder, wrong: tuple[float, float]) -> None:
    """The signals are in the declared range, as a user who follows the declaration has them."""
    signals = wrong[0] + (IMAGES + 1) / 2 * (wrong[1] - wrong[0])
    (finding,) = check_autoencoder(shipped.changed(value_range=wrong), signals)
    assert finding.kind == "value range"
    assert finding.message.startswith("the autoencoder is better with data in [-1, 1], declared [0, ")


def test_a_reversed_order_of_channels_is_named(shipped: NetworkAutoencoder) -> None:
    (finding,) = check_autoencoder(Reversed(shipped), IMAGES)
    assert (finding.kind, finding.message[-12:]) == ("channels", "BGR, not RGB")


def test_the_command_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--threads", "1", "check-prior", "faces-64-latent", "--value-range", "0,1"]) == 1
    assert "likely mistake: the autoencoder is better with data in [-1, 1], declared [0, 1]" in capsys.readouterr().err
