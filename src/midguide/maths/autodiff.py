"""Derivatives of batched functions. The only file that calls `requires_grad_`; inputs are never modified.

Every function here maps rows to rows, so one backward pass of the sum over rows gives each row its own derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def value_and_grad(f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and by-product of a function of each row.

    Args:
        f: maps x, shape (B, ...), to (value, extra): the value of each row, shape (B,), and any tensor.
        x: where to differentiate, shape (B, ...).

    Returns:
        value: shape (B,).
        gradient: d value[b] / d x[b], shape of x.
        extra: the second output of `f`, without a graph.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value, extra = f(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient, extra.detach()


def vjp(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`f(x)` and its pullback, the map from a vector w to `w^T df/dx`, shape of x.

    Call the pullback any number of times; each call is one backward pass. It keeps what the pass needs until it goes
    out of scope itself.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        out = f(x)

    def pullback(vector: Tensor) -> Tensor:
        return torch.autograd.grad(out, x, vector, retain_graph=True)[0]

    return out.detach(), pullback


def jvp(f: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """`f(x)` and `df/dx tangent`, by forward-mode differentiation."""
    with torch.no_grad(), forward_ad.dual_level():
        value, derivative = forward_ad.unpack_dual(f(forward_ad.make_dual(x.detach(), tangent)))
    return value.detach(), torch.zeros_like(value) if derivative is None else derivative.detach()


@dataclass(frozen=True)
class Derivative:
    """The derivative of a function at a point, as a linear map with its adjoint, row by row.

    Args:
        apply: `v -> df/dx v`.
        pull: `w -> (df/dx)^T w`.
    """

    apply: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint applied to y."""
        return self.pull(y)


def linearize(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Derivative]:
    """`f(x)` and the derivative of f at x; both maps may be called any number of times.

    The adjoint is differentiated in its argument, in which it is linear, to give the derivative itself.
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        out = f(x)
        dual = torch.zeros_like(out).requires_grad_(True)
        (pulled,) = torch.autograd.grad(out, x, dual, create_graph=True)

    def apply(v: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, dual, v, retain_graph=True)[0]

    def pull(w: Tensor) -> Tensor:
        return torch.autograd.grad(out, x, w, retain_graph=True)[0]

    return out.detach(), Derivative(apply, pull)


def with_pullback(f: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]], x: Tensor) -> Tensor:
    """The value of a function that knows its derivative, which is then taken from it; there is no second one.

    Under the transforms of `torch.func`, which take no derivatives from outside, the function itself is differentiated.

    Args:
        f: maps x to its value and to its pullback, the map from a vector w to `w^T df/dx`, shape of x.
        x: where to evaluate, shape (B, ...).
    """
    transformed = torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]
    return _WithPullback.apply(f, x) if torch.is_grad_enabled() and not transformed else f(x)[0]


class _WithPullback(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]], x: Tensor) -> Tensor:
        value, ctx.pullback = f(x)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, vector: Tensor) -> tuple[None, Tensor]:
        return None, ctx.pullback(vector)


def sparse_product(matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
    """`A x` for each row of x with a sparse matrix, and its derivatives of any order through the transpose.

    Args:
        matrix: A, sparse, shape (m, d).
        transpose: `A^T`, sparse, shape (d, m).
        x: shape (B, d).

    Returns:
        Shape (B, m).
    """
    return _SparseProduct.apply(matrix, transpose, x)


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.matrices = transpose, matrix
        if x.is_meta:  # torch has no sparse products without storage
            return x.new_empty(len(x), len(matrix))
        return (matrix @ x.mT).mT.contiguous()

    @staticmethod
    def backward(ctx: Any, vector: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _SparseProduct.apply(*ctx.matrices, vector)

    @staticmethod
    def jvp(ctx: Any, _matrix: None, _transpose: None, tangent: Tensor) -> Tensor:
        return _SparseProduct.apply(*reversed(ctx.matrices), tangent)


def frozen(module: nn.Module) -> nn.Module:
    """The same module in evaluation mode, its parameters excluded from differentiation."""
    return module.eval().requires_grad_(False)


def checkpointed(network: nn.Module | Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The network with its blocks recomputed when a derivative is taken, instead of kept in memory.

    A block is the smallest module with two or more convolutions or linear layers: a residual block, an attention
    layer. A callable that is not a module is one block.
    """
    if not isinstance(network, nn.Module):
        return _recomputing(network)
    for block in _blocks(network):
        block.forward = _recomputing(block.forward)
    return network


def compiled(network: nn.Module | Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The network through `torch.compile`, with pullbacks that can be called again.

    By default compiled code writes over what a derivative needs while it takes it, and torch then refuses a second one.
    The setting that turns this off holds for the process.
    """
    torch._functorch.config.donated_buffer = False
    return torch.compile(network)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any, **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **settings)
        # in evaluation mode nothing is drawn, so that the global random state need not be kept
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **settings)

    return run


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The smallest modules with at least two layers of weights, outermost of equals."""
    layers = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    if sum(isinstance(part, layers) for part in module.modules()) < 2:
        return []
    inner = [block for child in module.children() for block in _blocks(child)]
    # containers without a forward of their own are never called
    return inner or ([] if isinstance(module, nn.ModuleList | nn.ModuleDict) else [module])
