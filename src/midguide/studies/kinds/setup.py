"""A problem from names: what is measured how, and with which noise. Kinds of problems and commands share it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from midguide.catalogue.settings import as_plain
from midguide.errors import ConfigError
from midguide.likelihoods.base import LIKELIHOODS, Noise
from midguide.operators.base import Operator
from midguide.priors.base import Denoiser
from midguide.problem import Problem
from midguide.studies.kinds.files import operator_of

RANGE = (-1.0, 1.0)
"""Values of signals whose prior does not say."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """An instrument and its noise, by names.

    Args:
        operator: of `midguide list operators`, with or without a preset, or `FILE.py:NAME`.
        operator_settings: the operator's own settings.
        operator_seed: seed of what the operator draws.
        noise: of `midguide list likelihoods`, or `FILE.py:NAME`.
        noise_settings: the noise model's own settings.

    Raises:
        ConfigError: If the noise model is unknown, or one of its settings unknown, missing or impossible.

    Example:
        >>> import torch
        >>> from midguide.priors.gaussian import Gaussian
        >>> prior = Gaussian(torch.zeros(3, 8, 8), 1.0)
        >>> setup = Setup(operator="super-resolution", operator_settings={"factor": 2}, noise_settings={"sigma_y": 0.1})
        >>> setup.simulate(prior, prior.sample(1), seed=0).likelihood.y.shape
        torch.Size([1, 3, 4, 4])
    """

    operator: str
    operator_settings: Mapping[str, object] = field(default_factory=dict)
    operator_seed: int = 0
    noise: str = "gaussian"
    noise_settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.model

    @property
    def model(self) -> Noise:
        """The noise model with its settings."""
        return LIKELIHOODS.make(self.noise, self.noise_settings)

    def instrument(self, prior: Denoiser) -> Operator:
        """The operator for signals of a prior; the same object for all that ask for the same.

        Raises:
            ConfigError: If it is one for several observations.
        """
        return self._made(prior)[0]

    def instrument_record(self, prior: Denoiser) -> Any:
        """What the operator is, as JSON."""
        return self._made(prior)[1]

    def simulate(self, prior: Denoiser, truth: Tensor, *, seed: int) -> Problem:
        """The problem of recovering `truth`, shape (N, *signal), from a simulated measurement; `seed` of the noise."""
        likelihood = self.model.observe(self.instrument(prior), truth, prior.signal_range or RANGE, seed=seed)
        return Problem.of(prior, likelihood, truth)

    def given(self, prior: Denoiser, y: Tensor) -> Problem:
        """The problem of explaining a measurement y, shape (N, *measurement)."""
        return Problem.of(prior, self.model.given(self.instrument(prior), y, prior.signal_range or RANGE))

    def record(self) -> dict[str, Any]:
        """The names and the settings of the noise, as JSON."""
        return {"operator": self.operator, "noise": self.noise, **as_plain(self.model, deep=True)}

    def _made(self, prior: Denoiser) -> tuple[Operator, Any]:
        settings = json.dumps(dict(self.operator_settings), sort_keys=True)
        made, record = operator_of(self.operator, settings, self.operator_seed, prior.signal_shape, prior.signal_range)
        if made.observations is not None:
            raise ConfigError(
                f"`{self.operator}` makes an operator for each of {made.observations} observations, a problem has one",
                hint="leave out `count`",
            )
        return made, record
