from __future__ import annotations

import numpy as np
import pytest
import torch

from midguide.errors import ConfigError
from midguide.maths.autodiff import vjp
from midguide.operators import HighDynamicRange


def test_it_is_numpys_clip(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(HighDynamicRange()(torch.from_numpy(x)).numpy(), np.clip(2 * x, -1, 1))


def test_derivative_is_the_scale_where_nothing_is_clipped_and_zero_elsewhere() -> None:
    _, pullback = vjp(HighDynamicRange(3.0), torch.tensor([[-0.5, -0.3, 0.0, 0.2, 0.4]]))
    assert pullback(torch.ones(1, 5)).tolist() == [[0.0, 3.0, 3.0, 3.0, 0.0]]


def test_pinv_explains_every_measurement_with_the_least_norm(rng: np.random.Generator) -> None:
    y = torch.from_numpy(rng.uniform(-1, 1, (2, 50))).clamp(-0.8, 1.0)
    operator = HighDynamicRange()
    solution = operator.pinv(y)
    torch.testing.assert_close(operator(solution), y, rtol=0.0, atol=0.0)
    assert not torch.equal(operator(0.999 * solution), y)  # any entry nearer to zero would be measured nearer to zero


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="positive and finite"):
        HighDynamicRange(scale)
