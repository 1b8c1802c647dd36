"""What torch lets a caller set around a run, and a run must not depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from midguide.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def fixed_environment() -> Iterator[None]:
    """No ambient mixed precision and no default device inside; a network's own precision is its wrapper's matter.

    Raises:
        ConfigError: If `torch.inference_mode` is on: samplers differentiate the network.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError(
            "nothing can be sampled inside torch.inference_mode: samplers differentiate the network",
            hint="leave it out; `sample` keeps no graph",
        )
    with ExitStack() as stack:
        stack.enter_context(torch.device("cpu"))  # where a tensor belongs is said by those that it is made from
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def in_fixed_environment(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run inside `fixed_environment`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with fixed_environment():
            return function(*args, **kwargs)

    return run
