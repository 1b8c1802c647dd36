"""The contracts of schedules and denoisers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.diffusion.kernels import bridge, ddim, transition
from midguide.diffusion.schedules import CLEAN, Level, Schedule, Time
from midguide.maths.autodiff import vjp
from midguide.priors.base import Denoiser
from midguide.testing.contract import TOLERANCE, norm, require


def check_schedule(schedule: Schedule, *, steps: int = 7) -> None:
    """Check everything that a schedule promises.

    Times fall strictly from `noisiest` and are usable; noise rises with time; `snap` and `time_at` return usable
    times; transitions, bridge and DDIM kernels between its levels reproduce the marginals `N(alpha_r x_0, sigma_r^2)`.

    Args:
        schedule: what to check.
        steps: how many times to ask for; at most the levels that the schedule has, and at least 3.

    Raises:
        ContractError: If a fact is broken; names the first one.

    Example:
        >>> from midguide.diffusion.schedules import DiscreteVP
        >>> check_schedule(DiscreteVP.linear())
    """
    for count in sorted({1, 2, steps}):
        times = schedule.times(count)
        require(len(times) == count, schedule, f"times({count}) has {len(times)} entries")
        require(times[0] == schedule.noisiest, schedule, f"times({count}) starts at {times[0]}, not at the noisiest")
        falling = all(t > r for t, r in zip(times, times[1:], strict=False))
        require(falling, schedule, f"times({count}) does not fall strictly")
        require(times[-1] >= schedule.cleanest, schedule, f"times({count}) goes below the cleanest time")
    for t in (*times, schedule.cleanest):
        _check_time(schedule, t)
    beyond = {t: schedule.snap(t) for t in (schedule.noisiest + 1, schedule.cleanest - 1)}
    ends = (schedule.noisiest, schedule.cleanest)
    require(tuple(beyond.values()) == ends, schedule, f"snap turns times beyond its ends into {beyond}, not {ends}")
    levels = [schedule.level(t) for t in times]
    rising = all(t.ratio > r.ratio for t, r in zip(levels, levels[1:], strict=False))
    require(rising, schedule, "sigma / alpha does not rise with time")
    for t, r, s in zip(levels, levels[1:], levels[2:], strict=False):
        _check_kernels(schedule, s, r, t)
        _check_kernels(schedule, CLEAN, r, t)


def check_denoiser(denoiser: Denoiser, *, seed: int = 0) -> None:
    """Check everything that a denoiser promises at seven of its times, on pure noise of the size of `x_t`.

    The output must be finite, with the shape and dtype of the input. It must be deterministic and differentiable,
    without a graph where nobody asks for one. Its rows must not depend on their batch. The input and the global random
    numbers must stay as they are. `moments` must agree with the output and with its derivative. Whether it denoises
    well depends on the data: this check does not say.

    Args:
        denoiser: what to check.
        seed: seed of the inputs.

    Raises:
        ContractError: If a fact is broken; names the first one.

    Example:
        >>> from midguide.priors.gaussian import Gaussian
        >>> check_denoiser(Gaussian(torch.zeros(2), 1.0))
    """
    generator = torch.Generator().manual_seed(seed)
    for t in denoiser.schedule.times(7):
        level = denoiser.schedule.level(t)
        x = torch.randn(3, *denoiser.event_shape, generator=generator) * math.hypot(level.alpha, level.sigma)
        _check_denoising(denoiser, x, t)
        _check_moments(denoiser, x.double(), t)


def _check_time(schedule: Schedule, t: Time) -> None:
    level, label = schedule.level(t), schedule.label(t)
    usable = 0.0 < level.alpha < math.inf and 0.0 < level.sigma < math.inf and math.isfinite(label)
    require(usable, schedule, f"at time {t}: alpha {level.alpha}, sigma {level.sigma}, label {label}")
    # A continuous time goes through a root and back, to rounding.
    require(math.isclose(schedule.snap(t), t, rel_tol=1e-9, abs_tol=1e-9), schedule, f"snap moves the usable time {t}")
    found = schedule.level(schedule.time_at(level.ratio)).ratio
    require(math.isclose(found, level.ratio, rel_tol=1e-9), schedule, f"time_at misses the level of time {t}")


def _check_kernels(schedule: Schedule, s: Level, r: Level, t: Level) -> None:
    """`q(x_r | x_s, x_t)`, with x_s and x_t drawn given x_0, has mean `alpha_r x_0` and variance `sigma_r^2`."""
    step, pinned = transition(s, t), bridge(s, r, t)
    require(step.variance > 0.0, schedule, "a transition to a noisier level adds no noise")
    mean = pinned.weight_s * s.alpha + pinned.weight_t * t.alpha
    weight = pinned.weight_s + pinned.weight_t * step.scale  # of x_s, once x_t = a x_s + noise is put in
    variance = (weight * s.sigma) ** 2 + pinned.weight_t**2 * step.variance + pinned.std**2
    for name, got, want in (("mean", mean, r.alpha), ("variance", variance, r.sigma**2)):
        exact = math.isclose(got, want, rel_tol=1e-8)
        require(exact, schedule, f"the bridge gives the {name} {got}, the marginal has {want}")
    for eta in (0.0, 0.5, 1.0):
        free = ddim(r, t, eta)
        mean, variance = free.weight_s + free.weight_t * t.alpha, (free.weight_t * t.sigma) ** 2 + free.std**2
        exact = math.isclose(mean, r.alpha, rel_tol=1e-8) and math.isclose(variance, r.sigma**2, rel_tol=1e-8)
        require(exact, schedule, f"the DDIM kernel with eta {eta} does not reproduce the marginal")


def _check_denoising(denoiser: Denoiser, x: Tensor, t: Time) -> None:
    before, random_state = x.clone(), torch.get_rng_state()
    x0 = denoiser(x, t)
    require(torch.equal(x, before), denoiser, "changes its input")
    require(x0.shape == x.shape, denoiser, f"turns the shape {tuple(x.shape)} into {tuple(x0.shape)}")
    require(bool(torch.isfinite(x0).all()), denoiser, f"gives values that are not finite at time {t}")
    require(not x0.requires_grad, denoiser, "keeps a graph for an input that asks for none")
    require(torch.equal(denoiser(x, t), x0), denoiser, f"gives two answers to one question at time {t}")
    require(torch.equal(torch.get_rng_state(), random_state), denoiser, "draws from the global random numbers")
    tolerance = TOLERANCE[torch.float32]
    for dtype in TOLERANCE:
        got = denoiser(x.to(dtype), t)
        require(got.dtype == dtype, denoiser, f"turns {dtype} into {got.dtype}")
    for i in range(len(x)):
        error, size = norm(denoiser(x[i : i + 1], t) - x0[i : i + 1]), norm(x0[i : i + 1]) + tolerance
        require(bool(error <= tolerance * size), denoiser, f"row {i} depends on its batch, by {float(error):.1e}")
    gradient = vjp(lambda u: denoiser(u, t), x)[1](torch.ones_like(x))
    require(bool(torch.isfinite(gradient).all()), denoiser, f"has a derivative that is not finite at time {t}")
    require(bool(gradient.any()), denoiser, f"does not depend on its input at time {t}")


def _check_moments(denoiser: Denoiser, x: Tensor, t: Time) -> None:
    """The mean is `D(x, t)`, and products of the covariance are `sigma^2 / alpha` times the vector-Jacobian ones."""
    level, tolerance = denoiser.schedule.level(t), TOLERANCE[torch.float32]
    mean, covariance = denoiser.moments(x, t)
    x0, pullback = vjp(lambda u: denoiser(u, t), x)
    vector = x.flip(0)
    products = covariance(vector), level.sigma**2 / level.alpha * pullback(vector)
    for name, got, want in (("mean", mean, x0), ("covariance", *products)):
        allowed = tolerance * (norm(want) + tolerance * norm(vector))
        close = got.shape == want.shape and bool((norm(got - want) <= allowed).all())
        require(close, denoiser, f"at time {t} the {name} of moments() is not that of its answers and derivatives")
