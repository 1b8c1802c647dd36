"""Priors of this package for the samplers of other libraries, and functions of theirs as priors here.

`to_deepinv` and `to_azula` need these libraries; `from_function` and `score_fn` need none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from midguide.diffusion.kernels import eps_from_x0
from midguide.diffusion.schedules import Schedule, Time, make_schedule
from midguide.errors import ConfigError, reason, unknown
from midguide.priors.base import Denoiser
from midguide.priors.loading import load_prior

CONVENTIONS = {
    "epsilon": "eps",
    "eps": "eps",
    "x0": "x0",
    "sample": "x0",
    "v": "v",
    "flow": "flow",
    "score": "eps",
    "edm": "x0",
}
"""What a function may return, by the usual names, and the prediction of this package that it is computed as."""


def from_function(
    function: Callable[[Tensor, Tensor], Tensor],
    convention: str,
    event_shape: tuple[int, ...],
    schedule: str | Schedule | None = None,
    **settings: Any,
) -> Denoiser:
    """A plain function of `x_t` and a label as a prior.

    Args:
        function: called as `function(x_t, label)`, label of shape (B,): the index on discrete schedules, sigma on
            `edm`, t on `flow`.
        convention: what it returns: `epsilon`, `x0`, `v`, `flow` (the velocity `z - x_0`), `score` (the gradient of
            `log p_t`), or `edm` (`D(x; sigma)` for `x = x_0 + sigma z`).
        event_shape: shape of one sample.
        schedule: the forward process; may be left out for `edm` and `flow`.
        settings: others of `PriorSettings`.

    Raises:
        ConfigError: If the convention is unknown, or a schedule is needed and missing.

    Example:
        >>> normal = from_function(lambda x, t: -x, "score", (3,), "vp-linear")  # the score of unit variance, at all t
        >>> normal(torch.ones(1, 3), 500).allclose(normal.schedule.level(500).alpha * torch.ones(1, 3))
        True
    """
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    schedule = schedule or {"edm": "edm", "flow": "flow"}.get(convention)
    if schedule is None:
        raise ConfigError(f"a function that returns `{convention}` needs a schedule", hint="such as 'vp-linear'")
    if convention != "score":
        changes = {"prediction": CONVENTIONS[convention], "schedule": schedule, "event_shape": event_shape, **settings}
        return load_prior(function, **changes)
    process = make_schedule(schedule) if isinstance(schedule, str) else schedule
    network = _EpsOfScore(function, process, settings.pop("label", None) or process.label)
    return load_prior(network, prediction="eps", schedule=process, event_shape=event_shape, label=float, **settings)


class _EpsOfScore:
    """`eps = -sigma_t s(x_t, label)`; called with times themselves."""

    def __init__(self, function: Callable[..., Tensor], schedule: Schedule, label: Callable[[Time], float]) -> None:
        self.function, self.schedule, self.label = function, schedule, label

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        time = self.schedule.snap(float(times[0]))  # a denoiser is asked for one time at once; float32 was rounded
        score = self.function(x, torch.full_like(times, float(self.label(time))))
        return -self.schedule.level(time).sigma * score


def score_fn(prior: Denoiser, convention: str = "score") -> Callable[[Tensor, Time], Tensor]:
    """A prior as a plain function of `x_t` and a time of its schedule.

    Args:
        prior: any prior.
        convention: what the function returns: `score`, `epsilon` or `x0`; or `edm`, for a function of `x_0 + sigma z`
            and sigma, which is answered at the nearest level of the schedule.

    Raises:
        ConfigError: If the convention is unknown.

    Returns:
        A function of `x_t`, shape (B, *event), and a time; its values have the shape of `x_t`.

    Example:
        >>> from midguide.priors import Gaussian
        >>> score = score_fn(Gaussian(torch.zeros(2), 1.0))
        >>> bool(torch.allclose(score(torch.ones(1, 2), 500), -torch.ones(1, 2), atol=1e-4))
        True
    """
    match convention:
        case "score":
            return prior.score
        case "x0" | "sample":
            return prior.__call__
        case "epsilon" | "eps":
            return lambda x, t: eps_from_x0(x, prior(x, t), prior.schedule.level(t))
        case "edm":
            return lambda x, sigma: _at_ratio(prior, x, float(sigma))
    raise unknown("convention", convention, ("score", "epsilon", "x0", "edm"))


def _at_ratio(prior: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """`E[x_0 | x_0 + sigma z = x]` at the nearest level that the prior knows."""
    time = prior.schedule.time_at(sigma)
    return prior(prior.schedule.level(time).alpha * x, time)


def to_deepinv(prior: Denoiser) -> Any:
    """A prior as a denoiser of deepinv: called as `denoiser(x, sigma)`, for `x = x_0 + sigma z`.

    Values stay in the range of the prior; of a prior of latents they are latents. For a sigma between two levels of a
    discrete schedule it answers at the nearest.

    Args:
        prior: any prior.

    Returns:
        A `deepinv.models.Denoiser`, for `DDRM`, `DiffPIR`, `DPS` and the other samplers of that library.

    Raises:
        ConfigError: If the library cannot be imported.
    """
    from midguide.operators.deepinv import physics_of_deepinv

    physics_of_deepinv()  # mends the import
    models = _library("deepinv.models", "deepinv")

    class Prior(models.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.prior = prior

        def forward(self, x: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
            levels = torch.as_tensor(sigma, dtype=torch.float64).flatten().expand(len(x)).tolist()
            if len(set(levels)) == 1:
                return _at_ratio(prior, x, levels[0])
            return torch.cat([_at_ratio(prior, row[None], level) for row, level in zip(x, levels, strict=True)])

    return Prior()


def to_azula(prior: Denoiser) -> Any:
    """A prior as a denoiser of azula, on its own schedule: time 0 is the cleanest level and time 1 the noisiest.

    Args:
        prior: any prior; a discrete schedule is answered at its levels, so take no more steps than it has.

    Returns:
        An `azula.denoise.Denoiser`, for the samplers of `azula.sample` and `azula.guidance`.

    Raises:
        ConfigError: If the library cannot be imported.
    """
    from midguide.operators.deepinv import mend_torchvision

    mend_torchvision()
    denoise, noise = _library("azula.denoise", "azula"), _library("azula.noise", "azula")
    process = prior.schedule

    def time(t: float) -> Time:
        return process.snap(process.cleanest + t * (process.noisiest - process.cleanest))

    class Levels(noise.Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            levels = [process.level(time(float(u))) for u in t.flatten()]
            alpha, sigma = (t.new_tensor(values).reshape(t.shape) for values in zip(*levels, strict=True))
            return alpha, sigma

    class Prior(denoise.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.prior, self.schedule = prior, Levels()

        def forward(self, x_t: Tensor, t: Tensor, **_: object) -> Any:
            if t.ndim == 0 or len(set(t.flatten().tolist())) == 1:
                return denoise.DiracPosterior(mean=prior(x_t, time(float(t.flatten()[0]))))
            rows = [prior(row[None], time(float(u))) for row, u in zip(x_t, t.flatten(), strict=True)]
            return denoise.DiracPosterior(mean=torch.cat(rows))

    return Prior()


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"this needs the library {name}, which cannot be imported: {reason(error)}",
            hint="pip install 'midguide[interop]'",
        ) from error
