"""The contract of operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from midguide.maths.autodiff import vjp
from midguide.maths.linalg import inner, per_row
from midguide.operators.base import LinearOperator, Operator, PseudoInvertibleOperator, SVDOperator
from midguide.testing.contract import TOLERANCE, norm, require

# Pseudo-inverses divide rounding errors by the smallest singular value.
PINV_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
PROX_WEIGHTS = (0.01, 1.0)


def check_operator(
    operator: Operator,
    event_shape: tuple[int, ...],
    *,
    batch: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    pinv_tolerance: float | None = None,
) -> None:
    """Check everything that an operator promises, on random inputs in [-1, 1].

    Every operator: finite, keeps the dtype and its input, rows independent of their batch, hidden entries zero;
    `select` and `stack` undo each other. With a pseudo-inverse: `h(h^+(h(x))) = h(x)`. A linear one: linearity,
    `<A x, y> = <x, A^T y>`, the four identities of Moore and Penrose, optimality of the proximal step, derivative =
    adjoint. With an SVD: V orthogonal, `U^T A x = s V^T x`, agreement with conjugate gradients.

    Args:
        operator: what to check.
        event_shape: shape of one input.
        batch: rows to try, where the operator does not have observations of its own.
        dtype: float64, or float32 with looser tolerances.
        seed: seed of the inputs.
        pinv_tolerance: relative error allowed to pseudo-inverses, 1e-6 in float64 by default. Larger for nonlinear
            operators whose pseudo-inverse is an approximation; infinity for linear ones so ill-conditioned that
            conjugate gradients do not converge: it is then not checked.

    Raises:
        ContractError: If a fact is broken; names the first one.

    Example:
        >>> from midguide.operators import make_operator
        >>> check_operator(make_operator("super-resolution", (3, 8, 8)), (3, 8, 8))
    """
    operator = operator.to(dtype)
    rows = operator.observations or batch
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(rows, *event_shape, generator=generator, dtype=dtype) - 1
    x = per_row(torch.logspace(0, -3, rows, dtype=dtype), x) * x  # rows of unequal size expose batch-wide scales
    if pinv_tolerance is None:
        pinv_tolerance = PINV_TOLERANCE[dtype]
    _check_evaluation(operator, x)
    _check_stack(operator, x)
    if isinstance(operator, LinearOperator):
        y = torch.randn(operator(x).shape, generator=generator, dtype=dtype)
        y = torch.where(operator.measured(y), y, 0.0)
        _check_linear(operator, x, y)
        _check_prox(operator, x, y)
        if math.isfinite(pinv_tolerance):
            _check_pseudo_inverse(operator, x, y, pinv_tolerance)
        if isinstance(operator, SVDOperator):
            _check_svd(operator, x, y, pinv_tolerance)
    elif isinstance(operator, PseudoInvertibleOperator):
        _check_right_inverse(operator, operator(x), x.shape, pinv_tolerance)


def _check_evaluation(operator: Operator, x: Tensor) -> None:
    before = x.clone()
    y = operator(x)
    require(torch.equal(x, before), operator, "changes its input")
    require(bool(torch.isfinite(y).all()), operator, "gives values that are not finite")
    _check_rows(operator, "A(x)", lambda op, u: op(u), x)
    require(operator.measured(y).dtype == torch.bool, operator, "measured() is not boolean")
    hidden = ~operator.measured(y).expand(y.shape)
    require(not bool(y[hidden].any()), operator, "entries that are not measured are not zero")
    for dtype in TOLERANCE:
        got = operator.to(dtype)(x.to(dtype))
        require(got.dtype == dtype, operator, f"turns {dtype} into {got.dtype}")
    _, pullback = vjp(operator, x)
    require(bool(torch.isfinite(pullback(torch.ones_like(y))).all()), operator, "has a derivative that is not finite")


def _check_stack(operator: Operator, x: Tensor) -> None:
    """Single observations, taken out by `select`, measure the same once they are stacked, in any order."""
    want, tolerance = operator(x), 10 * TOLERANCE[x.dtype]
    count = operator.observations
    if count is None:
        stacked = operator.stack([operator] * (len(x) - 1))
        require(stacked.observations in (None, len(x)), operator, "stacked with itself, serves other observations")
        _close(operator, "A(x), stacked with itself", stacked(x), want, tolerance)
        return
    for order in (range(count), range(count - 1, -1, -1)):
        rows = torch.tensor(list(order))
        first, *others = (operator.select(row[None]) for row in rows)
        stacked = first.stack(others)
        require(
            stacked.observations == count, operator, f"stacked from {count} has {stacked.observations} observations"
        )
        _close(operator, "A(x), selected and stacked", stacked(x[rows]), want[rows], tolerance)
    twice = operator.stack([operator])
    _close(operator, "A(x), stacked twice", twice(torch.cat([x, x])), torch.cat([want, want]), tolerance)


def _check_linear(operator: LinearOperator, x: Tensor, y: Tensor) -> None:
    tolerance = TOLERANCE[x.dtype]
    u = x.flip(-1) + 0.5
    _close(
        operator, "A(2x - 3u) = 2 A(x) - 3 A(u)", operator(2 * x - 3 * u), 2 * operator(x) - 3 * operator(u), tolerance
    )
    single = operator.to(torch.float32)(x.float())
    _close(operator, "A(x) in single precision", single.to(x.dtype), operator(x), TOLERANCE[torch.float32])
    back = operator.adjoint(y)
    require(back.shape == x.shape, operator, f"A^T y has shape {tuple(back.shape)}, x {tuple(x.shape)}")
    require(back.dtype == y.dtype, operator, f"A^T turns {y.dtype} into {back.dtype}")
    image = operator(x)
    error = (inner(image, y) - inner(x, back)).abs()
    allowed = tolerance * (norm(image) * norm(y) + norm(x) * norm(back))
    require(bool((error <= allowed).all()), operator, f"<A x, y> = <x, A^T y> is off by {float(error.max()):.1e}")
    _close(operator, "the derivative is the adjoint", vjp(operator, x)[1](y), back, tolerance)
    _check_rows(operator, "A^T y", lambda op, v: op.adjoint(v), y)


def _check_pseudo_inverse(operator: LinearOperator, x: Tensor, y: Tensor, tolerance: float) -> None:
    """The four identities of Moore and Penrose; those of symmetry as `<P a, b> = <a, P b>` on random vectors."""
    image, solution = operator(x), operator.pinv(y)
    require(solution.shape == x.shape, operator, f"A^+ y has shape {tuple(solution.shape)}, x {tuple(x.shape)}")
    projected = operator.pinv(image)
    _close(operator, "A A^+ A x = A x", operator(projected), image, tolerance)
    _close(operator, "A^+ A A^+ y = A^+ y", operator.pinv(operator(solution)), solution, tolerance)
    z, u = y.flip(-1) + image, x.flip(-1) + 0.5
    on_range = inner(operator(solution), z) - inner(y, operator(operator.pinv(z)))
    on_events = inner(projected, u) - inner(x, operator.pinv(operator(u)))
    _small(operator, "A A^+ is symmetric", on_range, norm(y) * norm(z), tolerance)
    _small(operator, "A^+ A is symmetric", on_events, norm(x) * norm(u), tolerance)
    _check_rows(operator, "A^+ y", lambda op, v: op.pinv(v), y, tolerance=tolerance)


def _check_right_inverse(operator: PseudoInvertibleOperator, y: Tensor, shape: torch.Size, tolerance: float) -> None:
    """`h(h^+(y)) = y` for measurements y of inputs of this shape."""
    solution = operator.pinv(y)
    require(solution.shape == shape, operator, f"h^+(y) has shape {tuple(solution.shape)}, x {tuple(shape)}")
    _check_rows(operator, "h^+(y)", lambda op, v: op.pinv(v), y)
    _close(operator, "h(h^+(h(x))) = h(x)", operator(solution), y, tolerance)


def _check_prox(operator: LinearOperator, x: Tensor, y: Tensor) -> None:
    for weight in PROX_WEIGHTS:
        u = operator.prox(x, y, weight)
        gradient = operator.adjoint(operator(u) - y) + weight * (u - x)
        scale = operator.adjoint(y).abs() + operator.gram(x).abs() + weight * (u.abs() + x.abs())
        _small(operator, f"prox is optimal at weight {weight}", gradient, scale, 10 * TOLERANCE[x.dtype])
        _check_rows(operator, "prox(x, y)", lambda op, a, b, w=weight: op.prox(a, b, w), x, y)


def _check_svd(operator: SVDOperator, x: Tensor, y: Tensor, pinv_tolerance: float) -> None:
    tolerance = TOLERANCE[x.dtype]
    values, coefficients, image = operator.singular_values(x), operator.vt(x), operator(x)
    n = x[0].numel()
    require(coefficients.shape == (len(x), n), operator, f"V^T x has shape {tuple(coefficients.shape)}, not (B, {n})")
    require(values.shape in ((n,), (len(x), n)), operator, f"s has shape {tuple(values.shape)}, not ({n},) or (B, {n})")
    require(bool((values >= 0).all()), operator, "has negative singular values")
    _close(operator, "V V^T x = x", operator.v(coefficients, x), x, tolerance)
    flat = x.flatten(1)
    _close(operator, "V^T V c = c", operator.vt(operator.v(flat, x)), flat, tolerance)
    _close(operator, "|V^T x| = |x|", norm(coefficients), norm(x), tolerance)
    _close(operator, "U^T A x = s V^T x", operator.ut(image), values * coefficients, tolerance)
    _close(operator, "|A x| = |s V^T x|", norm(image), norm(values * coefficients), tolerance)
    require(not bool(operator.ut(y)[(values == 0).expand(len(y), n)].any()), operator, "U^T y is not zero where s is")
    if math.isfinite(pinv_tolerance):
        want = LinearOperator.pinv(operator, y)
        _close(operator, "A^+ y by conjugate gradients", operator.pinv(y), want, pinv_tolerance)
    for weight in PROX_WEIGHTS:
        want = LinearOperator.prox(operator, x, y, weight)
        _close(operator, "prox by conjugate gradients", operator.prox(x, y, weight), want, 10 * tolerance)


def _check_rows(
    operator: Operator, name: str, apply: Callable[..., Tensor], *inputs: Tensor, tolerance: float | None = None
) -> None:
    """Row i alone gives row i of the batch; `select` repeats and reorders observations."""
    tolerance = 10 * TOLERANCE[inputs[0].dtype] if tolerance is None else tolerance
    together = apply(operator, *inputs)
    require(together.dtype == inputs[0].dtype, operator, f"{name} turns {inputs[0].dtype} into {together.dtype}")
    for i in range(len(inputs[0])):
        rows = torch.tensor([i])
        alone = apply(operator.select(rows), *(value[rows] for value in inputs))
        _close(operator, f"{name} of row {i} does not depend on its batch", alone, together[rows], tolerance)
    rows = torch.tensor([len(inputs[0]) - 1, 0, 0])
    picked = apply(operator.select(rows), *(value[rows] for value in inputs))
    _close(operator, f"{name} follows select()", picked, together[rows], tolerance)


def _close(operator: Operator, fact: str, got: Tensor, want: Tensor, tolerance: float) -> None:
    require(got.shape == want.shape, operator, f"{fact}: shape {tuple(got.shape)} instead of {tuple(want.shape)}")
    _small(operator, fact, got - want, want, tolerance)


def _small(operator: Operator, fact: str, error: Tensor, scale: Tensor, tolerance: float) -> None:
    """Each row of `error` is at most `tolerance` times that of `scale`."""
    sizes, allowed = norm(error), tolerance * norm(scale)
    relative = float((sizes / norm(scale).clamp_min(torch.finfo(error.dtype).tiny)).max())
    require(bool((sizes <= allowed).all()), operator, f"{fact}: relative error {relative:.1e}, allowed {tolerance:.0e}")
