"""The server of `midguide play`, without a browser: who may ask, what may be asked, what comes back."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from midguide import Samples
from midguide.cli import main
from midguide.errors import UnsupportedProblem
from midguide.priors import Gaussian
from midguide.web.play import Playground, Server

SHAPE = (1, 8, 8)
HALF = base64.b64encode(bytes([1] * 32 + [0] * 32)).decode()


def prior() -> Gaussian:
    """A prior of images that says its range."""
    made = Gaussian(torch.zeros(SHAPE), 0.1)
    made.value_range = (-1.0, 1.0)
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(Playground("mine", prior(), tmp_path / "play"), 0)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def ask(server: Server, place: str, body: Any = None, *, token: str = "", host: str = "") -> tuple[int, str]:
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    given = None if body is None else body if isinstance(body, str) else json.dumps(body)
    headers = {"Host": host or f"127.0.0.1:{port}"}
    connection.request("GET" if body is None else "POST", f"/{token or server.token}/{place}", given, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def finished(server: Server) -> dict[str, Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        told = json.loads(ask(server, "state")[1])
        if told["finished"]:
            return told
        time.sleep(0.02)
    raise AssertionError("the run does not end")


def test_it_listens_to_this_machine_only(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_nobody_without_the_token_or_under_another_host_is_answered(server: Server) -> None:
    assert ask(server, "")[0] == 200
    assert ask(server, "", token="guess")[0] == 404
    assert ask(server, "state", host="evil.example:80")[0] == 404
    assert ask(server, "draw", {}, token="guess")[0] == 404
    assert ask(server, "../secrets")[0] == 404


def test_draws_come_with_a_verdict_and_the_command_that_repeats_them(server: Server) -> None:
    asked = {"mask": HALF, "samples": 3, "seed": 5, "steps": 5, "sampler": "mgps"}
    assert json.loads(ask(server, "draw", asked)[1]) == {}
    told = finished(server)
    assert told["error"] == ""
    assert [len(base64.b64decode(each)) for each in told["pictures"]] == [64] * 3
    assert (told["done"], told["total"]) == (4, 4)
    assert told["verdict"]
    assert told["command"].endswith("--sigma 0.05 --sampler mgps --steps 5 --samples 3 --seed 5")


def test_the_command_draws_the_same(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(server, "draw", {"mask": HALF, "samples": 2, "steps": 5, "sampler": "mgps"})
    told = finished(server)
    known = server.playground.prior
    monkeypatch.setattr("midguide.priors.loading.load_prior", lambda *given, **named: known)
    words = told["command"].split()[1:]
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    again = Samples.load(tmp_path / "again").draws[0]
    shown = torch.tensor([list(base64.b64decode(each)) for each in told["pictures"]]).reshape(again.shape)
    assert torch.equal((127.5 * (again + 1)).clamp(0, 255).round().long(), shown)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"samples": 99}, "samples must be an integer from 1 to 16"),
        ({"samples": True}, "samples must be"),
        ({"sigma": -1}, "sigma must be positive"),
        ({"sigma": "x"}, "sigma must be positive"),
        ({"operator": "/etc/passwd"}, "no such operator"),
        ({"sampler": "file.py:Mine"}, "no such operator or sampler"),
        ({"mask": "AAA="}, "the mask has 2 pixels"),
        ({"mask": "?"}, "not base64"),
        ({"mask": base64.b64encode(bytes(64)).decode()}, "hides everything"),
        ({"unknown": 1}, "this is not a request"),
        ([], "this is not a request"),
        ("{", "this is not a request"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(server: Server, body: Any, said: str) -> None:
    error = json.loads(ask(server, "draw", body)[1])["error"]
    assert said in error
    assert "\n" not in error


def test_a_run_can_be_stopped(server: Server) -> None:
    ask(server, "draw", {"mask": HALF, "steps": 1000, "sampler": "mgps", "samples": 16})
    ask(server, "stop", {})
    assert finished(server)["error"] == "stopped"


def test_a_taken_port_is_one_clear_line(server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    port = server.server_address[1]
    assert main(["play", "--port", str(port), "--no-browser", "--out", str(tmp_path / "out")]) == 2
    assert f"error: port {port} cannot be used" in capsys.readouterr().err


def test_a_port_is_free_again_after_the_end(tmp_path: Path) -> None:
    made = Server(Playground("mine", prior(), tmp_path), 0)
    port = made.server_address[1]
    made.server_close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_a_prior_that_draws_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedProblem, match=r"`mine` has signals of shape \(3,\), and `play` paints over images"):
        Playground("mine", Gaussian(torch.zeros(3), 1.0), tmp_path)
    unbounded = Gaussian(torch.zeros(SHAPE), 1.0)
    with pytest.raises(UnsupportedProblem, match="`mine` states no value range"):
        Playground("mine", unbounded, tmp_path)
