"""Baselines for electrocardiograms as sources of a study: one guess each, given as often as draws are asked for.

They claim no uncertainty: of equal draws the CRPS is the absolute error, and intervals cover nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from midguide.domains.ecg.fill import BlockRidge, LeadRidge, repeat_beats, zero_fill
from midguide.domains.ecg.leads import EcgFormat
from midguide.domains.ecg.problems import EcgProblem, recordings_to_train
from midguide.errors import ShapeError, UnsupportedProblem
from midguide.inference.cost import Cost
from midguide.inference.samples import Samples
from midguide.operators.mask import Mask
from midguide.problem import Problem
from midguide.studies.kinds.files import kept
from midguide.studies.sources.base import SOURCES

LAGS = 10
"""Samples before and after that the regression on leads sees: 0.1 s at 100 Hz, a QRS complex."""


@SOURCES.register("zero", reference=True)
@dataclass(frozen=True)
class ZeroFill:
    """Hidden entries are zero."""

    def check(self, problem: Problem) -> None:
        _form(problem)

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        return _guessed(problem, n, zero_fill)


@SOURCES.register("repeated-beats", reference=True)
@dataclass(frozen=True)
class RepeatedBeats:
    """The known block goes on with its own period."""

    def check(self, problem: Problem) -> None:
        rate_hz = _form(problem).rate_hz
        try:
            repeat_beats(problem.likelihood.y[:1].cpu(), _masks(problem)[0], rate_hz)
        except ShapeError as error:
            raise UnsupportedProblem(error.message, hint="hide a block of all leads") from error

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        rate_hz = _form(problem).rate_hz
        return _guessed(problem, n, lambda y, observed: repeat_beats(y, observed, rate_hz))


@dataclass(frozen=True)
class Ridge:
    """Linear regression, fitted to the recordings that the problem's data set has to train on.

    Missing leads: from the known leads around the same time (`LAGS`); other masks: from all known entries.

    Args:
        kind: the problem, which knows these recordings.
    """

    kind: EcgProblem

    def record(self) -> dict[str, Any]:
        """What the guess depends on besides the problem."""
        return {"type": "Ridge", "lags": LAGS, "training": self.kind.training_digest()}

    def check(self, problem: Problem) -> None:
        _form(problem)
        self.kind.training_digest()

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        def fill(y: Tensor, observed: Tensor) -> Tensor:
            kind, known = self.kind, tuple(observed.flatten().tolist())
            return _fitted(kind.data, kind.rate, kind.form, known)(y)

        return _guessed(problem, n, fill)


@SOURCES.register("ridge", reference=True)
def ridge(kind: object) -> Ridge:
    """Linear regression from what is known, fitted to the recordings to train on.

    Raises:
        UnsupportedProblem: If they are not of electrocardiograms.
    """
    if not isinstance(kind, EcgProblem):
        raise UnsupportedProblem("ridge regression here is one of electrocardiograms", hint='kind = "ecg"')
    return Ridge(kind)


@kept(4)
def _fitted(data: str, rate: int, form: EcgFormat, observed: tuple[bool, ...]) -> LeadRidge | BlockRidge:
    """The regression for one mask, in units of the prior."""
    recordings = recordings_to_train(data, rate, form) / form.unit_mv
    mask = torch.tensor(observed).reshape(recordings.shape[1], -1)
    leads, times = mask.any(1), mask.any(0)
    if not bool(leads.all()) and torch.equal(mask, leads[:, None] & times):
        return LeadRidge.fit(recordings, tuple(leads.nonzero().flatten().tolist()), lags=LAGS)
    samples = mask.shape[1]
    whole = F.pad(recordings, (0, max(samples - recordings.shape[2], 0)))
    return BlockRidge.fit(whole.unfold(2, samples, samples // 2).transpose(1, 2).flatten(0, 1), mask)


def _guessed(problem: Problem, n: int, fill: Callable[[Tensor, Tensor], Tensor]) -> Samples:
    """The guess for each observation of a problem, `n` times."""
    started, y = time.monotonic(), problem.likelihood.y.cpu()
    masks = _masks(problem)
    rows = [fill(y[i : i + 1], masks[min(i, len(masks) - 1)]) for i in range(len(y))]
    draws = torch.stack(rows).expand(-1, n, *problem.event_shape)
    truth = {} if problem.truth is None else {"truth": problem.truth}
    cost = Cost(0.0, 0.0, time.monotonic() - started, 0.0)
    return Samples(draws, cost, {}, {"y": problem.likelihood.y, **truth})


def _masks(problem: Problem) -> Tensor:
    """What is known, one mask for each observation or one for all, shape (1 or N, 9, time)."""
    measured = problem.likelihood.operator.measured(problem.likelihood.y).cpu()
    return measured.expand(len(measured), *problem.event_shape)


def _form(problem: Problem) -> EcgFormat:
    form, operator = EcgFormat.of(problem.denoiser.signal), problem.likelihood.operator
    if form is None or not isinstance(operator, Mask):
        raise UnsupportedProblem("a baseline for electrocardiograms of which a part is hidden", hint='kind = "ecg"')
    return form
