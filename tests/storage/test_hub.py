"""Downloads against a local server: complete and verified, or not in the cache at all."""

import hashlib
import io
import os
import pty
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from rich.progress import Progress

from midguide.cli import main
from midguide.errors import CheckpointError, DataError
from midguide.nn.adm_unet import ADMConfig, ADMUNet
from midguide.priors.formats.guided_diffusion import PUBLIC
from midguide.priors.loading import load_prior
from midguide.storage import hub

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it serves, how far it gets before it breaks off, and the ranges that it was asked for."""

    content: bytes = CONTENT
    stop_after: int | None = None
    sized: bool = True
    tag: str = '"one"'
    kind: str = "application/octet-stream"
    busy: bool = False
    ranges: list = field(default_factory=list)
    address: str = ""


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/file.pt":
                self.send_error(404)
                return
            if state.busy:
                self.send_error(503)
                return
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            start = 0
            if wanted and self.headers.get("If-Range") == state.tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if state.sized:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", state.kind)
            self.send_header("ETag", state.tag)
            self.end_headers()
            self.wfile.write(body if state.stop_after is None else body[: state.stop_after])

        def log_message(self, *arguments):
            """Nothing on stderr."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *arguments: None)  # of clients that hang up
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{running.server_port}/file.pt"
        yield state
        running.shutdown()
        thread.join()


@contextmanager
def refused(kind, *words):
    """One line that holds the words, and a hint."""
    with pytest.raises(kind) as caught:
        yield
    assert "\n" not in caught.value.message
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_download_has_the_bytes_and_leaves_nothing_else(server, tmp_path):
    hub.download(server.address, tmp_path / "cache" / "file.pt", sha256=SHA256)
    assert files(tmp_path / "cache") == ["file.pt"]
    assert (tmp_path / "cache" / "file.pt").read_bytes() == CONTENT


def test_an_interrupted_download_is_not_in_the_cache_and_goes_on_where_it_stopped(server, tmp_path):
    server.stop_after = 300_000
    with refused(DataError, "300,000 of 1,048,576 bytes", "try again"):
        hub.download(server.address, tmp_path / "file.pt", sha256=SHA256)
    assert not (tmp_path / "file.pt").exists()
    server.stop_after = None
    hub.download(server.address, tmp_path / "file.pt", sha256=SHA256)
    assert server.ranges == [None, "bytes=300000-"]
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert files(tmp_path) == ["file.pt"]


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(server, tmp_path):
    server.stop_after = 300_000
    with refused(DataError, "broke off"):
        hub.download(server.address, tmp_path / "file.pt")
    server.stop_after, server.tag, server.content = None, '"two"', CONTENT[::-1]
    hub.download(server.address, tmp_path / "file.pt")
    assert (tmp_path / "file.pt").read_bytes() == CONTENT[::-1]


def test_a_file_of_another_sum_is_not_kept(server, tmp_path):
    with refused(CheckpointError, "sha256", SHA256[:12]):
        hub.download(server.address, tmp_path / "file.pt", sha256="0" * 64)
    assert files(tmp_path) == []


def test_a_web_page_in_place_of_the_file_is_not_kept(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with refused(DataError, "web page"):
        hub.download(server.address, tmp_path / "file.pt")
    assert files(tmp_path) == []


def test_a_missing_file_is_one_line(server, tmp_path):
    with refused(DataError, "404"):
        hub.download(server.address.replace("file", "other"), tmp_path / "file.pt")
    assert files(tmp_path) == []


def test_a_busy_server_costs_nothing_of_what_is_there(server, tmp_path):
    server.stop_after = 300_000
    with refused(DataError, "broke off"):
        hub.download(server.address, tmp_path / "file.pt")
    server.stop_after, server.busy = None, True
    with refused(DataError, "503"):
        hub.download(server.address, tmp_path / "file.pt")
    server.busy = False
    hub.download(server.address, tmp_path / "file.pt", sha256=SHA256)
    assert server.ranges == [None, "bytes=300000-"]


def test_no_connection_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with refused(DataError, "cannot be downloaded", "network"):
        hub.download("http://127.0.0.1:9/file.pt", tmp_path / "file.pt")
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "taken").write_text("")
    with refused(DataError, "cannot write"):
        hub.download(server.address, tmp_path / "taken" / "file.pt")


def test_two_processes_do_not_write_one_download(server, tmp_path):
    import fcntl

    with (tmp_path / "file.pt.partial").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with refused(DataError, "another process"):
            hub.download(server.address, tmp_path / "file.pt")


@pytest.fixture
def card(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MIDGUIDE_CACHE", str(tmp_path / "cache"))
    return replace(hub.CARDS["ffhq-256"], source=server.address, file="file.pt", sha256=None)


def test_the_sum_of_the_first_download_is_recorded_and_holds_from_then_on(card, server, tmp_path, capsys):
    path = hub.fetch(card)
    assert path == tmp_path / "cache" / "file.pt"
    assert "downloading file" in capsys.readouterr().err
    assert (tmp_path / "cache" / "file.pt.sha256").read_text().split() == [SHA256]
    hub.fetch(card)
    assert len(server.ranges) == 1  # the second time it was in the cache
    path.write_bytes(CONTENT[:-1])
    with refused(CheckpointError, "damaged or was changed"):
        hub.fetch(card)
    path.unlink()
    server.content = CONTENT[:-1]
    with refused(CheckpointError, "not the file expected"):  # another file than the first time
        hub.fetch(card)


@pytest.mark.parametrize("record", [None, "", SHA256[:20]])
def test_a_record_that_an_interrupted_run_left_out_or_incomplete_is_made_again(card, record):
    path = hub.fetch(card)
    place = path.with_name("file.pt.sha256")
    place.unlink() if record is None else place.write_text(record)
    hub.fetch(card)
    assert place.read_text().split() == [SHA256]
    path.write_bytes(CONTENT[:-1])
    with refused(CheckpointError, "damaged or was changed"):
        hub.fetch(card)


def test_the_sum_of_a_card_goes_before_all(card):
    with refused(CheckpointError, "sha256", "A file that you trust is loaded by its path"):
        hub.fetch(replace(card, sha256="f" * 64))
    assert not list(hub.cache_folder().iterdir())
    hub.fetch(replace(card, sha256=SHA256))


def test_a_public_checkpoint_is_loaded_by_its_name(card, server, tmp_path, monkeypatch):
    small = ADMConfig(channels=32, multipliers=(1,), attention=(), head_channels=32)
    torch.save(ADMUNet(small).state_dict(), tmp_path / "weights.pt")
    server.content = (tmp_path / "weights.pt").read_bytes()
    monkeypatch.setitem(hub.CARDS, "ffhq-256", card)
    monkeypatch.setitem(PUBLIC, "ffhq-256", small)
    prior = load_prior("ffhq-256", event_shape=(3, 16, 16))
    assert prior.name == "ffhq-256"
    assert prior.record()["sha256"] == hashlib.sha256(server.content).hexdigest()
    assert prior(torch.zeros(1, 3, 16, 16), 500).shape == (1, 3, 16, 16)


@pytest.fixture
def archive(server, tmp_path, monkeypatch):
    """The card of a zip archive that the server has, with a checkpoint in it."""
    monkeypatch.setenv("MIDGUIDE_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("model.ckpt", CONTENT)
        made.writestr("../config.yaml", "not wanted")
    server.content = (tmp_path / "made.zip").read_bytes()
    return replace(hub.CARDS["ffhq-ldm-vq4"], source=server.address, file="one.zip")


def test_the_checkpoint_of_an_archive_is_unpacked_alone_and_whole(archive, server, tmp_path):
    path = hub.fetch(archive)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path / "cache") == ["one.ckpt", "one.zip", "one.zip.sha256"]
    written = path.stat().st_mtime_ns
    assert hub.fetch(archive).stat().st_mtime_ns == written  # not unpacked a second time
    path.write_bytes(CONTENT[:-1] + b"!")  # as long as before
    assert hub.fetch(archive).read_bytes() == CONTENT
    assert len(server.ranges) == 1


def test_a_damaged_archive_and_a_wrong_one_are_one_line_and_leave_no_checkpoint(archive, server, tmp_path):
    with refused(CheckpointError, "holds no weights.pt"):
        hub.fetch(replace(archive, member="weights.pt"))
    whole, there = server.content, files(tmp_path / "cache")
    for content in (whole[:-30], whole[:500] + b"?" * 20 + whole[520:]):
        server.content = content
        with refused(CheckpointError, "arrived damaged"):
            hub.fetch(replace(archive, file="other.zip"))
        assert files(tmp_path / "cache") == there
    own = tmp_path / "own.zip"  # damaged after it arrived
    own.write_bytes(content)
    with refused(CheckpointError, f"{own} is damaged", f"remove {own}"):
        hub.unpacked(own, "model.ckpt")
    assert not list(tmp_path.glob("*own*ckpt*"))


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.99, 1.0])
def test_an_archive_of_which_neither_size_nor_sum_is_known_is_in_the_cache_whole_or_not_at_all(
    archive, server, tmp_path, kept
):
    server.sized, whole = False, server.content
    server.content = whole[: int(kept * len(whole))]
    if kept == 1.0:
        assert hub.fetch(archive).read_bytes() == CONTENT
    else:
        with refused(CheckpointError, "arrived damaged or incomplete", "try again"):
            hub.fetch(archive)
        assert files(tmp_path / "cache") == []
        server.content = whole
        assert hub.fetch(archive).read_bytes() == CONTENT


def test_another_file_of_which_neither_size_nor_sum_is_known_is_refused(server, tmp_path):
    server.sized = False
    with refused(CheckpointError, "may be incomplete", "give its path"):
        hub.download(server.address, tmp_path / "file.pt")
    assert files(tmp_path) == []
    hub.download(server.address, tmp_path / "file.pt", sha256=SHA256)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_cards_say_where_from_and_under_which_license():
    assert {"ffhq-256", "imagenet-256", "celebahq-256", "ffhq-ldm-vq4"} == set(hub.CARDS)
    for name, card in hub.CARDS.items():
        assert card.name == name
        assert card.license
        assert card.home.startswith("https://")
        if name == "ffhq-ldm-vq4":
            continue
        assert len(bytes.fromhex(card.sha256)) == 32
        assert card.size == pytest.approx(4 * card.parameters, rel=0.001)  # four bytes for each, and their names
    latent = hub.CARDS["ffhq-ldm-vq4"]  # that of latent diffusion has the U-Net twice, and the autoencoder
    assert latent.size == pytest.approx(4 * (2 * latent.parameters + 55_322_782), rel=0.01)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MIDGUIDE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / "midguide"
    monkeypatch.setenv("MIDGUIDE_CACHE", os.fspath(tmp_path / "own"))
    assert hub.cache_folder() == tmp_path / "own"


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self):
        return True


def test_a_download_shows_its_progress_on_a_terminal_and_goes_on_from_where_it_was(server, tmp_path, monkeypatch):
    server.stop_after = 300_000
    with refused(DataError, "broke off"):
        hub.download(server.address, tmp_path / "file.pt")
    server.stop_after, screen = None, Terminal()
    monkeypatch.setattr(hub.sys, "stderr", screen)
    monkeypatch.setattr(hub, "_BLOCK", 1 << 16)  # some steps of the bar
    seen = []
    monkeypatch.setattr(Progress, "advance", lambda bar, task, by=1: seen.append((bar.tasks[task].completed, by)))
    hub.download(server.address, tmp_path / "file.pt", sha256=SHA256)
    assert seen[0][0] == 300_000
    assert sum(by for _, by in seen) == len(CONTENT) - 300_000
    assert len(seen) > 5
    assert "downloading file" in screen.getvalue()
    assert "1.0" in screen.getvalue()


def test_a_bar_ends_at_the_size_of_the_file_on_a_real_terminal(server, tmp_path):
    """The same in a process of its own, on a pseudo-terminal: what a user sees."""
    code = "import sys, pathlib; from midguide.storage import hub; hub.download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    words = [sys.executable, "-c", code, server.address, os.fspath(tmp_path / "file.pt")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # Linux: the other side is closed
            pass
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 0
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    last = shown.decode().split("downloading file")[-1]
    assert "1.0/1.0 MB" in last
    assert "\u2501" in last


@pytest.mark.parametrize("way", ["truncated", "wrong sum", "no connection", "missing"])
def test_a_name_on_the_command_line_whose_download_fails_is_one_line_and_not_in_the_cache(
    server, tmp_path, monkeypatch, capsys, way
):
    monkeypatch.setenv("MIDGUIDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    card = replace(hub.CARDS["ffhq-256"], source=server.address, sha256=SHA256)
    if way == "truncated":
        server.stop_after = 300_000
    elif way == "wrong sum":
        card = replace(card, sha256="0" * 64)
    elif way == "no connection":
        card = replace(card, source="http://127.0.0.1:9/file.pt")
    else:
        card = replace(card, source=server.address.replace("file", "other"))
    monkeypatch.setitem(hub.CARDS, "ffhq-256", card)
    assert main(["sample", "--prior", "ffhq-256"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("downloading ")]
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    partial = ["ffhq_10m.pt.partial", "ffhq_10m.pt.partial.tag"]  # from which the next attempt goes on
    assert files(tmp_path / "cache") == (partial if way == "truncated" else [])
