"""The preconditioning of EDM, for networks trained inside it.

Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models" (2022,
https://arxiv.org/abs/2206.00364), Eq. (7) and Table 1.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from midguide.errors import CheckpointError
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source
from midguide.priors.formats.weights import to_load_prior
from midguide.priors.settings import PriorSettings


@FORMATS.register("pickle")
class Pickle(Format):
    """Pickles, as those that EDM publishes: refused, since reading one runs its code."""

    extensions = (".pkl", ".pickle")
    order = 20
    home = "https://github.com/NVlabs/edm"

    def recognizes(self, source: Source) -> bool:
        return source.suffix in self.extensions

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """Nothing.

        Raises:
            CheckpointError: Always, with the way around.
        """
        raise CheckpointError(
            f"{source.path} is a pickle, which may run code when it is read: refused",
            hint="load it with the library that wrote it; " + to_load_prior("the module"),
        )


class EDMPreconditioned(nn.Module):
    """`D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma) / 4)`, for `x = x_0 + sigma z`.

    With `s = sigma^2 + sigma_data^2`: `c_skip = sigma_data^2 / s`, `c_out = sigma sigma_data / sqrt(s)` and
    `c_in = 1 / sqrt(s)`. It is a prior with prediction `x0` on the schedule `EDM()`. A network that returns D itself,
    as the published ones do, needs no wrapper.

    Args:
        network: the raw network F, called as `network(x, noise)`, noise of shape (B,).
        sigma_data: standard deviation of the data that it was trained for.

    Example:
        >>> from midguide import load_prior
        >>> network = EDMPreconditioned(lambda x, noise: 0 * x)
        >>> load_prior(network, prediction="x0", schedule="edm", event_shape=(3, 8, 8)).schedule
        EDM(sigma_min=0.002, sigma_max=80, rho=7)
    """

    def __init__(self, network: nn.Module | Callable[[Tensor, Tensor], Tensor], *, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        scale = sigma.reshape(-1, *[1] * (x.ndim - 1))  # float32 also in a half-precision network
        total = scale.square() + self.sigma_data**2
        raw = self.network((x / total.sqrt()).to(x.dtype), sigma.log() / 4)
        return self.sigma_data**2 / total * x + scale * self.sigma_data / total.sqrt() * raw
