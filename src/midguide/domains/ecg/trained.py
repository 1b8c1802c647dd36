"""Draws of a network that was trained for one kind of hidden part: a competitor that needs a training of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch

from midguide.catalogue.settings import PathOr
from midguide.diffusion.schedules import check_steps
from midguide.domains.ecg.conditional import ConditionalNetwork, load_conditional
from midguide.domains.ecg.leads import EcgFormat, with_einthoven
from midguide.errors import UnsupportedProblem
from midguide.inference.loop import sample
from midguide.inference.samples import Samples
from midguide.operators.mask import Mask
from midguide.problem import Problem
from midguide.samplers.unconditional import Unconditional
from midguide.studies.kinds.files import kept
from midguide.studies.sources.base import SOURCES


@SOURCES.register("trained-diff")
@dataclass(frozen=True, kw_only=True)
class TrainedDiff:
    """The network "TrainedDiff" of the MGPS paper, sampled by DDPM; the prior of the problem plays no part.

    Args:
        network: the file that a recipe with a `condition` wrote.
        steps: noise levels visited.
    """

    network: Annotated[str, PathOr()]
    steps: int = 1000

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def record(self) -> dict[str, Any]:
        """What the draws depend on besides the problem."""
        return {"type": "TrainedDiff", "steps": self.steps, "network_sha256": _network(self.network).sha256}

    def check(self, problem: Problem) -> None:
        spec, form = _network(self.network).spec, EcgFormat.of(problem.denoiser.signal)
        if not isinstance(problem.likelihood.operator, Mask) or form is None:
            raise UnsupportedProblem("a network that was trained for hidden parts of electrocardiograms")
        trained = EcgFormat.of(spec.signals)
        if trained != form or spec.event_shape != problem.event_shape:
            raise UnsupportedProblem(
                f"the network is for {spec.event_shape}, {trained}; the problem's prior has {problem.event_shape}, "
                f"{form}",
                hint="train it with the tables of the prior's recipe",
            )

    def draw(self, problem: Problem, n: int, seeds: Sequence[int]) -> Samples:
        y = problem.likelihood.y
        observed = problem.likelihood.operator.measured(y).expand(y.shape)
        network = _network(self.network)
        network.network.to(y.device)
        asked = replace(problem, denoiser=network.denoiser(y, observed))
        drawn = sample(Unconditional(steps=self.steps), asked, n, seed=seeds, progress=False)
        known = observed[:, None]
        return replace(drawn, draws=with_einthoven(torch.where(known, y[:, None], drawn.draws), known))


@kept(4)
def _network(path: str) -> ConditionalNetwork:
    return load_conditional(path)
