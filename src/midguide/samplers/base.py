"""What a sampler is: a frozen dataclass of hyper-parameters with `init`, `step` and `finish`, and no loop."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from midguide.catalogue.base import NO_CHANGES, Catalogue, Entry
from midguide.diffusion.schedules import CLEAN, Level, Time
from midguide.errors import ConfigError, UnsupportedProblem
from midguide.likelihoods.base import Likelihood
from midguide.likelihoods.gaussian import GaussianLikelihood
from midguide.maths import autodiff
from midguide.maths.covariance import FAR
from midguide.maths.gaussians import Factor
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator, PseudoInvertibleOperator, SVDOperator, kind
from midguide.priors.base import Autoencoder
from midguide.priors.gaussian import Gaussian
from midguide.problem import LatentProblem, Problem


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a sampler asks of a problem.

    Args:
        operator: the least class of operator it can use.
        likelihood: the class of likelihood it is made for.
        gradients: whether it differentiates through the network.
        group: samples of one observation that must stay together in a batch, such as the particles of a filter; 1
            where samples are independent. May depend on settings.
        autoencoder: whether it works on latents, with encoder and decoder; `operator` is then that on signals.

    Example:
        >>> from midguide.operators.base import LinearOperator
        >>> Needs(operator=LinearOperator).group
        1
    """

    operator: type[Operator] = Operator
    likelihood: type[Likelihood] = Likelihood
    gradients: bool = False
    group: int = 1
    autoencoder: bool = False


class Step(NamedTuple):
    """State after a step, and what a diagnostic may want to know: a dictionary of tensors of shape (B,).

    What belongs to a group has the shape (groups,).

    Example:
        >>> Step(NoisyState(torch.zeros(2, 3)), {"residual": torch.zeros(2)}).state.x_t.shape
        torch.Size([2, 3])
    """

    state: Any
    info: dict[str, Tensor]


class Finished(NamedTuple):
    """Draws and, where a method weights them, their weights.

    Args:
        draws: shape (B, *event).
        log_weight: log of the weight of each draw, shape (B,); None where all count alike. Weights compare all draws
            of one observation, also those of different groups; a factor that they share does not matter.
        log_evidence: estimate of `log p(y)` by each group, shape (groups,): the density of the measured values, in
            nats, with all constants (`Likelihood.log_density`); None where the method has none. Where it is given, the
            weights of a group are scaled such that their mean is its evidence: only their ratios within it matter.
    """

    draws: Tensor
    log_weight: Tensor | None = None
    log_evidence: Tensor | None = None


class Sign(NamedTuple):
    """A sign of convergence: what an entry of `Step.info` tells of a draw where it is large.

    A class declares its signs as `signs: ClassVar[dict[str, Sign]]`, by the names of the entries. The loop keeps the
    largest value over the steps for each draw.

    Args:
        high: above this a draw is suspect.
        meaning: what a larger value means, to be followed by "in 3 of 50 draws": "the fit has not converged".
        advice: what to change, an imperative.
    """

    high: float
    meaning: str
    advice: str


class Calls(NamedTuple):
    """Network calls that one sample costs.

    Example:
        >>> sum(Calls(forwards=100, vjps=50))
        150
    """

    forwards: int
    vjps: int


class Sampler(Protocol):
    """One method of one paper."""

    @property
    def needs(self) -> Needs:
        """What it asks of a problem; a constant of the class, unless a setting changes it."""
        ...

    @property
    def steps(self) -> int:
        """Noise levels visited."""
        ...

    def times(self, problem: Problem) -> list[Time]:
        """The times visited, strictly decreasing."""
        ...

    def calls(self, problem: Problem) -> Calls:
        """What one sample will cost."""
        ...

    def init(self, problem: Problem, rng: Rng) -> Any:
        """The state at the noisiest time: a NamedTuple of tensors and numbers.

        `rng.layout` says which rows of the batch form a group, and `rng.groups` draws what a group shares. A tensor of
        the state has one entry for each row, or one for each group. Its values are finite, except that those of a
        field whose name begins with `log_` may be `-inf`. It is called again where a run is resumed, for the kind of
        its state only: calls of the network count once.
        """
        ...

    def step(self, problem: Problem, state: Any, t: Time, s: Time, rng: Rng) -> Step:
        """One move from time `t` down to `s`."""
        ...

    def finish(self, problem: Problem, state: Any, t: Time, rng: Rng) -> Finished:
        """The samples from the state at the last time `t`, with weights where the method has them."""
        ...


def signs_of(sampler: Sampler) -> dict[str, Sign]:
    """The signs of convergence that the class of a sampler declares, by the names of entries of `Step.info`."""
    return getattr(type(sampler), "signs", {})  # a sampler from outside need not know of them


def tunable_of(sampler: type) -> dict[str, tuple[object, ...]]:
    """The settings that a class declares as worth a search, with the values to try in ascending order.

    A class declares them as `tunable: ClassVar[dict[str, tuple[object, ...]]]`, by keys as `--set` takes them, without
    `steps`, which follow from a budget of network calls: `{"guidance": (0.1, 0.3, 1.0)}`.
    """
    return getattr(sampler, "tunable", {})  # a sampler from outside need not know of them


PARAMETERS = {"times": 1, "calls": 1, "init": 2, "step": 5, "finish": 4}
"""How many arguments each method of a sampler takes, besides the sampler."""


def _check_sampler(thing: object) -> None:
    """Refuse what lacks a part of a sampler."""
    lacking = [part for part in ("needs", "steps", *PARAMETERS) if not hasattr(thing, part)]
    if lacking or not (isinstance(thing, type) and dataclasses.is_dataclass(thing)):
        raise ConfigError(
            f"it lacks {', '.join(lacking)}" if lacking else "it is not a dataclass",
            hint="a sampler is a frozen dataclass with needs, steps, times, calls, init, step and finish",
        )
    for name, count in PARAMETERS.items():
        try:
            inspect.signature(getattr(thing, name)).bind(thing, *range(count))
        except TypeError as error:
            raise ConfigError(
                f"its `{name}` does not take {count} arguments", hint="see midguide.samplers.base.Sampler"
            ) from error


SAMPLERS: Catalogue[Sampler] = Catalogue(
    "sampler", "midguide.samplers", check=_check_sampler, columns=lambda entry: _columns(entry)
)
"""Samplers by name."""

AUTO = "auto"
"""Instead of the name of a sampler: the one that suits the problem."""


def make_sampler(
    spec: str, changes: Mapping[str, object] = NO_CHANGES, problem: Problem | None = None, *, budget: int | None = None
) -> Sampler:
    """The sampler that a name and its preset mean, or that suits a problem.

    Args:
        spec: `NAME`, `NAME:PRESET`, `FILE.py:NAME`; or `auto`, which chooses by the problem.
        changes: settings in place of those of the preset; see `Catalogue.make`. `auto` also takes `budget` here.
        problem: what it will be used on; needed for `auto` and for a budget.
        budget: most network calls of one sample; it sets the steps, see `within_budget`.

    Raises:
        ConfigError: If a name or setting is unknown, a value does not fit, or the problem is needed and not given.
        UnsupportedProblem: If the sampler cannot handle the problem at this budget.

    Example:
        >>> make_sampler("mgps:ffhq", {"steps": 50}).steps
        50
        >>> problem = Problem.unobserved(Gaussian(torch.zeros(4), 1.0))
        >>> make_sampler("auto", problem=problem, budget=10).calls(problem)
        Calls(forwards=10, vjps=0)
    """
    from midguide.samplers.auto import choose, chosen
    from midguide.samplers.budget import within_budget

    settings = given = dict(changes)
    reason = ""
    if spec.partition(":")[0] == AUTO:
        if spec != AUTO:
            raise ConfigError(f"`{AUTO}` has no presets, got `{spec}`", hint="`midguide list auto` has its rule")
        budget = cast("int | None", given.pop("budget", budget))
        choice = choose(_given(problem, "`auto` chooses by the problem"))
        spec, settings, reason = choice.spec, {**choice.settings, **given}, choice.reason
    sampler = SAMPLERS.make(spec, settings)
    if budget is not None:
        if "steps" in given:
            raise ConfigError("a budget sets the steps, which are given, too", hint="give one of them")
        problem = _given(problem, "a budget is one for a problem")
        check_needs(sampler, problem)
        sampler = within_budget(sampler, problem, budget)
    return chosen(sampler, reason) if reason else sampler


def _given(problem: Problem | None, why: str) -> Problem:
    if problem is None:
        raise ConfigError(f"{why}, and none is given", hint="make_sampler(name, settings, problem)")
    return problem


def initial_noise(problem: Problem, t: Time, rng: Rng) -> Tensor:
    """`x_T ~ N(0, sigma_T^2 I)` at the noisiest time, shape (B, *event)."""
    return problem.schedule.level(t).sigma * rng.normal(problem.zeros())


# What most samplers have in common. A class takes it over by name: `times = schedule_times`.


class NoisyState(NamedTuple):
    """The state of a method that carries `x_t` alone, shape (B, *event).

    Example:
        >>> NoisyState(torch.zeros(2, 3)).x_t.shape
        torch.Size([2, 3])
    """

    x_t: Tensor


def one_vjp_a_step(sampler: Sampler, problem: Problem) -> Calls:
    """`Sampler.calls` of a method that differentiates the network once at each step but the last."""
    return Calls(forwards=sampler.steps, vjps=sampler.steps - 1)


def one_forward_a_step(sampler: Sampler, problem: Problem) -> Calls:
    """`Sampler.calls` of a method that asks the network once at each step."""
    return Calls(forwards=sampler.steps, vjps=0)


def schedule_times(sampler: Sampler, problem: Problem) -> list[Time]:
    """`times` of a sampler that visits `steps` times of the prior's schedule.

    Example:
        >>> class Mine:
        ...     times = schedule_times
    """
    return problem.schedule.times(sampler.steps)


def start_from_noise(sampler: Sampler, problem: Problem, rng: Rng) -> NoisyState:
    """`init` of a sampler that starts from pure noise.

    Example:
        >>> class Mine:
        ...     init = start_from_noise
    """
    return NoisyState(initial_noise(problem, sampler.times(problem)[0], rng))


def finish_denoised(sampler: Sampler, problem: Problem, state: Any, t: Time, rng: Rng) -> Finished:
    """`finish` of a sampler that returns `D(x_t, t)` at the cleanest time visited.

    Example:
        >>> class Mine:
        ...     finish = finish_denoised
    """
    return Finished(problem.denoiser(state.x_t, t))


def replaced(problem: Problem, x: Tensor, level: Level, rng: Rng) -> Tensor:
    """x with what the operator measures of it taken from the observation, noised to `level`; shape of x.

    `x + A^+ (alpha y + sigma A z - A x)`: for a mask, the measured entries are `alpha y + sigma z`.
    """
    operator, y = linear(problem)
    return x + operator.pinv(level.alpha * y - operator(x - level.sigma * rng.normal(x)))


def finish_replaced(sampler: Sampler, problem: Problem, state: Any, t: Time, rng: Rng) -> Finished:
    """`finish` of a sampler that returns `D(x_t, t)` with what is measured of it replaced by the observation itself."""
    return Finished(replaced(problem, problem.denoiser(state.x_t, t), CLEAN, rng))


def draw_conditioned(operator: LinearOperator, y: Tensor, noise: float, mean: Tensor, std: float, rng: Rng) -> Tensor:
    """A draw of `N(x; mean, std^2 I) N(y; A x, noise^2 I)`, exact, shape of `mean`.

    It is the maximum of the density with mean and y moved by draws of their own noise: one proximal step.

    References: Papandreou and Yuille 2010; Orieux, Feron and Giovannelli 2012.
    """
    moved = torch.add(mean, rng.normal(mean), alpha=std)
    return operator.prox(moved, torch.add(y, rng.normal(y), alpha=noise), (noise / std) ** 2)


def draw_times(problem: Problem, mean: Tensor, variance: float | Tensor, factor: Factor, rng: Rng) -> Tensor:
    """A draw of `N(x; mean, variance)` times a factor of the coefficients of the operator's basis, shape of `mean`."""
    basis = problem.spectral
    center, spread = factor.times(basis.vt(mean), variance)
    return basis.v(center + spread.sqrt() * basis.vt(rng.normal(mean)), mean)


def log_unseen(problem: Problem) -> Tensor:
    """`log p(y | x)` less the log density of the measured coefficients given x: float64, shape (B,), whatever x is.

    It has the Jacobian of the coefficients, and what of y no x explains.
    """
    basis, zeros = problem.spectral, problem.zeros()
    given = Factor(basis.y, basis.noise.double().square())
    return problem.likelihood.log_density(basis.v(basis.y, zeros)) - given.log_mass(basis.y)


def check_particles(particles: int, resample_below: float) -> None:
    """Refuse groups of particles that have none, and shares of them that are not in [0, 1]."""
    check_share("resample_below", resample_below)
    if particles < 1:
        raise ConfigError(f"particles must be at least 1, got {particles}", hint="1 for independent weighted draws")


def check_positive(**values: float) -> None:
    """Refuse settings that are not positive."""
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} must be positive, got {value}")


def check_share(name: str, value: float) -> None:
    """Refuse a share that is not in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must be in [0, 1], got {value}")


def linear(problem: Problem) -> tuple[LinearOperator, Tensor]:
    """Operator and observations of a problem that must be linear."""
    operator = problem.likelihood.operator
    if not isinstance(operator, LinearOperator):
        raise UnsupportedProblem(f"{type(operator).__name__} is not linear")
    return operator, problem.likelihood.y


def linearized(problem: Problem, x: Tensor) -> tuple[Tensor, LinearOperator | autodiff.Derivative]:
    """`A(x)`, and A itself where it is linear, else its derivative at x with the adjoint."""
    operator = problem.likelihood.operator
    if isinstance(operator, LinearOperator):
        return operator(x), operator
    return autodiff.linearize(operator, x)


def products(problem: Problem, directions: int) -> int:
    """Vjps of the network that a solve with the covariance of its answer takes; none where moments are exact."""
    return 0 if problem.denoiser.exact_moments else min(directions, math.prod(problem.likelihood.y.shape[1:]))


SOLVED = Sign(
    FAR,
    "the solve for what was measured went far off, and was shortened",
    "take more `steps`, and fewer products in each",
)
"""Sign of the residual of `Covariance.solve`."""


def gaussian(problem: Problem) -> GaussianLikelihood:
    """The likelihood of a problem whose noise must be Gaussian."""
    if not isinstance(problem.likelihood, GaussianLikelihood):
        raise UnsupportedProblem(f"{type(problem.likelihood).__name__} is not Gaussian")
    return problem.likelihood


def autoencoder(problem: Problem) -> Autoencoder:
    """The autoencoder of a problem that must have a prior of latents."""
    if not isinstance(problem, LatentProblem):
        raise UnsupportedProblem(f"{type(problem.denoiser).__name__} has no autoencoder")
    return problem.autoencoder


def signal_linear(problem: Problem) -> tuple[LinearOperator, Tensor]:
    """Operator on signals, which must be linear, and observations."""
    likelihood = problem.signal_likelihood
    if not isinstance(likelihood.operator, LinearOperator):
        raise UnsupportedProblem(f"{type(likelihood.operator).__name__} is not linear")
    return likelihood.operator, likelihood.y


def _columns(entry: Entry[Sampler]) -> dict[str, Any]:
    """What lists say of a sampler with its default settings: its needs, and what a sample costs."""
    sampler = entry.make()
    calls = sampler.calls(Problem.unobserved(Gaussian(torch.zeros(1), 1.0)))  # they depend on the prior's schedule only
    return {
        "operator": REQUIRED[sampler.needs.operator],
        "noise": REQUIRED[sampler.needs.likelihood],
        "gradients": sampler.needs.gradients,
        "latents": sampler.needs.autoencoder,
        "steps": sampler.steps,
        "forwards": calls.forwards,
        "vjps": calls.vjps,
    }


REQUIRED: dict[type, str] = {
    SVDOperator: "an operator with an SVD",
    LinearOperator: "a linear operator",
    PseudoInvertibleOperator: "an operator with a pseudo-inverse",
    Operator: "any operator",
    GaussianLikelihood: "Gaussian noise",
    Likelihood: "any noise",
}
"""What `Needs` asks for, in words."""


def lacking(needs: Needs, operator: type[Operator], likelihood: type[Likelihood]) -> str | None:
    """Which of the `needs` operators and likelihoods of these classes do not meet, in words; None if they meet all."""
    if not issubclass(operator, needs.operator):
        return REQUIRED[needs.operator]
    return None if issubclass(likelihood, needs.likelihood) else REQUIRED[needs.likelihood]


def check_needs(sampler: Sampler, problem: Problem) -> None:
    """Refuse a problem that the sampler cannot handle, naming what is missing and the samplers that can.

    Raises:
        ConfigError: If they are not a sampler and a problem.
        UnsupportedProblem: If operator, noise or prior are not of a kind that the sampler is made for.
    """
    for thing, kind_of, hint in (
        (sampler, "sampler", 'make_sampler("mgps")'),
        (problem, "problem", "Problem.simulate"),
    ):
        if not hasattr(thing, "needs" if kind_of == "sampler" else "likelihood"):
            raise ConfigError(f"a {type(thing).__name__} is not a {kind_of}", hint=f"{hint} makes one")
        if isinstance(thing, type):
            raise ConfigError(f"`{thing.__name__}` is a class of {kind_of}s, not one", hint=f"call it: {hint}")
    missing = _missing(sampler.needs, problem)
    if missing is None:
        return
    able = [name for name, entry in SAMPLERS.items() if _missing(entry.thing().needs, problem) is None]
    raise UnsupportedProblem(
        f"`{SAMPLERS.name_of(sampler)}` needs {missing}", hint=f"samplers that accept it: {', '.join(able)}"
    )


def _missing(needs: Needs, problem: Problem) -> str | None:
    """Which of the `needs` a problem does not meet and what it has instead, in words; None if it meets all."""
    if needs.autoencoder and not isinstance(problem, LatentProblem):
        return f"a prior of latents, {type(problem.denoiser).__name__} is not one"
    given = problem.signal_likelihood if needs.autoencoder else problem.likelihood
    operator, likelihood = type(given.operator), type(given)
    missing = lacking(needs, operator, likelihood)
    if missing is None:
        return None
    if not issubclass(operator, needs.operator):
        return f"{missing}, {operator.__name__} is {kind(operator)}"
    return f"{missing}, this is a {likelihood.__name__}"
