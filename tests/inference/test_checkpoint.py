"""A damaged file of progress is refused: no flipped bit becomes another result."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from midguide import make_sampler, sample
from midguide.errors import CheckpointError
from midguide.priors.gaussian import Gaussian
from midguide.testing.pieces import vectors

SAMPLER = make_sampler("dps", {"steps": 8})


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file of a run that was interrupted in its second chunk."""
    step, calls = type(SAMPLER).step, []

    def broken(self, *arguments):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(SAMPLER), "step", broken)
        with pytest.raises(KeyboardInterrupt):
            sample(SAMPLER, vectors(), 2, chunk=2, checkpoint=tmp_path / "run.progress")
    return (tmp_path / "run.progress").read_bytes()


def test_a_flipped_bit_is_refused_or_changes_nothing(interrupted: bytes, tmp_path: Path) -> None:
    want, said, rng = sample(SAMPLER, vectors(), 2, chunk=2).draws, list[str](), random.Random(0)
    for _ in range(200):
        damaged, place = bytearray(interrupted), rng.randrange(len(interrupted))
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / "damaged.progress").write_bytes(damaged)
        try:
            drawn = sample(SAMPLER, vectors(), 2, chunk=2, checkpoint=tmp_path / "damaged.progress").draws
        except CheckpointError as error:
            said.append(str(error))
        else:
            assert torch.equal(drawn, want)
    assert len(said) > 150
    assert {line.count("\n") for line in said} == {1}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"<html></html>", b"\x00" * 100], ids=["empty", "json", "html", "zeros"]
)
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.progress").write_bytes(content)
    with pytest.raises(CheckpointError, match="^checkpoint of a sampling run .* cannot be read"):
        sample(SAMPLER, vectors(), 2, checkpoint=tmp_path / "run.progress")


def test_a_shortened_file_is_refused(interrupted: bytes, tmp_path: Path) -> None:
    for length in range(0, len(interrupted), 97):
        (tmp_path / "run.progress").write_bytes(interrupted[:length])
        with pytest.raises(CheckpointError):
            sample(SAMPLER, vectors(), 2, chunk=2, checkpoint=tmp_path / "run.progress")


def test_the_file_of_another_prior_problem_sampler_or_seed_is_refused(interrupted: bytes, tmp_path: Path) -> None:
    problem = vectors()
    file = tmp_path / "run.progress"
    file.write_bytes(interrupted)
    prior = Gaussian(torch.full(problem.signal_shape, 0.5), 1.0)
    moved = replace(problem.likelihood, y=problem.likelihood.y + 1e-6)
    others = [
        (SAMPLER, replace(problem, denoiser=prior), {}, "`prior.mean` is another"),
        (SAMPLER, replace(problem, likelihood=moved), {}, "`likelihood.y` is another"),
        (make_sampler("dps", {"steps": 9}), problem, {}, "`sampler.settings.steps` was 8, is 9"),
        (SAMPLER, problem, {"seed": 1}, "`seed` was 0, is 1"),
        (SAMPLER, problem, {"chunk": 1}, "`chunk` was 2, is 1"),
    ]
    for sampler, other, options, words in others:
        with pytest.raises(CheckpointError, match=f"belongs to another run: {words}"):
            sample(sampler, other, 2, checkpoint=file, **{"chunk": 2, **options})
    assert file.read_bytes() == interrupted
