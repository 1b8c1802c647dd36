"""Midpoint-guided posterior sampling (MGPS).

Paper: Moufad, Janati, Bedin, Durmus, Douc, Moulines, Olsson 2025, "Variational Diffusion Posterior Sampling with
Midpoint Guidance", ICLR, https://arxiv.org/abs/2410.09945. Implemented: Algorithms 1, 2 and 3 (warm start).

One step from `t` to `s` picks a midpoint `l <= s` and fits a Gaussian to `pi(x_l | x_t) ~ g_l(x_l) p(x_l | x_t)`. Here
`g_l(x) = p(y | D(x, l))` and `p(x_l | x_t) = N(m_{l|t}(x_t), v_{l|t} I)`. The step draws `x_l` from the fit, and
re-noises by the exact bridge `q(x_s | x_l, x_t)`. There are two fits.

In closed form (the default): Matheron's rule moves a draw of the prior's transition to one of pi. It takes D and the
likelihood as linear around the draw, `D(x, l) = D(x', l) + J (x - x')`. That is one step of Gauss-Newton, with
conjugate gradients, and is exact if both are linear. The fit knows its curvature, so rescaled problems have rescaled
draws.

By gradient steps (`gradient_steps`; the paper's, `mgps:paper`): the fit is `N(mu, diag(exp(2 rho)))` and descends, with
one reparameterised draw z per gradient step, the gradient of

    E_z[-log p(y | D(mu + exp(rho) z, l))] + KL(N(mu, diag(exp(2 rho))) || N(m_{l|t}(x_t), v_{l|t} I)).

Its step has the unit of the data: the paper's 0.03 is made for images in [-1, 1] with posteriors far narrower than 1.

Differences from the paper:
- the fit in closed form: a Gaussian with all its covariance in place of a diagonal one, and no gradient steps. It has
  no warm start, and begins at a draw of the transition in place of its mean. It takes J as symmetric, as it is for an
  exact D. There:
  - g_l counts what D leaves open as noise, `g_l(x) = N(y; A D(x, l), sigma_y^2 I + A C A^T)` with C the covariance of
    `p(x_0 | x_l)`, as moment matching does (Rozet et al. 2024; `mmps`). With it the best midpoint is s itself;
  - the variance of p(x_l | x_t) includes that of x_0 given x_t, averaged over entries (Bao et al. 2022,
    "Analytic-DPM");
  - the last step ends with a fit at clean data in place of D(x_t, t);
  - times lie closer where there is little noise (`spacing`);
- with gradient steps, one network forward per step besides them: `D(x_t, t)`. The prediction that initializes the next
  fit (Eq. 3.9) is the one of the last gradient step, `D(mu + exp(rho) z, l)`. The paper spends one more forward on
  `D(x_l, l)` (`recompute=True`). What that costs on the exact problems is in `results/exactness.md`;
- at the cleanest level the likelihood of `x_l` itself is used, without the network, as the authors' code does;
- the midpoint is at least the cleanest level (the authors' code divides by zero variance there);
- the likelihood is that of each sample, never a norm over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import CLEAN, Level, Time, check_steps, spaced_times
from midguide.errors import ConfigError
from midguide.maths import autodiff
from midguide.maths.linalg import per_row
from midguide.maths.optim import Adam, Optimizer
from midguide.maths.rng import Rng
from midguide.maths.variational import Isotropic, Pulled, Seen, draw_fitted, pulled
from midguide.problem import Problem
from midguide.samplers.base import (
    SAMPLERS,
    Calls,
    Finished,
    Needs,
    Sign,
    Step,
    check_positive,
    check_share,
    finish_denoised,
    initial_noise,
)

GRADIENT_ONLY = ("optimizer", "warm_start", "recompute")
"""Settings of the fit by gradient steps alone."""
SPACING = 1.5
"""Of the times, with the fit in closed form."""


class MGPSState(NamedTuple):
    """`x_t` and the last denoised midpoint `x0_hat`, shape (B, *event); `position` counts steps down to 1."""

    x_t: Tensor
    x0_hat: Tensor
    position: int


@SAMPLERS.register("mgps")
@dataclass(frozen=True, kw_only=True)
class MGPS:
    """Midpoint-guided posterior sampling.

    With the fit in closed form and `spread = 1` it is exact at every number of steps where the prior is an isotropic
    Gaussian. Elsewhere it does not tend to the posterior.

    Limits: with gradient steps the midpoint's target is not exact (results/exactness.md). The optimizer's rate must
    also suit the scale of the data: the paper's 0.03 leaves draws of N(0, I) twice too wide.

    Cost: with the fit in closed form two forwards and `2 iterations + 1` vjps a step, or less where there are fewer
    measured values. With gradient steps `steps` forwards, and one forward and one vjp per gradient step. Warm steps
    take two forwards and one vjp. Steps whose midpoint is the cleanest level take none of either.

    Args:
        steps: noise levels visited; fewer where times fall on the same level.
        spacing: times are at the shares `(i / (steps - 1)) ** spacing` of the schedule, closer where there is little
            noise the larger it is; 1 for even ones. By default 1.5 with the fit in closed form, and 1 with gradient
            steps.
        iterations: of conjugate gradients in the fit in closed form, each of them two vjps.
        spread: share of what D leaves open that draws of the fit in closed form carry as noise, in [0, 1]. With 1
            spreads are right for isotropic priors, at 0 they are up to a tenth too narrow, and pictures are cleaner.
        midpoint: where the midpoint lies, as a fraction of the time `s` (eta of the paper), in (0, 1].
        late_midpoint: the fraction once `s` is at or below `late_from` of the noisiest time; None for the same.
        late_from: see `late_midpoint`.
        gradient_steps: gradient steps of each fit by position in the list of steps (M of the paper); off for the fit
            in closed form.
        optimizer: with gradient steps, update rule for mean and log standard deviation, started afresh at each step.
        warm_start: with gradient steps, use the warm start while `t` is at or above this fraction of the noisiest
            time; None for never.
        recompute: with gradient steps, spend the paper's extra forward per step on `D(x_l, l)` instead of reusing a
            prediction.
    """

    needs = Needs(gradients=True)

    signs: ClassVar[dict[str, Sign]] = {
        "excess": Sign(2.0, "the fits have not converged", "take more steps, or `mgps` without gradient steps"),
    }
    tunable: ClassVar[dict[str, tuple[object, ...]]] = {
        "iterations": (1, 2, 3, 5, 8),
        "midpoint": (0.5, 0.75, 1.0),
        "spacing": (1.0, 1.5, 2.0),
        "spread": (0.0, 0.5, 1.0),
    }

    steps: int = 50
    spacing: float | None = None
    iterations: int = 3
    spread: float = 0.0
    midpoint: float = 1.0
    late_midpoint: float | None = None
    late_from: float = 0.5
    gradient_steps: StepRule | None = None
    optimizer: Optimizer = Adam(rate=0.03)
    warm_start: float | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_share("spread", self.spread)
        check_positive(iterations=self.iterations, **({} if self.spacing is None else {"spacing": self.spacing}))
        for name in ("midpoint", "late_midpoint"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value <= 1.0:
                raise ConfigError(f"{name} must be in (0, 1], got {value}", hint="the paper takes 0.5 for images")
        for name in ("warm_start", "late_from"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} must be in [0, 1], got {value}", hint="a fraction of the noisiest time")

        unused = [
            name for name in GRADIENT_ONLY if getattr(self, name) != type(self).__dataclass_fields__[name].default
        ]
        if self.gradient_steps is None and unused:
            raise ConfigError(
                f"`{unused[0]}` has no effect without `gradient_steps`",
                hint="take `mgps:paper` or another preset with gradient steps, or set `gradient_steps`",
            )

    def times(self, problem: Problem) -> list[Time]:
        spacing = self.spacing or (SPACING if self.gradient_steps is None else 1.0)
        return spaced_times(problem.schedule, self.steps, spacing)

    def calls(self, problem: Problem) -> Calls:
        times = self.times(problem)
        if self.gradient_steps is None:
            products = 2 * min(self.iterations, math.prod(problem.likelihood.y.shape[1:]))
            return Calls(2 * len(times) - 1, len(times) + products * (len(times) - 1))
        forwards, vjps = self.steps, 0
        for position, (t, s) in zip(range(self.steps, 1, -1), pairwise(times), strict=True):
            count = self.gradient_steps.at(position, self.steps)
            through_network = count * (self.midpoint_time(problem, s) != problem.schedule.cleanest)
            forwards += through_network + count * self._is_warm(problem, t, s) + self.recompute
            vjps += through_network
        return Calls(forwards, vjps)

    def init(self, problem: Problem, rng: Rng) -> MGPSState:
        x_t = initial_noise(problem, self.times(problem)[0], rng)
        return MGPSState(x_t, torch.zeros_like(x_t), self.steps)

    def step(self, problem: Problem, state: MGPSState, t: Time, s: Time, rng: Rng) -> Step:
        if self.gradient_steps is not None:
            return self._descended(problem, state, self.gradient_steps, t, s, rng)
        level, x_t = problem.schedule.level, state.x_t
        l = self.midpoint_time(problem, s)
        x_l, left, indefinite = self._midpoint(problem, x_t, t, l, rng)
        x_s = kernels.bridge(level(l), level(s), level(t)).draw(x_l, x_t, rng.normal(x_t))
        measured = problem.likelihood.measured_values().clamp_min(1)
        info = {"left": left / measured.sqrt(), "indefinite": indefinite.double()}
        if s == problem.schedule.cleanest:
            info["excess"] = excess(problem, problem.likelihood.chi_square(x_l))
        return Step(MGPSState(x_s, state.x0_hat, state.position - 1), info)

    def finish(self, problem: Problem, state: MGPSState, t: Time, rng: Rng) -> Finished:
        if self.gradient_steps is not None:
            return finish_denoised(self, problem, state, t, rng)
        return Finished(self._midpoint(problem, state.x_t, t, None, rng).value)

    def _midpoint(self, problem: Problem, x_t: Tensor, t: Time, l: Time | None, rng: Rng) -> Pulled:
        """A draw of the midpoint from its fit in closed form; of clean data where l is None."""
        level_t, level_l = problem.schedule.level(t), CLEAN if l is None else problem.schedule.level(l)

        # the prior's transition from x_t to the midpoint
        x0, pull = autodiff.vjp(lambda x: problem.denoiser(x, t), x_t)
        width = mean_variance(pull, level_t, x_t, rng)
        prior = kernels.bridge(CLEAN, level_l, level_t)
        variance = prior.std**2 + prior.weight_s**2 * width
        x_l = prior.mean(x0, x_t) + variance.sqrt() * rng.normal(x_t)

        # the likelihood, linear around the draw
        likelihood = problem.likelihood
        x0_hat, pull = (x_l, torch.clone) if l is None else autodiff.vjp(lambda x: problem.denoiser(x, l), x_l)
        residual, operator = likelihood.linearized(x0_hat)
        noise = torch.where(likelihood.operator.measured(residual), rng.normal(residual), 0.0)
        if self.spread and l is not None:
            precision = 1 / width + level_l.alpha**2 / level_l.sigma**2 - level_t.alpha**2 / level_t.sigma**2
            noise = noise + operator((self.spread / precision).sqrt() * rng.normal(x_t))

        seen = Seen(residual, pull, operator, level_l.sigma**2 / level_l.alpha)
        return pulled(x_l, variance, seen, noise, self.iterations)

    def _descended(
        self, problem: Problem, state: MGPSState, gradient_steps: StepRule, t: Time, s: Time, rng: Rng
    ) -> Step:
        """A step that fits by gradient steps: the paper's."""
        schedule, x_t = problem.schedule, state.x_t
        l = self.midpoint_time(problem, s)
        level_t, level_s, level_l = schedule.level(t), schedule.level(s), schedule.level(l)
        level_1 = schedule.level(schedule.cleanest)
        count = gradient_steps.at(state.position, self.steps)
        warm = self._is_warm(problem, t, s)

        # the prior's transition from x_t to the midpoint
        x0 = problem.denoiser(x_t, t)
        prior = kernels.bridge(CLEAN, level_l, level_t)
        x0_hat = x0 if state.position == self.steps else state.x0_hat

        # fit and draw the midpoint
        start = kernels.bridge(level_1 if warm else CLEAN, level_l, level_t)
        x_l, x0_hat, away = draw_fitted(
            self._midpoint_score(problem, l),
            Isotropic(start.mean(x0_hat, x_t), start.std),
            Isotropic(prior.mean(x0, x_t), prior.std),
            count,
            self.optimizer,
            rng,
        )
        if self.recompute:
            x0_hat = problem.denoiser(x_l, l)

        # re-noise; a warm step goes on from the midpoint to almost clean data and re-noises that
        if warm:
            x0_hat = self._draw_clean(problem, x_l, x0_hat, l, count, rng)
            bridge, pin = kernels.bridge(level_1, level_s, level_t), x0_hat
        else:
            bridge, pin = kernels.bridge(level_l, level_s, level_t), x_l
        x_s = bridge.draw(pin, x_t, rng.normal(x_t))
        chi_square = problem.likelihood.chi_square(x0_hat)
        info = {"chi_square": chi_square, "away": away}
        info |= {"excess": excess(problem, chi_square)} if state.position == 2 else {}
        return Step(MGPSState(x_s, x0_hat, state.position - 1), info)

    def midpoint_time(self, problem: Problem, s: Time) -> Time:
        """The midpoint `l` of a step down to `s`: the usable time at the fraction `midpoint` of s, at most s."""
        late = self.late_midpoint is not None and s <= self.late_from * problem.schedule.noisiest
        fraction = self.late_midpoint if late and self.late_midpoint is not None else self.midpoint
        return min(problem.schedule.snap(fraction * s), s)

    def _is_warm(self, problem: Problem, t: Time, s: Time) -> bool:
        schedule = problem.schedule
        noisy = self.warm_start is not None and t >= self.warm_start * schedule.noisiest
        return noisy and self.midpoint_time(problem, s) != schedule.cleanest

    def _draw_clean(self, problem: Problem, x_l: Tensor, x0_hat: Tensor, l: Time, count: int, rng: Rng) -> Tensor:
        """The second fit of the warm start (Algorithm 2): a draw of `x_1` given `x_l` and y."""
        schedule = problem.schedule
        level_1, level_l = schedule.level(schedule.cleanest), schedule.level(l)
        start = kernels.bridge(CLEAN, level_1, level_l)
        forward = kernels.transition(level_1, level_l)

        def score(x_1: Tensor) -> tuple[Tensor, Tensor]:
            return problem.likelihood.score(x_1) + problem.denoiser.score(x_1, schedule.cleanest), x_1

        # log q(x_l | x_1), as a function of x_1, is that of a Gaussian with this mean and standard deviation
        transition = Isotropic(x_l / forward.scale, math.sqrt(forward.variance) / forward.scale)
        first = Isotropic(start.mean(x0_hat, x_l), start.std)
        x_1, _, _ = draw_fitted(score, first, transition, count, self.optimizer, rng)
        return x_1

    def _midpoint_score(self, problem: Problem, l: Time) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Gradient of `log p(y | D(x, l))` and the prediction `D(x, l)`; at the cleanest level D is the identity."""
        if l == problem.schedule.cleanest:
            return lambda x: (problem.likelihood.score(x), x)

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            x0_hat, pullback = autodiff.vjp(lambda x_l: problem.denoiser(x_l, l), x)
            return pullback(problem.likelihood.score(x0_hat)), x0_hat

        return score


def excess(problem: Problem, chi_square: Tensor) -> Tensor:
    """Chi-square above 1, over 1 or three of its standard deviations, whichever is more; shape (B,)."""
    deviation = (2 / problem.likelihood.measured_values().clamp_min(1)).sqrt()
    return (chi_square - 1) / (3 * deviation).clamp_min(1.0)


def mean_variance(pull: Callable[[Tensor], Tensor], level: Level, x_t: Tensor, rng: Rng) -> Tensor:
    """Variance of an entry of x_0 given x_t, averaged over entries, shape (B, 1, ...): the trace of `C = (s^2 / a) J`.

    Estimated with one vector of signs (Hutchinson 1990), and kept between zero and that of a flat prior.
    """
    signs = torch.sign(rng.normal(x_t))
    mean = (level.sigma**2 / level.alpha) * (signs * pull(signs)).flatten(1).mean(1)
    flat = level.sigma**2 / level.alpha**2
    return per_row(mean.clamp(torch.finfo(x_t.dtype).eps * flat, flat), x_t)
