"""The Gaussian with independent entries that is nearest to a likelihood times an isotropic Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

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
) -> tuple[Tensor, Tensor]:
    """Fit `N(mu, diag(exp(2 rho)))` from `start` to a likelihood times `prior`; a draw, and the last prediction.

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
    prediction = mu
    for _ in range(count):
        noise = rng.normal(mu).mul_(std)
        uphill, prediction = score(mu + noise)
        by_rho = torch.addcmul(minus_one, std, std, value=precision).addcmul_(noise, uphill, value=-1)
        by_mu = (mu - prior.mean).mul_(precision).sub_(uphill)
        rule.update_(mu_state, mu, by_mu)
        rule.update_(rho_state, rho, by_rho)
        torch.exp(rho, out=std)
    return torch.addcmul(mu, std, rng.normal(mu)), prediction
