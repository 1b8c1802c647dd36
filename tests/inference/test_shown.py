"""What things say of themselves on a console and in a notebook: short, and escaped."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
import torch

from midguide import Problem, Samples, make_operator, make_sampler, observe, sample
from midguide.catalogue import shown
from midguide.diffusion.schedules import DiscreteVP
from midguide.errors import ShapeError
from midguide.inference.cost import Cost
from midguide.inference.observers import Line, Progress, with_progress
from midguide.operators import Identity, Mask, Operator
from midguide.priors import Gaussian, GaussianMixture
from midguide.samplers.base import SAMPLERS

EVIL = "<script>alert('x')</script>"


def problem(*shape: int) -> Problem:
    prior = Gaussian(torch.zeros(shape), 1.0)
    return Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.5)


def drawn(asked: Problem, n: int = 6) -> Samples:
    draws = asked.denoiser.posterior(asked.likelihood).sample(n)[None]  # pyright: ignore[reportAttributeAccessIssue]
    tensors = {"y": asked.likelihood.y, "truth": asked.truth}
    return Samples(draws, Cost(0, 0, 0, 0), {"remarks": [EVIL]}, tensors, problem=asked)


class Balanced(HTMLParser):
    """Notes tags that are not closed, and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


THINGS = {
    "problem": problem(3, 16, 16),
    "samples": drawn(problem(1, 16, 16)),
    "mask": Mask(torch.ones(64, 64, dtype=torch.bool)),
    "blur": make_operator("gaussian-blur", (1, 16, 16)),
    "likelihood": observe(Identity(), torch.zeros(1, 500), 0.1),
    "prior": Gaussian(torch.zeros(500), 1.0),
    "mixture": GaussianMixture(torch.ones(50) / 50, torch.zeros(50, 4), torch.eye(4).expand(50, 4, 4)),
    "schedule": DiscreteVP.linear(),
    "sampler": make_sampler("mgps"),
}


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_says_in_a_few_words_what_it_is(name: str) -> None:
    text = repr(THINGS[name])
    assert len(text) <= shown.LONGEST
    assert "tensor(" not in text
    assert text.startswith(f"{type(THINGS[name]).__name__}(")


@pytest.mark.parametrize("name", THINGS)
def test_a_page_of_a_thing_is_whole_and_runs_nothing(name: str) -> None:
    page = Balanced(THINGS[name]._repr_html_())
    assert page.open == []
    assert page.scripts == 0


def test_every_sampler_shows_its_settings_in_a_notebook() -> None:
    assert all(hasattr(entry.thing, "_repr_html_") for entry in SAMPLERS.values())


def test_names_from_outside_are_escaped() -> None:
    @dataclass(frozen=True, eq=False)
    class Named(Operator):
        title: str

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert "<script" not in Named(EVIL)._repr_html_()
    assert "<script" not in THINGS["samples"]._repr_html_()
    assert "&lt;script" in THINGS["samples"]._repr_html_()
    assert "<script" not in shown.thumbnail(torch.zeros(8, 8), EVIL)
    assert "<script" not in drawn(problem(3)).summary()._repr_html_()


def test_a_dataclass_below_an_operator_does_not_print_its_tensors() -> None:
    @dataclass(frozen=True, eq=False)
    class Mine(Operator):
        weights: torch.Tensor

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert repr(Mine(torch.zeros(9, 9))) == "Mine(weights=float32 (9, 9))"


def test_draws_are_shown_with_a_picture_and_the_verdict() -> None:
    page = drawn(problem(1, 16, 16))._repr_html_()
    assert "data:image/png;base64," in page
    assert "Not seen by any check" in page


def test_summary_of_a_vector_has_its_quantiles_with_their_weights() -> None:
    draws = torch.tensor([[[0.0], [1.0], [2.0]]])
    weighted = Samples(draws, Cost(0, 0, 0, 0), {}, log_weight=torch.tensor([[0.0, 0.0, -1e9]], dtype=torch.float64))
    row = dict(zip(weighted.summary().columns, weighted.summary().rows[0], strict=False))
    assert (row["mean"], row["median"]) == ("0.5", "0.5")
    assert "effective sample size: 2.0 of 3" in repr(weighted.summary())


def test_summary_of_many_entries_has_a_row_for_each_channel() -> None:
    assert [row[0] for row in drawn(problem(3, 16, 16)).summary().rows] == ["average 0", "average 1", "average 2"]


def test_an_observation_that_does_not_exist_is_refused() -> None:
    samples = drawn(problem(3))
    for show in (samples.summary, samples.plot):
        with pytest.raises(ShapeError, match="no observation 1"):
            show(1)


def test_loaded_draws_know_what_they_are(tmp_path: object) -> None:
    asked = problem(3)
    result = sample(make_sampler("mgps", {"steps": 3}), asked, 2)
    result.save(f"{tmp_path}/out")
    loaded = Samples.load(f"{tmp_path}/out")
    assert loaded.signal == result.signal


def test_progress_is_silent_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    sample(make_sampler("mgps", {"steps": 3}), problem(2))
    assert capfd.readouterr() == ("", "")


def test_progress_shows_on_a_terminal_and_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(each) for each in with_progress((), True)] == [Line]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert [type(each) for each in with_progress((), None)] == [Progress]
    assert with_progress((), False) == []
    bar = Progress("mine")
    assert with_progress([bar], None) == [bar]


def test_a_line_of_progress_counts_steps(capsys: pytest.CaptureFixture[str]) -> None:
    sample(make_sampler("mgps", {"steps": 3}), problem(2), progress=True)
    assert "step 2 of 2" in capsys.readouterr().err
