"""Operators of the library DeepInverse (tomography, MRI and others) as ours; it comes with the extra `deepinv`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from midguide.errors import ConfigError
from midguide.maths.linalg import inner
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator


@dataclass(frozen=True, eq=False)
class DeepInverse(Operator):
    """`y = A(x)` with the `A` of a `deepinv.physics.Physics`; build it with `from_deepinv`.

    The library's noise model is left out: noise belongs to the likelihood.

    Args:
        physics: the library's operator.
    """

    physics: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return _physics(self).A(x)


@dataclass(frozen=True, eq=False)
class LinearDeepInverse(DeepInverse, LinearOperator):
    """The same with the adjoint `A_adjoint`; pseudo-inverse and proximal step are our conjugate gradients."""

    def adjoint(self, y: Tensor) -> Tensor:
        return _physics(self).A_adjoint(y)


def from_deepinv(physics: Any, event_shape: tuple[int, ...] | None = None) -> DeepInverse:
    """An operator of the library DeepInverse as one of ours: linear if it is a `LinearPhysics`.

    One operator serves all observations. Some adjoints of the library are approximations (that of tomography with
    `adjoint_via_backprop=False`); samplers that use them would not be what they claim, so give the event shape to have
    the adjoint tested.

    Args:
        physics: a `deepinv.physics.Physics`, with the device it lives on.
        event_shape: shape of one x, to test `<A x, y> = <x, A^T y>` once on random numbers.

    Raises:
        ConfigError: the library is not installed, `physics` is none of its operators, or its adjoint is none.

    Example:
        >>> operator = from_deepinv(deepinv.physics.Tomography(60, 64), (1, 64, 64))  # doctest: +SKIP
    """
    try:
        library = importlib.import_module("deepinv.physics")
    except ImportError as error:
        raise ConfigError(
            f"from_deepinv needs the library deepinv, which cannot be imported: {error}",
            hint="pip install 'midguide[deepinv]'",
        ) from error
    if not isinstance(physics, library.Physics):
        raise ConfigError(
            f"expected an operator of deepinv.physics, got {type(physics).__name__}",
            hint="for example deepinv.physics.Tomography(60, 64)",
        )
    if not isinstance(physics, library.LinearPhysics):
        return DeepInverse(physics)
    operator = LinearDeepInverse(physics)
    if event_shape is not None:
        _check_adjoint(operator, event_shape)
    return operator


def _physics(operator: DeepInverse) -> Any:
    """The library's object; its methods are unknown to type checkers where the library is missing."""
    return operator.physics


def _check_adjoint(operator: LinearDeepInverse, event_shape: tuple[int, ...]) -> None:
    """Refuse an adjoint that breaks `<A x, y> = <x, A^T y>` by more than single precision does."""
    tensors = [*operator.physics.parameters(), *operator.physics.buffers()]
    floating = next((t for t in tensors if t.is_floating_point()), torch.empty(()))
    rng = Rng([(0, "from_deepinv")])
    x = rng.normal(floating.new_empty(1, *event_shape))
    image = operator(x)
    y = rng.normal(image)
    forward, backward = inner(image, y), inner(x, operator.adjoint(y))
    error = float(((forward - backward).abs() / (image.norm() * y.norm())).max())
    if not error < 1e-4:
        raise ConfigError(
            f"the adjoint of {type(operator.physics).__name__} is none: <A x, y> and <x, A^T y> differ by {error:.1e} "
            "of the norms",
            hint="look for a setting that makes it exact, such as adjoint_via_backprop=True",
        )
