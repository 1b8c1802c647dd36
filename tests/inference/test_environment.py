"""What a caller sets around a run changes nothing, or is refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from midguide import Problem, load_prior, make_operator, make_sampler, sample
from midguide.errors import ConfigError
from midguide.nn.unet import UNetConfig
from midguide.priors.formats.native import save_prior
from midguide.priors.settings import PriorSettings
from midguide.testing.pieces import PROBLEMS


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def shortened_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "default dtype": double_precision,
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "shortened products": shortened_products,
    "deterministic algorithms": deterministic,
}


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("name", ["mgps", "dps", "mmps", "ddrm"])
def test_draws_do_not_depend_on_what_is_set_around_them(name: str, ambient: str) -> None:
    problem, sampler = PROBLEMS["vectors"](), make_sampler(name, {"steps": 6})
    want = sample(sampler, problem, 2).draws
    with AMBIENT[ambient]():
        assert torch.equal(sample(sampler, problem, 2).draws, want)


@pytest.mark.parametrize("ambient", AMBIENT)
def test_what_is_made_inside_is_what_is_made_outside(ambient: str, tmp_path: Path) -> None:
    network = UNetConfig(channels=32, multipliers=(1,), blocks=1, attention=(), patch=4)
    file = tmp_path / "prior.safetensors"
    save_prior(file, network.build().state_dict(), PriorSettings(network=network, event_shape=(3, 8, 8)))

    def made() -> Problem:
        prior = load_prior(file)
        operator = make_operator("random-inpainting", (3, 8, 8), seed=1, value_range=(-1.0, 1.0))
        truth = sample(make_sampler("unconditional", {"steps": 2}), Problem.unobserved(prior)).draws[0]
        return Problem.simulate(prior, operator, truth, sigma_y=0.1)

    want = sample(make_sampler("dps", {"steps": 2}), made(), 2).draws
    with AMBIENT[ambient]():
        inside = made()
    assert torch.equal(sample(make_sampler("dps", {"steps": 2}), inside, 2).draws, want)


def test_the_record_says_what_rounding_depends_on(tmp_path: Path) -> None:
    problem, sampler = PROBLEMS["vectors"](), make_sampler("dps", {"steps": 6})
    around = sample(sampler, problem, 2, chunk=3).record["environment"]
    assert around["rows_at_once"] == 3
    assert around["threads"] == torch.get_num_threads()
    assert around["torch"] == torch.__version__
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        sample(sampler, problem, 2, checkpoint=tmp_path / "run", observers=[Stop()])
    torch.set_num_threads(threads + 1)
    try:
        resumed = sample(sampler, problem, 2, checkpoint=tmp_path / "run").record
    finally:
        torch.set_num_threads(threads)
    assert (resumed["begun_in"]["threads"], resumed["environment"]["threads"]) == (threads, threads + 1)


class Stop:
    """An observer that acts as Ctrl-C in the third step."""

    def __init__(self) -> None:
        self.steps = 0

    def start(self, total: int, done: int) -> None: ...

    def step(self, event: object) -> None:
        self.steps += 1
        if self.steps == 3:
            raise KeyboardInterrupt

    def stop(self) -> None: ...


def test_inference_mode_is_refused() -> None:
    problem = PROBLEMS["vectors"]()
    with torch.inference_mode(), pytest.raises(ConfigError, match="inference_mode"):
        sample(make_sampler("dps", {"steps": 6}), problem)
    with torch.inference_mode(), pytest.raises(ConfigError, match="inference_mode"):
        make_operator("identity", (2,))
