"""Midpoint-guided posterior sampling (MGPS).

Paper: Moufad, Janati, Bedin, Durmus, Douc, Moulines, Olsson 2025, "Variational Diffusion Posterior Sampling with
Midpoint Guidance", ICLR, https://arxiv.org/abs/2410.09945. Implemented: Algorithms 1, 2 and 3 (warm start).

One step from `t` to `s` picks a midpoint `l <= s`, fits a Gaussian `N(mu, diag(exp(2 rho)))` to
`pi(x_l | x_t) ~ p(y | D(x_l, l)) p(x_l | x_t)`, draws `x_l` from it, and re-noises by the exact bridge
`q(x_s | x_l, x_t)`. The fit descends, with one reparameterised draw z per gradient step, the gradient of

    E_z[-log p(y | D(mu + exp(rho) z, l))] + KL(N(mu, diag(exp(2 rho))) || N(m_{l|t}(x_t), v_{l|t} I)).

Differences from the paper:
- one network forward per step besides the gradient steps: `D(x_t, t)`. The prediction that initializes the next fit
  (Eq. 3.9) is the one of the last gradient step, `D(mu + exp(rho) z, l)`; the paper spends one more forward on
  `D(x_l, l)` (`recompute=True`). What that costs on the exact problems is in `docs/results/exactness.md`;
- at the cleanest level the likelihood of `x_l` itself is used, without the network, as the authors' code does;
- the midpoint is at least the cleanest level (the authors' code divides by zero variance there);
- the likelihood is that of each sample, never a norm over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from midguide.diffusion import kernels
from midguide.diffusion.rules import StepRule
from midguide.diffusion.schedules import CLEAN, Time, check_steps
from midguide.errors import ConfigError
from midguide.maths import autodiff
from midguide.maths.optim import Adam, Optimizer
from midguide.maths.rng import Rng
from midguide.maths.variational import Isotropic, draw_fitted
from midguide.problem import Problem
from midguide.samplers.base import SAMPLERS, Calls, Needs, Step, finish_denoised, initial_noise, schedule_times


class MGPSState(NamedTuple):
    """`x_t` and the last denoised midpoint `x0_hat`, shape (B, *event); `position` counts steps down to 1."""

    x_t: Tensor
    x0_hat: Tensor
    position: int


@SAMPLERS.register("mgps")
@dataclass(frozen=True, kw_only=True)
class MGPS:
    """Midpoint-guided posterior sampling.

    Cost: `steps` forwards, and one forward and one vjp per gradient step (two forwards and one vjp in warm steps; none
    of either where the midpoint is the cleanest level).

    Args:
        steps: noise levels visited.
        midpoint: where the midpoint lies, as a fraction of the time `s` (eta of the paper), in (0, 1].
        late_midpoint: the fraction once `s` is at or below `late_from` of the noisiest time; None for the same.
        late_from: see `late_midpoint`.
        warm_start: use the warm start while `t` is at or above this fraction of the noisiest time; None for never.
        gradient_steps: gradient steps of each fit by position in the list of steps (M of the paper).
        optimizer: update rule for mean and log standard deviation, started afresh at each step.
        recompute: spend the paper's extra forward per step on `D(x_l, l)` instead of reusing a prediction.
    """

    needs = Needs(gradients=True)

    tunable: ClassVar[dict[str, tuple[object, ...]]] = {
        "midpoint": (0.25, 0.5, 0.75, 1.0),
        "warm_start": ("off", 0.7),
        "optimizer.rate": (0.03, 0.1, 0.3, 1.0, 3.0),
        "gradient_steps": tuple(
            {"default": k, "cleanest": "off", "noisiest": "off", "every": "off"} for k in (2, 5, 10)
        ),
    }

    steps: int = 300
    midpoint: float = 0.5
    late_midpoint: float | None = None
    late_from: float = 0.5
    warm_start: float | None = 0.7
    gradient_steps: StepRule = field(
        default_factory=lambda: StepRule(default=2, cleanest=(20, 2), noisiest=(5, 20), every=(10, 20))
    )
    optimizer: Optimizer = field(default_factory=lambda: Adam(rate=0.03))
    recompute: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        for name in ("midpoint", "late_midpoint"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value <= 1.0:
                raise ConfigError(f"{name} must be in (0, 1], got {value}", hint="the paper takes 0.5 for images")
        for name in ("warm_start", "late_from"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} must be in [0, 1], got {value}", hint="a fraction of the noisiest time")

    times = schedule_times
    finish = finish_denoised

    def calls(self, problem: Problem) -> Calls:
        forwards, vjps, times = self.steps, 0, self.times(problem)
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
        schedule, x_t = problem.schedule, state.x_t
        l = self.midpoint_time(problem, s)
        level_t, level_s, level_l = schedule.level(t), schedule.level(s), schedule.level(l)
        level_1 = schedule.level(schedule.cleanest)
        count = self.gradient_steps.at(state.position, self.steps)
        warm = self._is_warm(problem, t, s)

        # the prior's transition from x_t to the midpoint
        x0 = problem.denoiser(x_t, t)
        prior = kernels.bridge(CLEAN, level_l, level_t)
        x0_hat = x0 if state.position == self.steps else state.x0_hat

        # fit and draw the midpoint
        start = kernels.bridge(level_1 if warm else CLEAN, level_l, level_t)
        x_l, x0_hat = draw_fitted(
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
        info = {"chi_square": problem.likelihood.chi_square(x0_hat)}
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
        x_1, _ = draw_fitted(score, first, transition, count, self.optimizer, rng)
        return x_1

    def _midpoint_score(self, problem: Problem, l: Time) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Gradient of `log p(y | D(x, l))` and the prediction `D(x, l)`; at the cleanest level D is the identity."""
        if l == problem.schedule.cleanest:
            return lambda x: (problem.likelihood.score(x), x)

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            x0_hat, pullback = autodiff.vjp(lambda x_l: problem.denoiser(x_l, l), x)
            return pullback(problem.likelihood.score(x0_hat)), x0_hat

        return score
