"""Operators of single observations, joined into one: the class declares what each observation may have of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from midguide.errors import ShapeError
from midguide.operators import (
    BlockMean,
    CircularBlur,
    Decomposed,
    Identity,
    Mask,
    Matrix,
    Operator,
    ReflectBlur,
    compose,
    make_operator,
    rescaled,
)
from midguide.operators.base import check_rows
from midguide.testing import check_operator

SHAPE = (3, 16, 16)


@dataclass(frozen=True, eq=False)
class Gain(Operator):
    """A stranger's operator: it declares its field, and writes neither `select` nor `stack`."""

    gain: Tensor
    power: float = 1.0
    per_observation: bool = False
    per_observation_fields: ClassVar[tuple[str, ...]] = ("gain",)

    def __call__(self, x: Tensor) -> Tensor:
        check_rows(self, x)
        gain = self.gain if self.per_observation else self.gain[None]
        return (gain.to(x)[..., None, None] * x).sinh() ** self.power


def draw(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1


PAIRS: dict[str, Callable[[int], Operator]] = {
    "mask": lambda i: Mask(draw(2, 16, 16)[i] > 0.5),
    "circular blur": lambda i: CircularBlur(draw(2, 3, 3)[i]),
    "reflect blur": lambda i: ReflectBlur(draw(2, 3, 5)[i]),
    "decomposed": lambda i: Decomposed.create(ReflectBlur(draw(2, 3, 5)[i]), SHAPE[1:]),
    "matrix": lambda i: Matrix.create(draw(2, 7, 3 * 16 * 16)[i], SHAPE),
    "nonlinear blur": lambda i: make_operator("nonlinear-blur", SHAPE, seed=i),
    "rescaled": lambda i: rescaled(make_operator("nonlinear-blur", SHAPE, seed=i), (0.0, 1.0)),
    "outer differs": lambda i: compose(Mask(draw(2, 4, 4)[i] > 0.5), BlockMean(4)),
    "inner differs": lambda i: compose(BlockMean(4), CircularBlur(draw(2, 3, 3)[i])),
    "a stranger's": lambda i: Gain(draw(2, 3)[i]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_each_observation_is_measured_by_its_own_operator(name: str) -> None:
    one, other = PAIRS[name](0), PAIRS[name](1)
    x = draw(3, *SHAPE) - 0.6
    together = one.stack([other], [1, 2])
    assert together.observations == 3
    want = torch.cat([one(x[:1]), other(x[1:])])
    torch.testing.assert_close(together(x), want)
    more = together.stack([one])
    torch.testing.assert_close(more(torch.cat([x, x[:1]])), torch.cat([want, want[:1]]))
    check_operator(one.stack([other]), SHAPE, pinv_tolerance=torch.inf)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_operators_stay_one_that_serves_all(name: str) -> None:
    one, same = PAIRS[name](0), PAIRS[name](0)
    assert one.stack([same]) is one
    assert one.stack([one, one]) is one


def test_parts_that_operators_share_are_kept_once() -> None:
    together = PAIRS["inner differs"](0).stack([PAIRS["inner differs"](1)])
    assert vars(together)["outer"].observations is None
    assert vars(together)["inner"].observations == 2


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (Mask(torch.ones(4) > 0), Identity(), "Mask and Identity cannot be stacked: they are of different classes"),
        (BlockMean(2), BlockMean(4), "differ in factor"),
        (Gain(torch.ones(3)), Gain(torch.zeros(3), 2.0), "differ in power"),
        (CircularBlur(torch.ones(1, 3)), CircularBlur(torch.ones(3, 3)), "kernel of different shape"),
        (
            compose(BlockMean(2), Mask(torch.ones(4, 4) > 0)),
            compose(BlockMean(2), BlockMean(2)),
            "of different classes",
        ),
    ],
)
def test_operators_that_differ_in_more_are_not_stacked(one: Operator, other: Operator, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        one.stack([other])
