"""`auto`: which sampler suits a problem. It is a rule, no method; `make_sampler("auto", problem=problem)` applies it.

The lines of the rule and their reasons come from `results/frontier.md`. What it chooses is an ordinary sampler,
and results record that one, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.operators.base import LinearOperator
from midguide.problem import LatentProblem, Problem
from midguide.samplers.base import Sampler

FEW_MEASURED = 64
"""Measured values up to which draws are weighted: with more, a few draws have all the weight."""


class Facts(NamedTuple):
    """What the rule looks at.

    Args:
        latents: whether the prior is one of latents.
        exact: whether the prior's moments are in closed form.
        linear: whether the operator is linear.
        gaussian: whether the noise is Gaussian.
        measured: measured values of an observation.
    """

    latents: bool
    exact: bool
    linear: bool
    gaussian: bool
    measured: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A line of the rule.

    Args:
        when: which problems it is for, in words.
        fits: the same as a function.
        spec: a sampler or preset.
        because: why this one.
        settings: in place of those of the preset.
    """

    when: str
    fits: Callable[[Facts], bool]
    spec: str
    because: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """In one sentence, as records have it."""
        return f"{self.when}: {self.because}"


RULE = (
    Choice(
        when="a prior of latents",
        fits=lambda facts: facts.latents,
        spec="mgps:ffhq-latent",
        because="it has the best means on box inpainting, super-resolution and JPEG",
    ),
    Choice(
        when="noise that is not Gaussian",
        fits=lambda facts: not facts.gaussian,
        spec="mgps",
        because="its fit takes any noise model, linear where it stands",
    ),
    Choice(
        when=f"a prior with moments in closed form, up to {FEW_MEASURED} measured values, linear",
        fits=lambda facts: facts.exact and facts.linear and facts.measured <= FEW_MEASURED,
        spec="matheron:weighted",
        because="its weighted draws tend to the posterior, on mixtures within 25 calls",
    ),
    Choice(
        when="a prior with moments in closed form",
        fits=lambda facts: facts.exact,
        spec="matheron",
        because="it is exact on Gaussians at every number of steps",
    ),
    Choice(
        when="a linear operator",
        fits=lambda facts: facts.linear,
        spec="matheron:fast",
        settings={"steps": 50},
        because="on faces its 148 calls equal 256 of `mmps` and the 1,320 of the tuned MGPS",
    ),
    Choice(
        when="a nonlinear operator",
        fits=lambda facts: True,
        spec="mmps:nonlinear",
        because="on faces its 249 calls are near the 1,320 of the tuned MGPS; for phase retrieval take `mgps:faces-64`",
    ),
)
"""What `auto` chooses: the first line that fits a problem."""


def facts_of(problem: Problem) -> Facts:
    """What the rule looks at."""
    likelihood = problem.signal_likelihood
    return Facts(
        latents=isinstance(problem, LatentProblem),
        exact=problem.denoiser.exact_moments,
        linear=isinstance(likelihood.operator, LinearOperator),
        gaussian=isinstance(likelihood, GaussianLikelihood),
        measured=math.prod(likelihood.y.shape[1:]),
    )


def choose(problem: Problem) -> Choice:
    """The line of the rule for a problem.

    Example:
        >>> import torch
        >>> from midguide import Problem
        >>> from midguide.priors import Gaussian
        >>> choose(Problem.unobserved(Gaussian(torch.zeros(4), 1.0))).spec
        'matheron:weighted'
    """
    facts = facts_of(problem)
    return next(line for line in RULE if line.fits(facts))


def chosen(sampler: Sampler, reason: str) -> Sampler:
    """The sampler, which keeps the reason of its choice; a copy with other settings has none."""
    object.__setattr__(sampler, _REASON, reason)  # no setting: equal samplers stay equal
    return sampler


def reason_of(sampler: Sampler) -> str:
    """Why `auto` chose this sampler; empty where it did not."""
    return getattr(sampler, _REASON, "")


_REASON = "_chosen_because"
