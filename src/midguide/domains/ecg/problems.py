"""Electrocardiograms of a study: a recording, what is known of it, and a network as prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.catalogue.settings import PathOr
from midguide.domains.ecg import ptbxl
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.recordings import nine_leads
from midguide.domains.ecg.simulator import CONDITIONS, simulate
from midguide.errors import ConfigError, DataError, about
from midguide.likelihoods.base import LIKELIHOODS
from midguide.likelihoods.gaussian import check_sigma
from midguide.maths.rng import stream_seed
from midguide.priors.base import Denoiser
from midguide.priors.settings import Dtype, PriorSettings
from midguide.problem import Problem
from midguide.storage.record import digest, fingerprint
from midguide.studies.kinds.base import KINDS
from midguide.studies.kinds.files import (
    AS_STATED,
    PRIOR,
    TRUTH_STEPS,
    drawn_from,
    kept,
    prior_digest,
    prior_of,
    record_of,
)
from midguide.studies.kinds.setup import Setup

SIMULATOR = "simulator"
"""As data: SIMULATED patients."""

FIRST_TO_TRAIN, TO_TRAIN = 1_000_000, 400
"""Simulated patients that the baselines learn from: the first, and how many. Those of problems are below."""

FIRST_TO_VALIDATE, TO_VALIDATE = 900_000, 200
"""Likewise those on which thresholds are chosen."""


@KINDS.register("ecg")
@dataclass(frozen=True, kw_only=True)
class EcgProblem:
    """One recording of which a part is known; the seed is its place in the split, and that of its noise.

    The truth is the middle window of the recording, of the length of the prior; a shorter recording ends with zeros.
    What an operator draws, it draws for each recording: with `hidden = "random"` a block has its own half of each.

    Args:
        operator: a name in `midguide list operators`.
        operator_settings: the operator's own settings.
        operator_seed: seed of what the operator draws.
        prior: what `load_prior` takes: a name, a file, a folder, `FILE.py:NAME`.
        prior_settings: what is said of the prior in place of what it states.
        data: a folder in the layout of PTB-XL; `simulator`, for SIMULATED patients, each fifth of one condition; or
            `prior`, draws of the prior itself, for which the prior is right by construction.
        split: of PTB-XL: train, val or test.
        rate: which files of PTB-XL to read: 100 or 500 samples per second.
        noise: what is added to the known part: `none`, as in the follow-up of the MGPS paper, `gaussian`, or another
            name of `midguide list likelihoods`.
        sigma_mv: standard deviation in mV that the likelihood has, and the noise, if any.
        dtype: what the network computes in; states stay in float32.
    """

    stacks: ClassVar[bool] = True

    operator: str
    operator_settings: Mapping[str, object] = field(default_factory=dict)
    operator_seed: int = 0
    prior: str = "ecg-256"
    prior_settings: PriorSettings = AS_STATED
    data: Annotated[str, PathOr(SIMULATOR, PRIOR)] = SIMULATOR
    split: Literal["train", "val", "test"] = "test"
    rate: int = 100
    noise: str = "none"
    sigma_mv: float = 0.05
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_sigma(self.sigma_mv)
        LIKELIHOODS.find(self.noise)

    @property
    def simulated(self) -> bool:
        return self.data == SIMULATOR

    @property
    def form(self) -> EcgFormat:
        """How the prior holds a recording."""
        form = EcgFormat.of(self._denoiser.signal)
        if form is None:
            raise ConfigError(
                f"{self.prior} is not a prior of electrocardiograms",
                hint="train one: see domains/ecg/shipped/ecg-256.toml",
            )
        return form

    def record(self) -> dict[str, Any]:
        """What a result depends on besides the prior's file and what `data_digest` holds."""
        data = {"data": "recordings"} if self.data != PRIOR else {"data": PRIOR, "steps": TRUTH_STEPS}
        own = {"operator": self.operator, "noise": self.noise, "sigma_mv": self.sigma_mv, "dtype": self.dtype}
        return {"type": "EcgProblem", **own, **data, **record_of(self.prior_settings)}

    def prior_digest(self) -> str:
        """SHA-256 of the prior's record."""
        return prior_digest(self.prior, self.dtype, self.prior_settings)

    def data_digest(self, seed: int) -> str:
        """SHA-256 of the window and of what is known of it; draws of the prior follow from prior and seed."""
        operator = self._setup(seed).instrument_record(self._denoiser)
        return fingerprint(["" if self.data == PRIOR else digest(self._window(seed)), operator])

    def build(self, seed: int) -> Problem:
        """The problem of one recording.

        Raises:
            DataError: If there is no such recording, it is broken, or it does not fit the prior.
        """
        drawn = self.data == PRIOR
        truth = drawn_from(self.prior, seed, self.prior_settings) if drawn else self._window(seed)
        return self._observed(truth, seed)

    def probe(self, seed: int) -> Problem:
        """The problem of one recording; where that would have to be drawn first, of zeros."""
        if self.data != PRIOR:
            return self.build(seed)
        return self._observed(torch.zeros(1, *self._denoiser.signal_shape), seed)

    def training_digest(self) -> str:
        """What identifies the recordings that a baseline learns from: see `recordings_to_train`."""
        if self.data == PRIOR:
            raise ConfigError(
                "draws of the prior are nothing to learn from", hint="leave out baselines that are fitted"
            )
        if self.data == SIMULATOR:
            return f"simulator {FIRST_TO_TRAIN} {TO_TRAIN}"
        return _training_content(self.data, self.rate)

    def window_mv(self, seed: int) -> Tensor:
        """The truth of a problem in mV, shape (9, time).

        Raises:
            DataError: If there is no such recording, it is broken, or the truths are draws of the prior.
        """
        if self.data == PRIOR:
            raise DataError("draws of the prior are not recordings", hint="name data that have labels")
        return self.form.unit_mv * self._window(seed)[0]

    def labels(self, seed: int, targets: str) -> Tensor | None:
        """Which of `ptbxl.TARGETS` the patient has, boolean, shape (classes,); None where that is not known."""
        if self.data == SIMULATOR:
            return _simulated_labels(seed, targets)
        if self.data == PRIOR:
            return None
        entry = _entries(self.data, self.split)[seed]
        return ptbxl.labels([entry], targets)[0] if ptbxl.is_labeled(entry, targets) else None

    def to_validate(self) -> tuple[EcgProblem, Sequence[int]]:
        """The same problem with the data to choose thresholds on: fold 9, or other simulated patients; its seeds."""
        if self.data == SIMULATOR:
            return self, range(FIRST_TO_VALIDATE, FIRST_TO_VALIDATE + TO_VALIDATE)
        return replace(self, split="val"), range(len(_entries(self.data, "val")))

    @property
    def _denoiser(self) -> Denoiser:
        return prior_of(self.prior, self.dtype, self.prior_settings)

    def _setup(self, seed: int) -> Setup:
        return Setup(
            operator=self.operator,
            operator_settings=self.operator_settings,
            operator_seed=stream_seed(self.operator_seed, "recording", seed),
            noise=self.noise,
            noise_settings={"sigma_y": self.sigma_mv / self.form.unit_mv},
        )

    def _window(self, seed: int) -> Tensor:
        """The truth in units of the prior, shape (1, 9, time)."""
        nine = _recording(self.data, self.split, self.rate, seed, self.form)
        return middle(nine, self._denoiser.signal_shape[1])[None] / self.form.unit_mv

    def _observed(self, truth: Tensor, seed: int) -> Problem:
        return self._setup(seed).simulate(self._denoiser, truth, seed=seed)


def middle(nine: Tensor, samples: int) -> Tensor:
    """The middle `samples` of a recording; one that is shorter ends with zeros. (..., time) -> (..., samples)."""
    start = max(nine.shape[-1] - samples, 0) // 2
    window = nine[..., start : start + samples]
    return F.pad(window, (0, samples - window.shape[-1]))


def _simulated_labels(number: int, targets: str) -> Tensor | None:
    """A simulated patient has a known diagnosis, its condition, and no superclass."""
    if targets != "diagnoses":
        return None
    condition = list(CONDITIONS)[number % len(CONDITIONS)]
    return torch.tensor([name == condition for name in ptbxl.DIAGNOSES])


@kept(2)
def recordings_to_train(data: str, rate: int, form: EcgFormat) -> Tensor:
    """Whole recordings to fit a baseline to, those of the split `train`; mV, float32, shape (N, 9, time)."""
    if data != SIMULATOR:
        return ptbxl.load_split(data, "train", form, rate=rate).signals
    return torch.stack([_simulated(FIRST_TO_TRAIN + i, form) for i in range(TO_TRAIN)])


@kept(2048)
def _recording(data: str, split: str, rate: int, seed: int, form: EcgFormat) -> Tensor:
    """A whole recording, mV, float32, shape (9, time)."""
    if data == SIMULATOR:
        if not 0 <= seed < FIRST_TO_TRAIN:
            raise DataError(f"there is no simulated patient {seed}", hint=f"they are 0 to {FIRST_TO_TRAIN - 1}")
        return _simulated(seed, form)
    entries = _entries(data, split)
    if not 0 <= seed < len(entries):
        raise DataError(
            f"{data} has no recording {seed} to {split}",
            hint=f"the seeds of its recordings are 0 to {len(entries) - 1}",
        )
    try:
        return ptbxl.load_entry(data, entries[seed], form, rate=rate).float()
    except DataError as error:
        raise DataError(error.message, hint=f"leave out seed {seed}, which is record {entries[seed].name}") from error


@kept(8)
def _entries(data: str, split: str) -> tuple[ptbxl.Entry, ...]:
    with about("data"):
        entries = ptbxl.entries_of(data, split)
    if not entries:
        raise DataError(f"{data} has no recordings to {split}", hint="see its ptbxl_database.csv")
    return entries


@kept(2)
def _training_content(data: str, rate: int) -> str:
    return ptbxl.content(data, _entries(data, "train"), rate=rate)


def _simulated(number: int, form: EcgFormat) -> Tensor:
    """A SIMULATED patient, mV, shape (9, time)."""
    condition = list(CONDITIONS)[number % len(CONDITIONS)]
    patient = simulate(number, condition, seconds=ptbxl.SECONDS, rate_hz=form.rate_hz)
    return nine_leads(patient, form).float()
