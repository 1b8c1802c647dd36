"""Problems of any prior and operator, with truths drawn from the prior itself: what calibration takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from midguide.catalogue.settings import PathOr, given
from midguide.data.images import load_image_set
from midguide.errors import ConfigError, DataError, NumericalError, about
from midguide.exact.posteriors import KnowsPosterior, unwrapped
from midguide.inference.loop import sample
from midguide.maths.rng import stream_seed
from midguide.priors.base import Denoiser
from midguide.priors.loading import load_prior
from midguide.priors.settings import Dtype, PriorSettings
from midguide.problem import Problem
from midguide.samplers.base import check_positive
from midguide.samplers.unconditional import Unconditional
from midguide.storage.outside import Outside
from midguide.storage.record import digest
from midguide.studies.kinds.base import KINDS
from midguide.studies.kinds.files import AS_STATED, PRIOR, TRUTH_STEPS, kept, prior_digest, prior_of, record_of
from midguide.studies.kinds.setup import RANGE, Setup

_SIGNALS = Outside("array of signals", "numpy.save('truths.npy', signals)", limit=2**40)

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@KINDS.register("drawn")
@dataclass(frozen=True, kw_only=True)
class DrawnProblem:
    """A draw of the prior seen through one operator, with noise; the seed is that of the draw and of its noise.

    Args:
        operator: a name in `midguide list operators`.
        operator_settings: the operator's own settings.
        operator_seed: seed of what the operator draws, the same for all problems.
        prior: what `load_prior` takes: a name, a file, a folder, `FILE.py:NAME`.
        prior_settings: what is said of the prior in place of what it states.
        truths: `prior`; or held-out signals: a folder or zip file of images of the size of the prior, or a `.npy` file
            of shape (N, *signal) in the units of the prior. The seed is then their index.
        white: the value of white in images of `truths`, as 4095 for 12 bits; by default the largest of their type.
        steps: of the ancestral sampling that draws the truths, where the prior has no exact sampler.
        noise: a name in `midguide list likelihoods`.
        sigma_y: standard deviation of Gaussian noise in the value range of the prior; by default 0.05.
        rate: expected counts at the largest value, for Poisson noise.
        noise_settings: further settings of the noise.
        dtype: what the network computes in; states stay in float32.
    """

    stacks: ClassVar[bool] = True
    simulated: ClassVar[bool] = False

    operator: str
    operator_settings: Mapping[str, object] = field(default_factory=dict)
    operator_seed: int = 0
    prior: str = "faces-64"
    prior_settings: PriorSettings = AS_STATED
    truths: Annotated[str, PathOr(PRIOR)] = PRIOR
    white: float | None = None
    steps: int = TRUTH_STEPS
    noise: str = "gaussian"
    sigma_y: float | None = None
    rate: float | None = None
    noise_settings: Mapping[str, object] = field(default_factory=dict)
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_positive(steps=self.steps)
        if self.white is not None and (self.truths == PRIOR or self.truths.endswith(".npy")):
            raise ConfigError("white is given, but no images", hint="white belongs to truths that are image files")
        _ = self._setup  # which refuses an impossible noise

    def record(self) -> dict[str, Any]:
        """What a result depends on besides the prior's file and what `data_digest` holds."""
        truths = {"truths": PRIOR, "steps": self.steps} if self.truths == PRIOR else {"truths": "held out"}
        instrument = {"instrument": self._setup.instrument_record(self._denoiser)}
        own = {**self._setup.record(), **instrument, "dtype": self.dtype}
        return {"type": "DrawnProblem", **own, **truths, **record_of(self.prior_settings)}

    def prior_digest(self) -> str:
        """SHA-256 of the prior's record."""
        return prior_digest(self.prior, self.dtype, self.prior_settings)

    def data_digest(self, seed: int) -> str:
        """SHA-256 of a held-out signal; draws of the prior follow from prior and seed."""
        return "" if self.truths == PRIOR else digest(self._held_out(seed))

    def build(self, seed: int) -> Problem:
        """The problem of one truth.

        Raises:
            DataError: If there is no such truth, it does not fit the prior, or the prior cannot be sampled.
        """
        return self.build_all([seed])[0]

    def build_all(self, seeds: Sequence[int]) -> list[Problem]:
        """The problems of several truths, which are drawn together; up to rounding each is that of `build`."""
        if self.truths == PRIOR:
            found = _drawn(self.prior, self.prior_settings, self.steps).of(seeds)
        else:
            found = [self._held_out(seed) for seed in seeds]
        pairs = zip(seeds, found, strict=True)
        return [self._setup.simulate(self._denoiser, truth, seed=seed) for seed, truth in pairs]

    def probe(self, seed: int) -> Problem:
        """The problem of a signal of zeros where the truth would have to be drawn first."""
        if self.truths != PRIOR:
            return self.build(seed)
        zeros = torch.zeros(1, *self._denoiser.signal_shape, dtype=_dtype_of(self._denoiser))
        return self._setup.simulate(self._denoiser, zeros, seed=seed)

    def count(self) -> int | None:
        """How many truths there are; None for any number."""
        return None if self.truths == PRIOR else len(self._signals)

    @property
    def _setup(self) -> Setup:
        return Setup(
            operator=self.operator,
            operator_settings=self.operator_settings,
            operator_seed=self.operator_seed,
            noise=self.noise,
            noise_settings={**given(sigma_y=self.sigma_y, rate=self.rate), **self.noise_settings},
        )

    @property
    def _denoiser(self) -> Denoiser:
        return prior_of(self.prior, self.dtype, self.prior_settings)

    @property
    def _signals(self) -> Tensor:
        return _loaded(self.truths, self._denoiser.signal_shape, self._denoiser.signal_range or RANGE, self.white)

    def _held_out(self, seed: int) -> Tensor:
        signals = self._signals
        if not 0 <= seed < len(signals):
            raise DataError(
                f"{self.truths} holds {len(signals)} signals, number {seed} is asked for",
                hint=f"take at most {len(signals)} problems, or draws of the prior",
            )
        return signals[seed : seed + 1]


class _Drawn:
    """Draws of a prior by seed, which stay in memory; those that are missing are drawn together."""

    def __init__(self, prior: Denoiser, name: str, steps: int) -> None:
        self._prior, self._name, self._steps = prior, name, steps
        self._known: dict[int, Tensor] = {}

    def of(self, seeds: Sequence[int]) -> list[Tensor]:
        """One draw for each seed, shape (1, *signal)."""
        missing = [seed for seed in dict.fromkeys(seeds) if seed not in self._known]
        if missing:
            self._known |= zip(missing, self._draw(missing), strict=True)
        return [self._known[seed] for seed in seeds]

    def _draw(self, seeds: list[int]) -> list[Tensor]:
        own = [stream_seed("truth", seed) for seed in seeds]
        exact = unwrapped(self._prior)
        if isinstance(exact, KnowsPosterior):
            return [exact.sample(1, seed=seed) for seed in own]
        problem = Problem.unobserved(self._prior).expand(len(seeds))
        try:
            return list(sample(Unconditional(steps=self._steps), problem, seed=own, progress=False).draws)
        except NumericalError as error:
            hint = "is it a denoiser on its stated schedule? `midguide check-prior` measures that"
            raise DataError(f"the prior {self._name} cannot be sampled: {error.message}", hint=hint) from error


@kept(4)
def _drawn(name: str, settings: PriorSettings, steps: int) -> _Drawn:
    """The prior once more: where that of the problems moves to a device, this one stays on the CPU."""
    return _Drawn(load_prior(name, settings), name, steps)


@kept(4)
def _loaded(path: str, shape: tuple[int, ...], limits: tuple[float, float], white: float | None) -> Tensor:
    """Held-out signals, float32, shape (N, *signal)."""
    with about("truths"):
        signals = _array(path) if path.endswith(".npy") else _images(path, shape, limits, white)
        if tuple(signals.shape[1:]) != shape:
            raise DataError(
                f"{path} holds signals of shape {tuple(signals.shape[1:])}, the prior has {shape}",
                hint="crop and resize them first, or give a prior of their size",
            )
        if not bool(signals.isfinite().all()):
            raise DataError(f"{path} holds NaN or infinite values", hint="remove these signals")
    return signals


def _images(path: str, shape: tuple[int, ...], limits: tuple[float, float], white: float | None) -> Tensor:
    if not os.path.exists(path):
        raise DataError(f"there is no {path}", hint="a folder or zip file of images, or a .npy file")
    low, high = limits
    values = load_image_set(Path(path), white=white).float() / 255
    if shape[0] == 1:
        values = torch.einsum("nchw,c->nhw", values, values.new_tensor(_LUMA))[:, None]
    return low + (high - low) * values


def _array(path: str) -> Tensor:
    values = _SIGNALS.array(path)
    with _SIGNALS.damage(path):
        return torch.from_numpy(values.astype(np.float32))


def _dtype_of(prior: Denoiser) -> torch.dtype:
    """The type of draws of the prior."""
    exact = unwrapped(prior)
    return exact.sample(1).dtype if isinstance(exact, KnowsPosterior) else torch.float32
