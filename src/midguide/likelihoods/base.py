"""Likelihoods: an operator, an observation and a noise model. `log_prob` is per row, never reduced over the batch.

`y` holds one observation per row, shape (N, *measurement), in the value range of the prior. Only entries that the
operator measures count; the likelihood sets all others to zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from midguide.catalogue.base import Catalogue, Entry
from midguide.catalogue.shown import Shown
from midguide.errors import ConfigError, ShapeError, UnsupportedProblem
from midguide.maths import autodiff
from midguide.maths.autodiff import Derivative
from midguide.maths.covariance import Linear
from midguide.maths.rng import Rng
from midguide.operators.base import Operator
from midguide.storage.record import describe


@dataclass(frozen=True, eq=False)
class Likelihood(Shown, ABC):
    """`p(y | x)` for the observations `y`, shape (N, *measurement), through `operator`.

    NumPy arrays become tensors, and integers become float32. Complex values become pairs (real, imaginary) along a last
    axis, as operators measure them. A noise level is then that of the real and of the imaginary part.
    """

    operator: Operator
    y: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", as_rows(self.y, "observations"))
        owners = self.operator.observations
        if owners is not None and owners != len(self.y):
            raise ShapeError(
                f"the operator has {owners} observations of its own, y has {len(self.y)}",
                hint="one mask or kernel for each observation, or one that serves all",
            )
        mask = self.operator.measured(self.y)
        if not bool(torch.isfinite(torch.where(mask, self.y, 0.0)).all()):
            raise ShapeError("the observation holds NaN or infinity", hint="mask those entries out instead")
        object.__setattr__(self, "y", torch.where(mask, self.y, 0.0))

    @property
    def observations(self) -> int:
        """Number of observations N."""
        return len(self.y)

    def check_range(self, signal_range: tuple[float, float] | None) -> None:
        """Refuse signals of another range than the one that the operator is made for; None is not known.

        Raises:
            ConfigError: If the ranges differ.
        """
        remedy = f"midguide.operators.rescaled(operator, {signal_range})"
        check_value_range(type(self.operator).__name__, self.operator.value_range, signal_range, remedy)

    def select(self, rows: Tensor) -> Self:
        """The likelihood whose row b is observation `rows[b]`; rows may repeat."""
        return replace(self, operator=self.operator.select(rows), y=self.y[rows])

    def stack(self, others: Sequence[Likelihood]) -> Self:
        """The observations of this likelihood and of others of the same noise model, in this order.

        Raises:
            ShapeError: If the noise models differ, or operators that cannot be stacked.
        """
        every = [self, *others]
        settings = [{**vars(each), "type": type(each).__name__, "operator": None, "y": None} for each in every]
        if any(describe(each) != describe(settings[0]) for each in settings[1:]):
            raise ShapeError("likelihoods of different noise models cannot be stacked")
        operator = self.operator.stack([each.operator for each in others], [each.observations for each in every])
        return replace(self, operator=operator, y=torch.cat([each.y for each in every]))

    def to(self, like: Tensor | torch.device | str) -> Self:
        """The same likelihood on the device, and for a tensor in the dtype, of `like`."""
        return replace(self, operator=self.operator.to(like), y=self.y.to(like))

    def measured_values(self) -> Tensor:
        """How many values were measured for each observation, shape (N,)."""
        mask = self.operator.measured(self.y).expand(self.y.shape)
        return mask.flatten(1).sum(1)

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """`log p(y_b | x_b)` up to `log_constant`, shape (N, *event) -> (N,)."""

    @abstractmethod
    def log_constant(self) -> Tensor:
        """What `log_prob` leaves out, which depends on y and the noise alone: float64, shape (N,)."""

    def log_density(self, x: Tensor) -> Tensor:
        """`log p(y_b | x_b)` in full, of the measured values, in nats: float64, shape (N, *event) -> (N,)."""
        return self.log_prob(x).double() + self.log_constant()

    @abstractmethod
    def score(self, x: Tensor) -> Tensor:
        """`grad_x log p(y_b | x_b)`, shape of x."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """The standardised residual: standard normal per measured value if x is the truth, shape of y."""

    @abstractmethod
    def difference(self, x: Tensor) -> Tensor:
        """`y - A(x)`, shape of y, for methods that ask for its norm; see the subclasses for its weights."""

    def linearized(self, x: Tensor) -> tuple[Tensor, Linear]:
        """`residual(x)` and how it falls as x moves: `residual(x + d) = residual(x) - B d` to first order.

        The pair describes a Gaussian with unit noise in place of the likelihood. Fitting x to it is a step of
        Gauss-Newton.

        Returns:
            The residual, shape of y, and B with its adjoint, from the shape of x to that of y.
        """
        residual, derivative = autodiff.linearize(self.residual, x)
        return residual, Derivative(lambda d: -derivative(d), lambda r: -derivative.adjoint(r))

    def doubt(self, x: Tensor) -> str:
        """Why the residual of a truth near x is not standard normal, in words; empty where it is.

        What judges residuals leaves out what is in doubt.
        """
        return "the noise model does not say whether its residuals are standard normal"

    def kurtosis(self, x: Tensor) -> float:
        """Excess kurtosis of the residual of a truth near x, averaged over measured values: 0 where it is normal."""
        return 0.0

    def simulated(self, x: Tensor, rng: Rng) -> Tensor:
        """What would be measured of other signals, with noise from `rng`: shape (N, *signal) -> (N, *measurement).

        Raises:
            UnsupportedProblem: If the noise model cannot tell.
        """
        raise UnsupportedProblem(f"{type(self).__name__} does not simulate", hint="give it a method `simulated`")

    def chi_square(self, x: Tensor) -> Tensor:
        """Mean squared standardised residual per measured value, shape (N,): about 1 where x explains y."""
        return self.residual(x).square().flatten(1).sum(1) / self.measured_values()


def as_rows(values: Any, what: str) -> Tensor:
    """Observations or signals, one in each row, as a real tensor of at least single precision.

    Raises:
        ShapeError: If they are not numbers, without an axis of rows, or there is no row.
    """
    y = as_numbers(values, what)
    if y.ndim == 0:
        raise ShapeError(f"{what} have a first axis, one row for each; got a single number")
    if len(y) == 0:
        raise ShapeError(f"there are no {what}: got the shape {tuple(y.shape)}", hint="at least one row")
    if y.is_complex():
        y = torch.view_as_real(y.resolve_conj())
    short = not y.is_floating_point() or torch.finfo(y.dtype).bits < 32
    return y.to(torch.float32) if short else y


def as_numbers(values: Any, what: str) -> Tensor:
    """Numbers of any kind, as a dense tensor; arrays and lists come to the CPU.

    Raises:
        ShapeError: If they are not numbers, or some are masked.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ShapeError(f"{what} come as a masked array, whose mask would be lost", hint="the operator `Mask` hides")
    try:
        if not isinstance(values, Tensor):
            array = np.ascontiguousarray(values) if np.ndim(values) else np.asarray(values)
            listed = array.dtype == np.float64 and not isinstance(values, np.ndarray | np.generic)
            values = torch.from_numpy(np.array(array, dtype=np.float32 if listed else None))
        y = values if values.layout is torch.strided else values.to_dense()
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ShapeError(
            f"{what} are a tensor or an array of numbers, got {type(values).__name__}", hint="one in each row"
        ) from error
    if y.device.type == "meta":
        raise ShapeError(f"{what} lie on the device `meta`, which holds no numbers", hint="make them on another device")
    return y.clone() if y.is_inference() else y.detach()


class Noise(Protocol):
    """A noise model with its settings: makes likelihoods. A frozen dataclass of the settings."""

    likelihood: ClassVar[type[Likelihood]]
    """The class of likelihoods that it makes."""

    in_range: ClassVar[bool]
    """Whether observations are in the value range of signals, as an image file is; counts are not."""

    def given(self, operator: Operator, y: Tensor, value_range: tuple[float, float]) -> Likelihood:
        """The likelihood of real observations.

        Args:
            operator: the instrument.
            y: observations, shape (N, *measurement).
            value_range: smallest and largest value of signals.
        """
        ...

    def observe(self, operator: Operator, x: Tensor, value_range: tuple[float, float], *, seed: int) -> Likelihood:
        """The likelihood of simulated observations of signals x, shape (N, *event).

        What is random in observation i comes from the stream (seed, "noise", i).
        """
        ...


def _check_noise(thing: Any) -> None:
    """Refuse what is not a noise model."""
    lacking = [part for part in ("likelihood", "in_range", "given", "observe") if not hasattr(thing, part)]
    if lacking or not (isinstance(thing, type) and is_dataclass(thing)):
        raise ConfigError(
            f"it lacks {', '.join(lacking)}" if lacking else "it is not a dataclass",
            hint="a noise model is a frozen dataclass of its settings with likelihood, in_range, given and observe",
        )


def _columns(entry: Entry[Noise]) -> dict[str, Any]:
    """What lists say of a noise model."""
    return {"likelihood": entry.thing.likelihood.__name__}


LIKELIHOODS: Catalogue[Noise] = Catalogue("noise model", "midguide.likelihoods", check=_check_noise, columns=_columns)
"""Noise models by name, with which likelihoods are made."""


def differentiated(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of a log density by automatic differentiation, shape of x."""
    return autodiff.value_and_grad(lambda u: (log_prob(u), u), x)[1]


def check_value_range(
    what: str, made_for: tuple[float, float] | None, known: tuple[float, float] | None, remedy: str
) -> None:
    """Refuse signals of another range than the one that `what` is made for; None is not known."""
    if made_for is not None and known is not None and tuple(known) != made_for:
        raise ConfigError(
            f"{what} is made for values from {made_for[0]:g} to {made_for[1]:g}, the prior's go from {known[0]:g} to "
            f"{known[1]:g}",
            hint=f"take {remedy}",
        )
