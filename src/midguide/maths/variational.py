"""Gaussian fits to a likelihood times an isotropic Gaussian: by gradient steps, and in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from midguide.maths.covariance import Linear, combined, definite_solve, krylov
from midguide.maths.optim import Optimizer, UpdateRule
from midguide.maths.rng import Rng


class Isotropic(NamedTuple):
    """An isotropic Gaussian: mean of shape (B, *event), standard deviation."""

    mean: Tensor
    std: float


def draw_fitted(
    score: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Isotropic,
    prior: Isotropic,
    count: int,
    optimizer: Optimizer,
    rng: Rng,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit `N(mu, diag(exp(2 rho)))` from `start` to a likelihood times `prior`; a draw, and the last prediction.

    The third tensor says how far the fit was from its optimum at the last step. It is the root mean square over entries
    of the gradient in mu times the standard deviation, shape (B,). At the optimum it is the noise of the one draw z, at
    most about 1.

    Each of the `count` steps descends, with one reparameterized draw z, the gradient of
    `E_z[-log likelihood(mu + exp(rho) z)] + KL(N(mu, diag(exp(2 rho))) || prior)`.

    Args:
        score: maps x to the gradient of the log-likelihood and to a prediction, both of the shape of x.
        start: where mean and standard deviation begin.
        prior: the other factor of the target.
        count: gradient steps.
        optimizer: update rule of mu and rho, started afresh.
        rng: random streams of the rows.
    """
    mu, rho = start.mean.clone(), torch.full_like(start.mean, math.log(start.std))
    std, precision = torch.full_like(mu, start.std), 1 / prior.std**2
    minus_one = mu.new_full((), -1)
    rule = cast(UpdateRule, optimizer)
    mu_state, rho_state = rule.init(mu), rule.init(rho)
    prediction, away = mu, mu.new_zeros(len(mu))
    for _ in range(count):
        noise = rng.normal(mu).mul_(std)
        uphill, prediction = score(mu + noise)
        by_rho = torch.addcmul(minus_one, std, std, value=precision).addcmul_(noise, uphill, value=-1)
        by_mu = (mu - prior.mean).mul_(precision).sub_(uphill)
        away = (by_mu * std).flatten(1).square().mean(1).sqrt()
        rule.update_(mu_state, mu, by_mu)
        rule.update_(rho_state, rho, by_rho)
        torch.exp(rho, out=std)
    return torch.addcmul(mu, std, rng.normal(mu)), prediction, away


class Seen(NamedTuple):
    """What is observed of x near a point: `residual - B J (x - point)`, with unit noise.

    Args:
        residual: at the point, shape of what is observed.
        pull: the product with J, symmetric, in the shape of x.
        operator: B, of what J maps to.
        open: `C = open J` is the covariance of what J maps to, given x, which adds the noise `B C B^T`.
    """

    residual: Tensor
    pull: Callable[[Tensor], Tensor]
    operator: Linear
    open: float


class Pulled(NamedTuple):
    """A draw from a fit in closed form, and how well it was solved.

    Args:
        value: the draw, shape of the point.
        left: norm of what the Krylov space left of the residual, in standard deviations of the noise, shape (B,).
        indefinite: whether directions were left out for their negative curvature, shape (B,).
    """

    value: Tensor
    left: Tensor
    indefinite: Tensor


def pulled(point: Tensor, variance: Tensor, seen: Seen, noise: Tensor, directions: int) -> Pulled:
    """A draw of `N(m, v I)` given an observation that is linear, from a draw without it: Matheron's rule.

    `point + v J B^T (B (v J J + C) B^T + I)^-1 (residual - noise)`, in `2 directions` products with J. The system is
    solved in a Krylov space; what that does not reach stays as it was.

    Args:
        point: the draw of `N(m, v I)`, around which is linearized, shape (B, *event).
        variance: v, shape (B, 1, ...).
        seen: the observation.
        noise: a draw of its noise, shape of the residual.
        directions: of the Krylov space; no more than there are observed values are used.
    """
    moved = list[Tensor]()

    def apply(q: Tensor) -> Tensor:
        back = seen.operator.adjoint(q)
        moved.append(variance * seen.pull(back))
        return seen.operator(seen.pull(moved[-1] + seen.open * back)) + q

    r = seen.residual - noise
    space = krylov(apply, r, min(directions, math.prod(r.shape[1:])))
    weights, indefinite = definite_solve(space, torch.ones_like(space.size, dtype=torch.float64))
    left = (r - combined(weights, space.images)).flatten(1).norm(dim=1)
    return Pulled(point + combined(weights, moved), left, indefinite)
