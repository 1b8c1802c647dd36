"""The pages in a real browser. They run where playwright and a Chromium are found: `apt-get install chromium`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from midguide import load_prior
from midguide.data.images import load_image
from midguide.priors import Gaussian
from midguide.priors.base import Denoiser
from midguide.signals.base import Signal
from midguide.web.base import Viewed
from midguide.web.page import as_html
from midguide.web.play import Playground, Server

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
WAIT = 60_000  # milliseconds, for machines that do much else


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as run:
        started = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=WAIT)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test on any error of a script and on any request to another place."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    opened, faults = context.new_page(), []
    opened.set_default_timeout(WAIT)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    local = ("file:", "data:", "http://127.0.0.1:")
    opened.on("request", lambda asked: None if asked.url.startswith(local) else faults.append(asked.url))
    yield opened
    context.close()
    assert faults == []


def opened(page: Any, folder: Path, viewed: Viewed) -> None:
    (folder / "view.html").write_text(as_html(viewed), encoding="utf-8")
    page.goto((folder / "view.html").as_uri())


def image() -> Viewed:
    draws = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 6, 8) / 3
    evil = "<img src=x onerror=document.title='taken'>"
    verdict = [{"check": "misfit", "line": evil, "advice": evil}]
    signal = Signal(shape=(1, 6, 8), value_range=(0.0, 1.0))
    return Viewed(title=evil, draws=draws, signal=signal, truth=draws[2], verdict=verdict, facts={evil: evil})


def shade(page: Any) -> int:
    """The red of the first pixel that is shown."""
    return page.locator("#view").evaluate("c => c.getContext('2d').getImageData(0, 0, 1, 1).data[0]")


def test_keys_and_buttons_flip_through_the_draws(page: Any, tmp_path: Path) -> None:
    opened(page, tmp_path, image())
    counter = page.locator("#counter")
    assert (counter.text_content(), shade(page)) == ("draw 1 of 4", 0)
    page.keyboard.press("n")
    assert (counter.text_content(), shade(page)) == ("draw 2 of 4", 85)
    page.get_by_role("button", name="next draw").click()
    assert (counter.text_content(), shade(page)) == ("draw 3 of 4", 170)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("p")
    page.keyboard.press("p")
    assert (counter.text_content(), shade(page)) == ("draw 4 of 4", 255)
    page.keyboard.press("m")
    assert (counter.text_content(), shade(page)) == ("mean", 128)
    page.get_by_role("button", name="truth", exact=True).click()
    assert shade(page) == 170
    assert page.get_by_role("button", name="truth", exact=True).get_attribute("aria-pressed") == "true"


def test_the_pointer_and_the_arrows_choose_the_pixel(page: Any, tmp_path: Path) -> None:
    opened(page, tmp_path, image())
    page.locator("#view").hover(position={"x": 2, "y": 2})
    assert page.locator("#where").text_content() == "At the pointer: row 0, column 0"
    page.locator("#view").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator("#where").text_content() == "At the pointer: row 1, column 1"
    assert "mean 0.5" in page.locator("#values").text_content()
    assert "truth 0.667" in page.locator("#values").text_content()


def test_what_comes_from_outside_runs_nothing(page: Any, tmp_path: Path) -> None:
    opened(page, tmp_path, image())
    assert "taken" != page.title()
    assert page.locator("img").count() == 0
    assert "1 of 1 numbers are outside" in page.locator("#verdict").text_content()


def test_a_phone_shows_all_of_it(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    opened(page, tmp_path, image())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.get_by_role("button").all():
        assert (button.text_content() or "").strip() or button.get_attribute("aria-label")


def test_signals_have_rows_and_volumes_have_slices(page: Any, tmp_path: Path) -> None:
    draws = torch.randn(5, 3, 90, generator=torch.Generator().manual_seed(0))
    opened(page, tmp_path, Viewed(title="rows", draws=draws, signal=Signal(shape=(3, 90)), truth=draws[0]))
    page.keyboard.press("t")
    page.locator("#view").hover(position={"x": 300, "y": 150})
    assert page.locator("#where").text_content().startswith("At the pointer: entry")
    volume = torch.rand(3, 9, 6, 6, generator=torch.Generator().manual_seed(0))
    opened(page, tmp_path, Viewed(title="volume", draws=volume, signal=Signal(shape=(9, 6, 6))))
    page.locator("#slice").fill("8")
    assert page.locator("#place").text_content() == "8"


@contextmanager
def playing(page: Any, name: str, prior: Denoiser, folder: Path) -> Iterator[None]:
    """A page of `play` that shows its first picture."""
    server = Server(Playground(name, prior, folder), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        page.goto(server.address)
        api.expect(page.locator("#picture")).to_have_attribute("data-number", "0", timeout=WAIT)
        yield
    finally:
        server.playground.job.end()
        server.shutdown()
        server.server_close()
        thread.join()


def paint(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """One fast stroke of the pointer, between shares of the picture."""
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + box["width"] * start[0], box["y"] + box["height"] * start[1])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end[0], box["y"] + box["height"] * end[1])
    page.mouse.up()


def draw(page: Any, **fields: str) -> str:
    """What the page says once its draws are there."""
    for name, value in fields.items():
        page.locator(f"#{name}").fill(value)
    page.locator("#draw").click()
    api.expect(page.locator("#progress")).to_contain_text("done", timeout=WAIT)
    return page.locator("#progress").text_content()


def test_play_draws_what_may_be_behind_a_painted_mask(page: Any, tmp_path: Path) -> None:
    prior = Gaussian(torch.zeros(1, 8, 8), 0.1)
    prior.value_range = (-1.0, 1.0)
    with playing(page, "mine", prior, tmp_path / "out"):
        paint(page, (0.2, 0.5), (0.3, 0.6))
        page.locator("#sampler").select_option("mgps")
        draw(page, samples="3", steps="5")
        assert page.locator("#draws canvas").count() == 3
        assert "midguide reconstruct" in page.locator("#command").text_content()
        assert page.locator("#verdict table").count() == 1
        page.locator("#steps").fill("2000")
        page.locator("#form").evaluate("form => { form.noValidate = true; }")
        page.locator("#draw").click()
        api.expect(page.locator("#progress")).to_contain_text("steps must be an integer", timeout=WAIT)


@pytest.mark.parametrize("name", ["faces-64", "faces-64-latent"])
def test_play_paints_over_a_face_and_draws_faces(page: Any, tmp_path: Path, name: str) -> None:
    with playing(page, name, load_prior(name), tmp_path / "out"):
        assert "A portrait that the prior has never seen." in page.locator("#about").text_content()
        paint(page, (0.3, 0.6), (0.7, 0.6))
        assert "matheron" in draw(page, samples="2", steps="2") or name == "faces-64-latent"
        row = load_image(tmp_path / "out" / "mask.png", (1, 64, 64), value_range=(0.0, 1.0))[0, 0, 38]
        assert not row[20:44].any()
        assert row[:10].all()
        sizes = page.locator("#draws canvas").evaluate_all("all => all.map(c => [c.width, c.height])")
        assert sizes == [[64, 64]] * 2
        page.locator("#erase").check()
        paint(page, (0.3, 0.6), (0.7, 0.6))
        assert page.evaluate("state.mask.every(Boolean)")
