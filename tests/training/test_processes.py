"""Two processes that train together take the steps that one takes on the whole batch."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from midguide.errors import ConfigError
from midguide.training.processes import Processes, is_first

SCRIPT = Path(__file__).with_name("together.py")


def alone(out, monkeypatch):
    """The script in this process; the averaged weights, and the checkpoint."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return results(out)


def together(out, count=2):
    """The script in several processes, as `torchrun` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen([sys.executable, SCRIPT, out], env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * count, errors
    return results(out)


def results(out):
    return torch.load(out / "weights.pt"), torch.load(out / "checkpoint.pt", weights_only=True)


def test_two_processes_take_the_steps_of_one_on_the_whole_batch_and_one_goes_on_from_their_checkpoint(
    tmp_path, monkeypatch
):
    one, _ = alone(tmp_path / "one", monkeypatch)
    two, saved = together(tmp_path / "two")
    for name, value in one.items():  # the mean of two means is the mean, to rounding
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    first, second = (data for data, _ in saved["streams"])
    assert not torch.equal(first, second)
    longer, later = alone(tmp_path / "two", monkeypatch)
    assert later["step"] == saved["step"] + 2
    assert any(not torch.equal(value, two[name]) for name, value in longer.items())


def test_a_batch_without_equal_parts_is_refused():
    assert Processes(count=3).part(12) == 4
    with pytest.raises(ConfigError, match="a batch of 10 has no 3 equal parts"):
        Processes(count=3).part(10)


def test_one_process_alone_speaks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_first()
    monkeypatch.setenv("RANK", "1")
    assert not is_first()
