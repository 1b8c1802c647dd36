"""What torch lets a caller set around a run, and a run must not depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

from midguide.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def fixed_environment() -> Iterator[None]:
    """Inside, there are no ambient mixed precision, default device or default dtype, and products have full precision.

    A network's own precision is its wrapper's matter.

    Raises:
        ConfigError: If `torch.inference_mode` is on: samplers differentiate the network.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError(
            "nothing can be made or sampled inside torch.inference_mode: samplers differentiate the network",
            hint="leave it out; `sample` keeps no graph",
        )
    dtype, products = torch.get_default_dtype(), _products()
    with ExitStack() as stack:
        stack.enter_context(torch.device("cpu"))  # where a tensor belongs is said by those that it is made from
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if dtype is not torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if products in ("high", "medium"):
            stack.callback(torch.set_float32_matmul_precision, products)
            torch.set_float32_matmul_precision("highest")
        yield


def in_fixed_environment(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run inside `fixed_environment`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with fixed_environment():
            return function(*args, **kwargs)

    return run


def environment(device: torch.device) -> dict[str, Any]:
    """What draws depend on up to rounding, as JSON: the library, its threads, and how a GPU shortens products."""
    found: dict[str, Any] = {"torch": str(torch.__version__), "device": device.type}
    found |= {"threads": torch.get_num_threads(), "matmul": _products()}
    found |= {"deterministic": torch.are_deterministic_algorithms_enabled()}
    return found | ({"convolutions_in_tf32": torch.backends.cudnn.allow_tf32} if device.type == "cuda" else {})


def _products() -> str:
    """How exact products of float32 are; torch refuses to say it where both of its interfaces were used."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "unknown"
