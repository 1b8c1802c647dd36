"""The independent oracle of these tests: any linear operator as a dense matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from midguide.operators import Operator

Dense = Callable[[Operator, tuple[int, ...]], np.ndarray]


@pytest.fixture
def dense() -> Dense:
    """`dense(operator, event_shape)`: the matrix whose columns are the images of the basis vectors, shape (m, d)."""

    def build(operator: Operator, event_shape: tuple[int, ...]) -> np.ndarray:
        basis = torch.eye(math.prod(event_shape), dtype=torch.float64)
        return operator(basis.unflatten(1, event_shape)).flatten(1).numpy().T

    return build


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
