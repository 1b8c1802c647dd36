"""A draw that stops being a number is named and set aside; the others are those of a run without it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from midguide import Samples, sample
from midguide.errors import ConfigError, NumericalError
from midguide.samplers import SAMPLERS
from midguide.samplers.base import Sign
from midguide.samplers.tds import TDS
from midguide.samplers.unconditional import Unconditional
from midguide.testing.pieces import latents, vectors

N = 4


@dataclass(frozen=True, kw_only=True)
class Fragile(Unconditional):
    """Draws whose first value at the start lies among the largest break at step 4."""

    signs = {"size": Sign(1e9, "draws are huge", "nothing")}
    threshold: float = math.inf
    spacing: float | None = 1.0

    def step(self, problem, state, t, s, rng):
        out = Unconditional.step(self, problem, state, t, s, rng)
        x = out.state.x_t
        breaks = (x[:, 0] > self.threshold) & (torch.tensor(s < 500) & torch.tensor(t >= 500))
        return out._replace(state=type(state)(torch.where(breaks[:, None], torch.nan, x)), info={"size": x[:, 0]})


def fragile(count: int) -> Fragile:
    """A sampler of which `count` draws of the vectors break, and not all of any observation."""
    sampler = Fragile(steps=6)
    values = []

    @dataclass(frozen=True, kw_only=True)
    class Look(Unconditional):
        def step(self, problem, state, t, s, rng):
            out = Unconditional.step(self, problem, state, t, s, rng)
            if s < 500 <= t:
                values.extend(out.state.x_t[:, 0].tolist())
            return out

    sample(Look(steps=6, spacing=1.0), vectors(), N)
    ordered = sorted(values)
    return Fragile(steps=sampler.steps, threshold=(ordered[-count] + ordered[-count - 1]) / 2)


@pytest.mark.parametrize("chunk", [None, 3, 1])
def test_the_others_are_those_of_a_run_without_it(chunk: int | None) -> None:
    whole, drawn = sample(Fragile(steps=6), vectors(), N), sample(fragile(1), vectors(), N, chunk=chunk)
    ((i, j, step),) = drawn.record["failed"]
    assert step == 4
    assert drawn.log_weight is not None
    assert drawn.log_weight[i, j] == -math.inf
    kept = torch.ones(2, N, dtype=torch.bool)
    kept[i, j] = False
    # rounding of products of batches of another size
    torch.testing.assert_close(drawn.draws[kept], whole.draws[kept])
    torch.testing.assert_close(drawn.mean()[i], whole.draws[i][kept[i]].mean(0))
    assert drawn.effective_sample_size().tolist() == [N - (i == 0), N - (i == 1)]
    assert bool(drawn.draws.isfinite().all())
    said = f"1 draws of observation {i} became NaN or infinite and were set aside: {j} (step 4)"
    assert any(line.startswith(said) for line in drawn.record["remarks"])


def test_what_failed_is_stored_and_belongs_to_its_observation(tmp_path: Path) -> None:
    drawn = sample(fragile(2), vectors(), N)
    drawn.save(tmp_path / "draws")
    loaded = Samples.load(tmp_path / "draws")
    assert loaded.record["failed"] == drawn.record["failed"]
    for i, part in enumerate(drawn.each()):
        mine = [place for place in drawn.record["failed"] if place[0] == i]
        assert any("set aside" in line for line in part.record.get("remarks", [])) == bool(mine)


def test_a_resumed_run_remembers_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, file = fragile(1), tmp_path / "run.progress"
    whole = sample(sampler, vectors(), N)
    step, calls = Fragile.step, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Fragile, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sample(sampler, vectors(), N, checkpoint=file, checkpoint_seconds=0.0)
    resumed = sample(sampler, vectors(), N, checkpoint=file)
    assert torch.equal(resumed.draws, whole.draws)
    assert resumed.record["failed"] == whole.record["failed"]


def test_it_stops_where_asked_to_and_where_nothing_is_left() -> None:
    with pytest.raises(NumericalError, match=r"NaN or infinity in x_t of 1 of 8 samples at step 4 \(time"):
        sample(fragile(1), vectors(), N, on_nan="stop")
    with pytest.raises(NumericalError, match="in x_t of 8 of 8 samples at step 4"):
        sample(Fragile(steps=6, threshold=-math.inf), vectors(), N)
    with pytest.raises(NumericalError, match="in every sample, first at step 4"):
        sample(Fragile(steps=6, threshold=-math.inf), vectors(), N, chunk=1)
    with pytest.raises(ConfigError, match="on_nan=`skip`"):
        sample(Fragile(steps=6), vectors(), N, on_nan="skip")  # pyright: ignore[reportArgumentType]


def test_a_group_fails_as_a_whole() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Broken(TDS):
        def step(self, problem, state, t, s, rng):
            out = TDS.step(self, problem, state, t, s, rng)
            x_t = out.state.x_t.clone()
            x_t[3] = math.nan
            return out._replace(state=out.state._replace(x_t=x_t))

    settings = SAMPLERS.resolve("tds:islands", {"steps": 6, "particles": 4})[1]
    drawn = sample(Broken(**settings), vectors(), 8)
    assert drawn.log_weight is not None
    assert drawn.log_weight[0].isneginf().tolist() == [True] * 4 + [False] * 4
    assert not bool(drawn.log_weight[1].isneginf().any())
    assert drawn.log_evidence is not None
    assert drawn.log_evidence[0].isneginf().tolist() == [True, False]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_of_any_sampler_fails_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One number of one state becomes NaN in the second step."""
    sampler = SAMPLERS.make(name, {"steps": 4})
    problem, group = latents() if sampler.needs.autoencoder else vectors(), sampler.needs.group
    n = 2 * group
    whole, kind, calls = sample(sampler, problem, n), type(sampler), list[int]()
    step = kind.step

    def broken(self, *arguments):
        out = step(self, *arguments)
        calls.append(1)
        if len(calls) != 2:
            return out
        fields, rows = out.state._asdict(), problem.observations * n
        field = next(key for key, value in fields.items() if torch.is_tensor(value) and len(value) == rows)
        value = fields[field].clone()
        value[group] = math.nan  # the first row of the second group
        return out._replace(state=out.state._replace(**{field: value}))

    monkeypatch.setattr(kind, "step", broken)
    drawn = sample(sampler, problem, n)
    assert drawn.record["failed"] == [[0, j, 2] for j in range(group, n)]
    kept = torch.ones(problem.observations, n, dtype=torch.bool)
    kept[0, group:] = False
    assert torch.equal(drawn.draws[kept], whole.draws[kept])
    assert drawn.log_weight is not None
    assert torch.equal(drawn.log_weight.isneginf(), ~kept)
    assert any("became NaN or infinite and were set aside" in line for line in drawn.record["remarks"])
    assert not any("of observation 0 collapsed" in line for line in drawn.record["remarks"]) or group > 1
