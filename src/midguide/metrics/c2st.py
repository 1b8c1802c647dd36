"""Classifier two-sample test: how well a small network tells two clouds of samples apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.maths import autodiff
from midguide.maths.optim import Adam
from midguide.maths.rng import Rng
from midguide.metrics.base import Answer, Target, known, metric

HIDDEN, FOLDS, STEPS, BATCH = 64, 4, 300, 256


def c2st(a: Tensor, b: Tensor, *, seed: int = 0) -> float:
    """Cross-validated accuracy of a classifier between two clouds: 0.5 where they are not distinguishable, 1 at most.

    The classifier has one hidden layer of 64 units. In each of 4 folds 300 steps of Adam (rate 0.01, 256 rows a step)
    train it on standardized coordinates. The accuracy is that on the rows held out. By chance alone it has the standard
    deviation `0.5 / sqrt(2 n)`.

    Args:
        a: first cloud, shape (n, *event), n a multiple of 4 or cut to one.
        b: second cloud, shape (n, *event).
        seed: of the folds, the initial weights and the order of the rows.

    Raises:
        ShapeError: If the clouds differ in shape or have fewer than 8 rows.

    References: Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests".
    """
    if a.shape != b.shape or len(a) < 2 * FOLDS:
        raise ShapeError(
            f"the clouds have shapes {tuple(a.shape)} and {tuple(b.shape)}",
            hint=f"take as many of each, at least {2 * FOLDS}",
        )
    rng = Rng([(seed, "c2st")], size=1)
    x = torch.cat([a, b]).double().flatten(1)
    x = (x - x.mean(0)) / x.std(0).clamp_min(torch.finfo(torch.float64).eps)
    side = torch.cat([torch.ones(len(a)), -torch.ones(len(b))])
    order = rng.uniform(torch.empty(1, len(x)))[0].argsort()
    size = len(x) // FOLDS
    x, side = x[order].float()[: size * FOLDS], side[order][: size * FOLDS]
    held_out = torch.arange(size * FOLDS).reshape(FOLDS, size)
    trained_on = torch.stack([held_out[torch.arange(FOLDS) != fold].flatten() for fold in range(FOLDS)])
    weights = _train(x, side, trained_on, rng)
    right = _logits(weights, x[held_out]) * side[held_out] > 0
    return float(right.double().mean())


@metric(f"c2st[mlp={HIDDEN},folds={FOLDS}]", draws=2 * FOLDS)
def _of_exact_draws(answer: Answer, target: Target) -> float:
    """Accuracy of a small classifier between draws and exact draws; 0.5 where it finds no difference.

    It first resamples weighted draws, with seed 0 (`Answer.equal`). The classifier finds those that come twice.
    """
    return c2st(answer.equal.draws, known(target.draws, "exact draws"))


def _train(x: Tensor, side: Tensor, rows: Tensor, rng: Rng) -> Tensor:
    """The weights of one classifier per fold, shape (folds, weights), fitted to `rows`, shape (folds, m)."""
    d = x.shape[1]
    weights = torch.zeros(len(rows), HIDDEN * (d + 2) + 1)
    weights[:, : HIDDEN * d] = rng.normal(torch.empty(1, HIDDEN * d)) / math.sqrt(d)
    weights[:, -HIDDEN - 1 : -1] = rng.normal(torch.empty(1, HIDDEN)) / math.sqrt(HIDDEN)
    optimizer = Adam(rate=0.01)
    state = optimizer.init(weights)
    for _ in range(STEPS):
        picked = (rng.uniform(torch.empty(1, BATCH))[0] * rows.shape[1]).long()
        batch = rows[:, picked]
        inputs, labels = x[batch], side[batch]

        def loss(w: Tensor, inputs: Tensor = inputs, labels: Tensor = labels) -> tuple[Tensor, Tensor]:
            logits = _logits(w, inputs)
            return torch.nn.functional.softplus(-labels * logits).mean(1), logits

        _, gradient, _ = autodiff.value_and_grad(loss, weights)
        optimizer.update_(state, weights, gradient)
    return weights


def _logits(weights: Tensor, x: Tensor) -> Tensor:
    """(folds, weights) and (folds, rows, d) -> (folds, rows): one hidden layer with SiLU."""
    folds, _, d = x.shape
    first, bias, second, last = weights.split([HIDDEN * d, HIDDEN, HIDDEN, 1], dim=1)
    hidden = torch.baddbmm(bias[:, None], x, first.reshape(folds, d, HIDDEN))
    return torch.baddbmm(last[:, None], torch.nn.functional.silu(hidden), second[:, :, None])[..., 0]
