"""What an instrument does to `x`: `Operator`, and the linear ones with adjoint, pseudo-inverse and proximal step.

An operator maps (B, *event) to (B, *measurement). Measurements keep a dense shape. An operator that hides entries
returns zero there and says so in `measured`, so that noise and chi-square count only measured values. Operators are
frozen dataclasses of tensors, numbers and frozen modules. `to`, `select` and `stack` work on the fields.

A class whose observations may each have a mask or kernel of their own declares it, and writes no code for it:

    @dataclass(frozen=True, eq=False)
    class Gain(Operator):
        gain: Tensor
        per_observation: bool = False
        per_observation_fields: ClassVar[tuple[str, ...]] = ("gain",)
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, get_type_hints

import torch
from torch import Tensor, nn

from midguide.catalogue.base import Catalogue, Entry
from midguide.catalogue.shown import Shown, brief, fields_of
from midguide.errors import ConfigError, ShapeError
from midguide.maths import linalg
from midguide.maths.rng import Rng
from midguide.storage.record import describe


@dataclass(frozen=True, eq=False)
class Operator(Shown, ABC):
    """A measurement operator; subclasses say what it computes.

    Attributes:
        per_observation_fields: the fields that may hold one entry for each observation. Tensors do where
            `per_observation` is true, along their first axis; operators (and what has their `observations`, `select`
            and `stack`) say so themselves.
        made_from: name, settings and seed that `make_operator` made it from; None where it was made otherwise.
    """

    per_observation_fields: ClassVar[tuple[str, ...]] = ()
    made_from: Mapping[str, Any] | None = field(default=None, kw_only=True, repr=False)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The noiseless measurement of each row, shape (B, *event) -> (B, *measurement)."""

    def shown(self) -> Mapping[str, Any]:
        made, fields = self.made_from, fields_of(self)
        return fields if made is None else fields | {"made_from": f"{made['name']}({brief(made['settings'])})"}

    def measured(self, y: Tensor) -> Tensor:
        """Which entries of `y` were measured: boolean, broadcastable to the shape of `y`."""
        return torch.ones((), dtype=torch.bool, device=y.device)

    def log_volume(self, y: Tensor) -> Tensor:
        """Log of the factor by which the operator's weights scale volumes of measured values, float64, shape (B,)."""
        return y.new_zeros(len(y), dtype=torch.float64)

    @property
    def per_observation(self) -> bool:
        """Whether the tensors among `per_observation_fields` hold one entry for each observation."""
        return False

    @property
    def observations(self) -> int | None:
        """How many observations have an operator of their own (a mask or kernel each); None if one serves all."""
        for value in self._own().values():
            count = (
                value.observations if not isinstance(value, Tensor) else len(value) if self.per_observation else None
            )
            if count is not None:
                return count
        return None

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of the signals that it is made for; None if it takes any."""
        return None

    def select(self, rows: Tensor) -> Self:
        """The operator of the observations `rows` (indices, shape (B,)); itself where one serves all."""
        if self.observations is None:
            return self

        def picked(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows] if self.per_observation else value
            return value.select(rows)

        return replace(self, **{name: picked(value) for name, value in self._own().items()})

    def stack(self, others: Sequence[Operator], counts: Sequence[int] | None = None) -> Self:
        """One operator for the observations of this one and of others, in this order.

        Operators that are the same stay one that serves all. Else each observation keeps the entries of its own.

        Args:
            others: operators of the same class that differ in `per_observation_fields` only.
            counts: how many observations this one and each of the others serve; one by default, or those of their own.

        Raises:
            ShapeError: If they differ in something else, or their entries in shape or dtype.

        Example:
            >>> from midguide.operators.mask import Mask
            >>> left, right = torch.tensor([True, False]), torch.tensor([False, True])
            >>> Mask(left).stack([Mask(right)])(torch.ones(2, 2))
            tensor([[1., 0.],
                    [0., 1.]])
        """
        if self.observations is None and all(_same(self, other) for other in others):
            return self
        every = [self, *others]
        self._check_alike(others)
        counts = [operator.observations or 1 for operator in every] if counts is None else counts
        own = {name: _joined(name, every, counts) for name in self.per_observation_fields}
        flag = {"per_observation": True} if any(f.name == "per_observation" for f in fields(self)) else {}
        return replace(self, **own, **flag)

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.per_observation_fields}

    def _check_alike(self, others: Sequence[Operator]) -> None:
        """Refuse operators that differ in more than what each observation may have of its own."""
        shared = [f.name for f in fields(self) if f.repr and f.name not in (*self._own(), "per_observation")]
        for other in others:
            differing = [name for name in shared if not _same(getattr(self, name), getattr(other, name, None))]
            if type(other) is not type(self) or differing or not self.per_observation_fields:
                what = f"differ in {', '.join(differing)}" if type(other) is type(self) else "are of different classes"
                raise ShapeError(
                    f"{type(self).__name__} and {type(other).__name__} cannot be stacked: they {what}",
                    hint="observations may differ in the `per_observation_fields` of their operator",
                )

    def to(self, like: Tensor | torch.device | str | torch.dtype) -> Self:
        """The same operator with its floating tensors on the device and in the dtype of `like`."""

        def move(value: object) -> object:
            if isinstance(value, Operator):
                return value.to(like)
            if isinstance(value, tuple) and any(isinstance(item, Operator) for item in value):
                return tuple(move(item) for item in value)
            if isinstance(value, nn.Module):
                return copy.deepcopy(value).to(like)  # modules move in place
            if not isinstance(value, Tensor):
                return value
            if isinstance(like, Tensor) and not value.is_floating_point():
                return value.to(like.device)
            if isinstance(like, torch.dtype) and not value.is_floating_point():
                return value
            return value.to(like)

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self) if f.init})


@dataclass(frozen=True, eq=False)
class PseudoInvertibleOperator(Operator):
    """An operator with a pseudo-inverse, `h(h^+(h(x))) = h(x)`; it need not be linear."""

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor:
        """`h^+(y)`, shape (B, *measurement) -> (B, *event)."""


@dataclass(frozen=True, eq=False)
class LinearOperator(PseudoInvertibleOperator):
    """A linear operator `A`; pseudo-inverse and proximal step are conjugate gradients by default.

    A subclass defines `__call__`, shape (B, *event) -> (B, *measurement). `adjoint` goes back; without one, automatic
    differentiation derives it.

    Example:
        >>> class Twice(LinearOperator):
        ...     def __call__(self, x):
        ...         return 2 * x
        ...
        ...     def adjoint(self, y):
        ...         return 2 * y
        >>> Twice().adjoint(torch.ones(1, 2))
        tensor([[2., 2.]])
    """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """`A^T y`, shape (B, *measurement) -> (B, *event)."""

    def gram(self, x: Tensor) -> Tensor:
        """`A^T A x`."""
        return self.adjoint(self(x))

    def pinv(self, y: Tensor) -> Tensor:
        """`A^+ y`: the least-squares solution of least norm.

        Warns:
            ConvergenceWarning: it is approximate, since the operator is too badly conditioned.
        """
        return self._solve(self.gram, self.adjoint(y), "pseudo-inverse")

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        """`argmin_u ||y - A u||^2 + weight ||u - x||^2`, shape of x.

        Args:
            x: the point to stay near, shape (B, *event).
            y: the measurement, shape (B, *measurement).
            weight: positive weight of the distance to x.

        Warns:
            ConvergenceWarning: as for `pinv`.
        """

        def regularized(u: Tensor) -> Tensor:
            return self.gram(u) + weight * u

        return x + self._solve(regularized, self.adjoint(y - self(x)), "proximal step")

    def _solve(self, matrix: Callable[[Tensor], Tensor], b: Tensor, what: str) -> Tensor:
        return linalg.conjugate_gradients(
            matrix,
            b,
            tolerance=10 * torch.finfo(b.dtype).eps,
            max_iterations=2000,
            what=f"the {what} of {type(self).__name__}",
        )


@dataclass(frozen=True, eq=False)
class SVDOperator(LinearOperator):
    """A linear operator with a known singular value decomposition `A = U diag(s) V^T`.

    Coefficients of `x` are flat, shape (B, n) with n the number of entries of x. Where a singular value is zero, so is
    the coefficient on the side of the measurement.
    """

    @abstractmethod
    def singular_values(self, x: Tensor) -> Tensor:
        """The n singular values for inputs shaped like `x` (B, *event), zeros included: shape (n,) or (B, n)."""

    @abstractmethod
    def vt(self, x: Tensor) -> Tensor:
        """`V^T x`, shape (B, *event) -> (B, n)."""

    @abstractmethod
    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        """`V c`, shape (B, n) -> (B, *event), the shape of `like`."""

    def ut(self, y: Tensor) -> Tensor:
        """`U^T y = s^+ V^T A^T y`, shape (B, *measurement) -> (B, n), zero where s is zero."""
        x = self.adjoint(y)
        return self._inverse(self.singular_values(x)) * self.vt(x)

    def pinv(self, y: Tensor) -> Tensor:
        x = self.adjoint(y)
        return self.v(self._inverse(self.singular_values(x)) * self.ut(y), x)

    def prox(self, x: Tensor, y: Tensor, weight: float) -> Tensor:
        values = self.singular_values(x)
        # A^T r = V s U^T r would leave rounding errors on the null space, which a small weight makes large
        return x + self.v(values / (values**2 + weight) * self.ut(y - self(x)), x)

    @staticmethod
    def _inverse(values: Tensor) -> Tensor:
        """`1 / s`, and zero where s is zero up to rounding; each row has its own scale."""
        cut = values.amax(-1, keepdim=True) * torch.finfo(values.dtype).eps * 100
        return torch.where(values > cut, 1 / values.clamp_min(cut), 0.0)


KINDS: dict[type[Operator], str] = {
    SVDOperator: "linear, with SVD",
    LinearOperator: "linear",
    PseudoInvertibleOperator: "nonlinear, with pseudo-inverse",
    Operator: "nonlinear",
}
"""What an operator is, in words; the most capable class first."""


def kind(operator: type[Operator]) -> str:
    """What operators of a class are, in words."""
    return next(words for base, words in KINDS.items() if issubclass(operator, base))


def _check_factory(thing: Any) -> None:
    """Refuse what makes no operator."""
    made = get_type_hints(thing).get("return") if callable(thing) and not isinstance(thing, type) else thing
    if not (isinstance(made, type) and issubclass(made, Operator)):
        raise ConfigError(
            "it makes no operator",
            hint="a function (event_shape, *, seed=0, ...) -> Operator, its settings keyword-only and with types",
        )


def operator_class(entry: Entry[Operator]) -> type[Operator]:
    """The class of the operators that a factory makes."""
    return entry.thing if isinstance(entry.thing, type) else get_type_hints(entry.thing)["return"]


OPERATORS: Catalogue[Operator] = Catalogue(
    "operator",
    "midguide.operators",
    context=("seed",),
    check=_check_factory,
    columns=lambda entry: {"kind": kind(operator_class(entry)), **entry.facts},
)
"""Factories `(event_shape, *, seed=0, **settings)` of operators by name; `needs` says what a signal must be.

Lengths among the settings are those of an image with 256 pixels and scale with the image.
"""


def _same(a: object, b: object) -> bool:
    """Whether two operators, or fields of operators, give the same numbers."""
    return a is b or describe(a) == describe(b)


def _joined(name: str, operators: Sequence[Operator], counts: Sequence[int]) -> Any:
    """The entries of one field for all observations of operators that serve `counts` of them."""
    first, *others = (getattr(operator, name) for operator in operators)
    if not isinstance(first, Tensor):
        return first.stack(others, counts)
    rows = [
        value if operator.per_observation else value[None].expand(count, *value.shape)
        for operator, value, count in zip(operators, (first, *others), counts, strict=True)
    ]
    if len({(value.shape[1:], value.dtype) for value in rows}) > 1:
        shapes = ", ".join(str(tuple(value.shape[1:])) for value in rows)
        raise ShapeError(f"{name} of different shape or dtype cannot be stacked: {shapes}")
    return torch.cat(rows)


def check_rows(operator: Operator, batch: Tensor) -> None:
    """Refuse a batch that does not have one row per observation of `operator`."""
    if operator.observations not in (None, len(batch)):
        raise ShapeError(
            f"{type(operator).__name__} has {operator.observations} observations of its own, "
            f"the batch has {len(batch)} rows",
            hint="one operator for each row; operator.select(rows) gives that of any rows",
        )


LARGEST = 2**28
"""Most numbers that the arrays of an operator hold: 1 GiB in single precision."""


def check_entries(count: float, what: str) -> None:
    """Refuse, before they are made, arrays of more than `LARGEST` numbers.

    Raises:
        ConfigError: If there are more.
    """
    if not count <= LARGEST:
        raise ConfigError(f"{what} would hold {count:,.0f} numbers", hint=f"at most {LARGEST:,} (1 GiB)")


def observation_streams(seed: int, name: str, count: int | None) -> list[Rng]:
    """A random stream (seed, name, i) for each of `count` observations, or one for all of them if None.

    Raises:
        ConfigError: If `count` is less than 1.
    """
    if count is not None and count < 1:
        raise ConfigError(f"count must be at least 1, got {count}", hint="leave it out for one draw that serves all")
    check_entries(256 * (count or 1), "the random streams")
    return [Rng([(seed, name, i)]) for i in range(count or 1)]


def image_size(event_shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image of shape (..., H, W)."""
    if len(event_shape) < 2:
        raise ShapeError(
            f"expected an image of shape (..., H, W), got {event_shape}",
            hint="signals of one axis are not images",
        )
    return event_shape[-2], event_shape[-1]


def scaled(length: float, size: int) -> float:
    """A length given for an image of 256 pixels, in the pixels of an image of `size`."""
    return length * size / 256
