"""A file format of priors: a text file with the standard deviation of the level at each hour, in meters."""

import torch
from torch import Tensor

from midguide.diffusion.schedules import make_schedule
from midguide.errors import CheckpointError
from midguide.priors.base import Denoiser
from midguide.priors.formats.base import FORMATS, Format, Source, network_prior
from midguide.priors.settings import UNBOUNDED, PriorSettings
from midguide.storage.files import sha256_of
from tides.levels import tide_signal


@FORMATS.register("tide-table")
class TideTable(Format):
    """A table of tides: independent normal levels, whose denoiser is known in closed form."""

    extensions = (".tide",)

    def recognizes(self, source: Source) -> bool:
        return source.suffix in self.extensions

    def read(self, source: Source, said: PriorSettings) -> Denoiser:
        """`E[x_0 | x_t] = alpha s^2 x_t / (alpha^2 s^2 + sigma^2)`, with the variance `s^2` of each hour."""
        signal = tide_signal()
        try:
            stds = torch.tensor([float(word) for word in source.path.read_text().split()]) / signal.unit_size
        except ValueError as error:
            raise CheckpointError(f"{source.path} is not a table of tides: {error}") from error
        schedule = make_schedule("vp-linear")
        levels = [schedule.level(t) for t in range(1, schedule.noisiest + 1)]
        alphas, sigmas = (torch.tensor([getattr(level, of) for level in levels]) for of in ("alpha", "sigma"))

        def network(x: Tensor, index: Tensor) -> Tensor:
            alpha, sigma = alphas[index.long()][:, None, None], sigmas[index.long()][:, None, None]
            return alpha * stds**2 * x / (alpha**2 * stds**2 + sigma**2)

        stated = PriorSettings(
            name=source.name,
            prediction="x0",
            schedule="vp-linear",
            event_shape=(1, len(stds)),
            value_range=UNBOUNDED,
            signal=signal,
        )
        provenance = {"format": "tide-table", "sha256": sha256_of(source.path)}
        return network_prior(network, stated, said, provenance=provenance)
