"""Operators of the library DeepInverse (tomography, MRI and others) as ours; it comes with the extra `deepinv`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from midguide.errors import ConfigError, reason
from midguide.maths.linalg import inner
from midguide.maths.rng import Rng
from midguide.operators.base import LinearOperator, Operator, SVDOperator

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""Operators that torchvision registers in compiled code; without them it cannot be imported."""
TOLERANCE = 1e-4  # relative; single precision breaks identities by less


@dataclass(frozen=True, eq=False)
class DeepInverse(Operator):
    """`y = A(x)` with the `A` of a `deepinv.physics.Physics`; build it with `from_deepinv`.

    It leaves out the library's noise model: noise belongs to the likelihood.

    Args:
        physics: the library's operator.
    """

    physics: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return _tensor(_physics(self).A(x), self)


@dataclass(frozen=True, eq=False)
class LinearDeepInverse(DeepInverse, LinearOperator):
    """The same with the adjoint `A_adjoint`; pseudo-inverse and proximal step are our conjugate gradients."""

    def adjoint(self, y: Tensor) -> Tensor:
        return _tensor(_physics(self).A_adjoint(y), self)


@dataclass(frozen=True, eq=False)
class SVDDeepInverse(LinearDeepInverse, SVDOperator):
    """The same with the singular values of a `DecomposablePhysics`, where `V` is a square map of real signals.

    Args:
        values: the singular values of one signal, shape (n,).
    """

    values: Tensor = field(repr=False, default_factory=lambda: torch.empty(0))

    def singular_values(self, x: Tensor) -> Tensor:
        return self.values.to(x)

    def vt(self, x: Tensor) -> Tensor:
        return _physics(self).V_adjoint(x).reshape(len(x), -1)

    def v(self, coefficients: Tensor, like: Tensor) -> Tensor:
        inside = _physics(self).V_adjoint(like[:1]).shape[1:]
        return _physics(self).V(coefficients.reshape(len(coefficients), *inside)).reshape(like.shape)


def from_deepinv(physics: Any, event_shape: tuple[int, ...] | None = None) -> DeepInverse:
    """An operator of the library DeepInverse as one of ours: linear if it is a `LinearPhysics`.

    One operator serves all observations. With an event shape, `from_deepinv` tries the operator once on random numbers.
    The operator must return one tensor of real numbers, and its adjoint must be an adjoint. Some adjoints of the
    library are approximations, such as that of tomography with `adjoint_via_backprop=False`. Samplers that used them
    would not be what they claim. It uses the decomposition of a `DecomposablePhysics` where it is one of real numbers.

    Args:
        physics: a `deepinv.physics.Physics`, with the device it lives on.
        event_shape: shape of one x.

    Raises:
        ConfigError: If the library is not installed, `physics` is not one of its operators, fails on such signals,
            returns several tensors or complex numbers, or has a wrong adjoint.

    Example:
        >>> operator = from_deepinv(deepinv.physics.Tomography(60, 64), (1, 64, 64))  # doctest: +SKIP
    """
    library = physics_of_deepinv()
    if not isinstance(physics, library.Physics):
        raise ConfigError(
            f"expected an operator of deepinv.physics, got {type(physics).__name__}",
            hint="for example deepinv.physics.Tomography(60, 64)",
        )
    if isinstance(physics, library.StackedPhysics):
        raise _several(physics)
    if event_shape is None:
        return LinearDeepInverse(physics) if isinstance(physics, library.LinearPhysics) else DeepInverse(physics)
    x, y = _tried(physics, event_shape)
    if not isinstance(physics, library.LinearPhysics):
        return DeepInverse(physics)
    _check_adjoint(physics, x, y)
    values = _values(physics, x) if isinstance(physics, library.DecomposablePhysics) else None
    return LinearDeepInverse(physics) if values is None else SVDDeepInverse(physics, values=values)


def physics_of_deepinv() -> Any:
    """The module `deepinv.physics`, also where torchvision and torch were built for different machines.

    Raises:
        ConfigError: If the library is not installed, or cannot be imported.
    """
    try:
        return _imported()
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"this needs the library deepinv, which cannot be imported: {reason(error)}",
            hint="pip install 'midguide[deepinv]'",
        ) from error


def _imported() -> Any:
    mend_torchvision()
    return importlib.import_module("deepinv.physics")


def mend_torchvision() -> None:
    """Make torchvision importable beside a torch that it was not compiled for, such as one for CPUs.

    Its compiled part, which is not needed here, cannot be loaded there, and what it would register is missing.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            library.define(schema)
        _kept.append(library)  # what a library defines ends with it


_kept: list[torch.library.Library] = []


def _physics(operator: DeepInverse) -> Any:
    """The library's object; its methods are unknown to type checkers where the library is missing."""
    return operator.physics


def _tensor(found: Any, operator: DeepInverse) -> Tensor:
    """What an operator returns, if it is one tensor."""
    if not isinstance(found, Tensor):
        raise _several(operator.physics)
    if found.is_complex():
        raise _complex(operator.physics)
    return found


def _several(physics: Any) -> ConfigError:
    return ConfigError(
        f"{type(physics).__name__} measures several tensors at once, which is one operator of several here",
        hint="convert each with from_deepinv, and join them with midguide's `stack`, each with a noise of its own",
    )


def _complex(physics: Any) -> ConfigError:
    return ConfigError(
        f"{type(physics).__name__} measures complex numbers of real signals",
        hint="real and imaginary part as two channels, as deepinv's MRI has them; or midguide's `fourier`",
    )


def _tried(physics: Any, event_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two random signals and what the operator makes of them.

    Raises:
        ConfigError: If it fails, gives several tensors, or complex signals for real ones to be measured.
    """
    tensors = [*physics.parameters(), *physics.buffers()]
    floating = next((t for t in tensors if t.is_floating_point()), torch.empty(()))
    x = Rng([(0, "from_deepinv"), (1, "from_deepinv")]).normal(floating.new_empty(2, *event_shape))
    name = type(physics).__name__
    try:
        y = physics.A(x)
    except Exception as error:  # whatever the library says of a shape
        raise ConfigError(
            f"{name} fails on signals of shape {event_shape}: {reason(error)}",
            hint="is this the shape of one signal, channels first? Batches of any size must be taken",
        ) from error
    if not isinstance(y, Tensor):
        raise _several(physics)
    if y.is_complex():
        raise _complex(physics)
    if len(y) != len(x):
        raise ConfigError(f"{name} gives {len(y)} measurements for {len(x)} signals", hint="one for each is needed")
    return x, y


def _check_adjoint(physics: Any, x: Tensor, y: Tensor) -> None:
    """Refuse an adjoint that breaks `<A x, y> = <x, A^T y>` by more than single precision does."""
    name, hint = type(physics).__name__, "look for a setting that makes it exact, such as adjoint_via_backprop=True"
    other = Rng([(2, "from_deepinv"), (3, "from_deepinv")]).normal(y)
    try:
        back = physics.A_adjoint(other)
    except Exception as error:  # whatever the library says
        raise ConfigError(f"the adjoint of {name} fails: {reason(error)}", hint=hint) from error
    if not isinstance(back, Tensor) or back.shape != x.shape:
        shape = tuple(back.shape) if isinstance(back, Tensor) else type(back).__name__
        raise ConfigError(f"the adjoint of {name} gives {shape}, expected {tuple(x.shape)}", hint=hint)
    if back.is_complex():
        raise ConfigError(
            f"the adjoint of {name} is complex for real signals",
            hint="give complex signals as two channels, as deepinv's MRI does, or wrap it in an operator of your own",
        )
    forward, backward = inner(y, other), inner(x, back)
    error = float(((forward - backward).abs() / (_norm(y) * _norm(other)).clamp_min(1e-30)).max())
    if not error < TOLERANCE:
        raise ConfigError(
            f"the adjoint of {name} is wrong: <A x, y> and <x, A^T y> differ by {error:.1e} of the norms", hint=hint
        )


def _norm(a: Tensor) -> Tensor:
    return inner(a, a).sqrt()


def _values(physics: Any, x: Tensor) -> Tensor | None:
    """The singular values for one signal where the decomposition is one of real, square `V`; else None."""
    try:
        with torch.no_grad():
            inside = physics.V_adjoint(x)
            values = torch.broadcast_to(physics.mask, inside.shape).contiguous()
            real = not (inside.is_complex() or values.is_complex()) and inside[0].numel() == x[0].numel()
            if not real or not torch.equal(values[0], values[1]) or bool((values < 0).any()):
                return None
            same = (
                (physics.V(inside), x),
                (physics.V(values.square() * inside), physics.A_adjoint(physics.A(x))),
            )
    except Exception:  # of the library: it has no decomposition that works for such signals
        return None
    close = all(
        a.shape == b.shape and float(_norm((a - b).flatten()[None])) <= TOLERANCE * float(_norm(b.flatten()[None]))
        for a, b in same
    )
    norms = torch.allclose(_norm(inside.flatten(1)), _norm(x.flatten(1)), rtol=TOLERANCE)
    return values[0].flatten().to(x) if close and norms else None
