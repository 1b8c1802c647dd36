"""`load_prior`: one call for every kind of prior."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from midguide.maths.environment import in_fixed_environment
from midguide.priors import cards
from midguide.priors.base import Denoiser
from midguide.priors.formats import native
from midguide.priors.formats.base import Network, find, read, unknown_prior
from midguide.priors.settings import PriorSettings, prior_settings


@in_fixed_environment
def load_prior(
    prior: str | Path | Network | Denoiser,
    settings: PriorSettings | Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    **changes: Any,
) -> Denoiser:
    """A prior by name or path, or a network as a prior; with its autoencoder, for a prior of latents.

    A file states settings, or its format means them; settings given here take their place. `midguide check-prior`
    measures whether they are right.

    Args:
        prior: a name of `midguide list priors`; a file or folder in one of the formats of `midguide list formats`; a
            diffusers repository `owner/name`; `FILE.py:NAME`, for a prior or a function that returns one; a network,
            called as `network(x, label)`; or a prior.
        settings: what the prior is and how it is run, as `PriorSettings` or as a table of its fields.
        dtype: dtype the network computes in, by default float32; states keep theirs.
        device: where the networks live; x is copied there and the answer back.
        changes: further settings by name, on top of `settings`: see `PriorSettings` for all of them.

    Returns:
        A `NetworkDenoiser`; a `LatentPrior`, for a prior of latents; or the exact prior that a Python file makes.

    Raises:
        ConfigError: If there is no such name, file or device, or a setting is unknown, missing, or does not apply.
        ShapeError: If the network cannot take samples of this shape.
        CheckpointError: If a file is damaged, unsafe, not the one of its card, or does not fit its network.
        DataError: If a download failed.

    Example:
        >>> load_prior("faces-64", value_range=(0, 1)).value_range
        (0.0, 1.0)
        >>> load_prior(lambda x, t: 0 * x, prediction="eps", schedule="vp-linear", event_shape=(1, 8, 12)).event_shape
        (1, 8, 12)
    """
    said = prior_settings(settings, dtype=dtype, device=device, **changes)
    return read(find(prior), said)


def prior_spec(prior: str | Path) -> PriorSettings:
    """What the file of a prior of this package states, without its weights.

    Args:
        prior: name of a shipped prior, or path of the file that `save_prior` wrote.

    Raises:
        ConfigError: If there is no such name and no such file.
        CheckpointError: If the file is damaged or of another kind.

    Example:
        >>> prior_spec("faces-64").prediction
        'v'
    """
    path = cards.weights_of(str(prior)) if str(prior) in cards.shipped() else Path(prior)
    if not os.path.isfile(path):
        raise unknown_prior(str(prior))
    return native.stated_in(path)
