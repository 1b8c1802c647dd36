"""Pages of results: what they hold, what they escape, what they refuse. Browsers are in `test_browser.py`."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from midguide import Problem, Samples, make_sampler, sample
from midguide.cli import main
from midguide.errors import MidguideError
from midguide.inference.cost import Cost
from midguide.operators import Identity
from midguide.priors import Gaussian
from midguide.signals.base import Signal
from midguide.web.base import READERS, Viewed, read
from midguide.web.page import as_html

EVIL = "</script><script>document.title='taken'</script>"
SHAPES = [(2,), (100,), (3, 40), (1, 8, 8), (3, 8, 8), (9, 8, 8), (1, 9, 8, 8), (5, 3, 8, 8)]


def drawn(shape: tuple[int, ...] = (1, 8, 8), n: int = 5) -> Samples:
    values = torch.randn(2, n, *shape, generator=torch.Generator().manual_seed(0))
    return Samples(values, Cost(1, 0, 1, 0), {"seed": 3}, {"truth": values[:, 0], "y": values[:, 1]})


def content(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # pyright: ignore[reportOptionalSubscript]


def values(page: str, name: str) -> np.ndarray:
    told = content(page)
    plane = next(each for each in told["planes"] if each["name"] == name)
    kind = {8: np.uint8, 16: np.dtype("<u2")}[plane["bits"]]
    count = int(np.prod(plane["shape"]))
    raw = np.frombuffer(base64.b64decode(told["values"]), np.uint8)[plane["start"] :].tobytes()
    steps = np.frombuffer(raw, kind, count).astype(float) / (2 ** plane["bits"] - 1)
    return (plane["low"] + (plane["high"] - plane["low"]) * steps).reshape(plane["shape"])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_page_holds_draws_and_statistics_of_every_body(shape: tuple[int, ...], tmp_path: Path) -> None:
    drawn(shape).save(tmp_path / "out")
    page = as_html(read(tmp_path / "out", 1))
    names = {plane["name"] for plane in content(page)["planes"]}
    assert names >= {"draw 1", "draw 5", "mean", "std", "5 %", "median", "95 %", "truth"}


def test_values_on_a_page_are_those_of_the_draws() -> None:
    samples = drawn((3, 40))
    page = as_html(Viewed(title="t", draws=samples.draws[0], signal=Signal(shape=(3, 40), unit_size=2.0)))
    # 16 bits over a range of about 14 units: half a step is 1e-4
    np.testing.assert_allclose(values(page, "draw 2"), 2 * samples.draws[0, 1].numpy(), atol=2e-4)
    np.testing.assert_allclose(values(page, "mean"), 2 * samples.mean()[0].numpy(), atol=2e-4)


def test_statistics_on_a_page_use_the_weights() -> None:
    draws = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    page = as_html(Viewed(title="t", draws=draws, signal=Signal(shape=(1, 8, 8)), weights=weights))
    assert values(page, "mean").mean() == pytest.approx(0.75)


def test_a_page_asks_nothing_of_any_network() -> None:
    page = as_html(Viewed(title="t", draws=drawn().draws[0], signal=Signal(shape=(1, 8, 8))))
    assert "default-src 'none'" in page
    assert not re.findall(r"https?://|<link|src=", page)


def test_what_comes_from_outside_is_escaped() -> None:
    verdict = [{"check": EVIL, "line": EVIL, "advice": EVIL}]
    draws, signal = drawn().draws[0], Signal(shape=(1, 8, 8), unit=EVIL)
    page = as_html(Viewed(title=EVIL, draws=draws, signal=signal, verdict=verdict, facts={EVIL: EVIL}))
    assert page.count("<script") == 2
    assert EVIL not in page
    assert content(page)["title"] == EVIL


def test_more_draws_than_fit_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midguide.web.page.MOST_VALUES", 3 * 64)
    told = content(as_html(Viewed(title="t", draws=drawn().draws[0], signal=Signal(shape=(1, 8, 8)))))
    assert told["about"].startswith("5 draws, of which 3 are shown")
    assert sum(plane["name"].startswith("draw ") for plane in told["planes"]) == 3


def test_the_command_writes_the_page_beside_the_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn().save(tmp_path / "out")
    assert main(["view", str(tmp_path / "out"), "--no-browser"]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "out" / "view.html"
    assert (tmp_path / "out" / "view.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_bare_file_of_draws_can_be_viewed(tmp_path: Path) -> None:
    save_file({"draws": torch.zeros(1, 3, 2, 20)}, tmp_path / "mine.safetensors")
    assert len(read(tmp_path / "mine.safetensors").draws) == 3


@pytest.mark.parametrize("name", ["draws.zarr", "draws.nc"])
def test_a_store_of_draws_can_be_viewed(name: str, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="needs the extra 'arrays'")
    prior = Gaussian(torch.zeros(1, 8, 8), 1.0)
    problem = Problem.simulate(prior, Identity(), prior.sample(1), sigma_y=0.5)
    stored = sample(make_sampler("mgps", {"steps": 3}), problem, 2, out=tmp_path / name)
    assert repr(stored).endswith("draws=2 of each of 1 observations, signals=(1, 8, 8))")
    assert torch.equal(read(tmp_path / name).draws, stored.draws[0])


def test_a_reconstructed_electrocardiogram_has_leads_and_a_time_axis(tmp_path: Path) -> None:
    from midguide.domains.ecg.leads import TWELVE

    arrays = {"samples_mv": np.zeros((3, 12, 50)), "observed": np.ones((12, 50), bool), "truth_mv": np.zeros((12, 50))}
    np.savez(tmp_path / "samples.npz", leads=np.array(TWELVE), rate_hz=np.array(100.0), allow_pickle=False, **arrays)
    told = content(as_html(read(tmp_path)))
    assert (told["labels"][3], told["rate"], told["unit"]) == ("aVR", 100.0, "mV")
    assert {"truth", "measured"} <= {plane["name"] for plane in told["planes"]}


def damaged(folder: Path) -> dict[str, Path]:
    drawn().save(folder / "cut")
    whole = (folder / "cut" / "samples.safetensors").read_bytes()
    (folder / "cut" / "samples.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "foreign").mkdir()
    (folder / "foreign" / "notes.txt").write_text("hello")
    (folder / "npz").mkdir()
    (folder / "npz" / "samples.npz").write_bytes(b"PK nothing")
    save_file({"weights": torch.zeros(3)}, folder / "other.safetensors")
    save_file({"draws": torch.full((1, 2, 1, 8, 8), torch.nan)}, folder / "nan.safetensors")
    (folder / "text.safetensors").write_text("hello")
    drawn().save(folder / "metrics")
    (folder / "metrics" / "metrics.json").write_text("{")
    (folder / "verdict").mkdir()
    drawn().save(folder / "verdict")
    (folder / "verdict" / "metrics.json").write_text('{"verdict": [1]}')
    drawn((2, 2, 2, 2, 2)).save(folder / "axes")
    names = ("cut", "foreign", "npz", "other.safetensors", "nan.safetensors", "text.safetensors", "metrics", "verdict")
    return {name: folder / name for name in (*names, "axes", "absent")}


def test_what_is_damaged_or_foreign_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, path in damaged(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        assert main(["view", str(path), "--no-browser"]) == 2, name
        said = capsys.readouterr()
        assert said.out == ""
        assert len([line for line in said.err.splitlines() if line.startswith("error: ")]) == 1, said.err
        assert sorted(tmp_path.rglob("*")) == before, f"{name}: something was written"


def test_an_observation_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    drawn().save(tmp_path / "out")
    with pytest.raises(MidguideError, match="no observation 2"):
        read(tmp_path / "out", 2)


def test_readers_are_listed() -> None:
    assert {"samples", "ecg"} <= set(READERS)
