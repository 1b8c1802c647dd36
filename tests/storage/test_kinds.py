"""Downloads, file modes and texts: what comes from outside does not choose where, how much or how it is shown."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from midguide.errors import CheckpointError, DataError, MidguideError
from midguide.storage import hub
from midguide.storage.files import replacing, replacing_folder


class Endless(BaseHTTPRequestHandler):
    """Sends more than it should, with or without saying so; `/away` points to another kind of address."""

    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/file")
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/said":
            self.send_header("Content-Length", str(2**40))
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(bytes(2**20))
        except OSError:
            pass

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    running = HTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.mark.parametrize("path", ["/said", "/unsaid"])
def test_a_download_larger_than_its_card_is_broken_off_and_not_kept(server: str, path: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected at most"):
        hub.download(server + path, tmp_path / "file.pt", size=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["file:///etc/hostname", "ftp://a/b", "http://example.org/a", "a", "", "data:,a"])
def test_other_addresses_than_https_are_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an address to download from"):
        hub.download(source, tmp_path / "file.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_points_to_another_kind_of_address_is_not_followed(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an address to download from"):
        hub.download(f"{server}/away", tmp_path / "file.pt")


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_what_lies_in_the_place_of_a_partial_download_is_not_written_to(kind: str, tmp_path: Path) -> None:
    partial, victim = tmp_path / "file.pt.partial", tmp_path / "victim"
    victim.write_text("precious")
    match kind:
        case "link":
            partial.symlink_to(victim)
        case "broken link":
            partial.symlink_to(tmp_path / "new")
        case "pipe":
            os.mkfifo(partial)
        case "folder":
            partial.mkdir()
    with pytest.raises(DataError, match="is not a file that a download left\nhint: remove it"):
        hub.download("http://127.0.0.1:9/file", tmp_path / "file.pt")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_all_outputs_have_the_mode_that_the_users_mask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)
        with replacing_folder(tmp_path / "out") as folder:
            save_file({"x": torch.zeros(1)}, folder / "b.safetensors")
            (folder / "c.json").write_text("{}")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


def test_messages_cannot_steer_a_terminal() -> None:
    error = MidguideError("no file \x1b[2J\x07 of\nerror: all \u202e fine", hint="a\rb")
    assert error.message == r"no file \x1b[2J\x07 of error: all \u202e fine"
    assert error.hint == "a b"
