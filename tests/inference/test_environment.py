"""What a caller sets around a run changes nothing, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from midguide import make_sampler, sample
from midguide.errors import ConfigError
from midguide.testing.pieces import PROBLEMS


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "default dtype": double_precision,
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("name", ["mgps", "dps", "mmps", "ddrm"])
def test_draws_do_not_depend_on_what_is_set_around_them(name: str, ambient: str) -> None:
    problem, sampler = PROBLEMS["vectors"](), make_sampler(name, {"steps": 6})
    want = sample(sampler, problem, 2).draws
    with AMBIENT[ambient]():
        assert torch.equal(sample(sampler, problem, 2).draws, want)


def test_inference_mode_is_refused() -> None:
    problem = PROBLEMS["vectors"]()
    with torch.inference_mode(), pytest.raises(ConfigError, match="inference_mode"):
        sample(make_sampler("dps", {"steps": 6}), problem)
