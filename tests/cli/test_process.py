"""The command line as a process of its own: exit codes, streams, and what a start costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "midguide"]
HEAVY = ("torch", "numpy", "matplotlib", "PIL", "safetensors", "skimage")


def run(*argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, argv)], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_mistake_exits_with_2_and_writes_to_stderr_only(tmp_path):
    done = run("reconstruct", "nowhere.png", "--operator", "identity", "--sigma", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_json_alone_is_on_stdout(tmp_path, prior, image):
    words = ("--operator", "identity", "--prior", prior, "--samples", 1, "--steps", 2, "--json")
    done = run("reconstruct", image, *words, cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["n"] == 1
    assert "panel.png" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_run_with_its_code_and_says_how_to_go_on(tmp_path, prior, image, number, code, said):
    words = ("--operator", "identity", "--prior", prior, "--sampler", "mgps", "--steps", "1000", "--out", "out")
    process = subprocess.Popen(
        [*PROGRAM, "reconstruct", image, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "drawing" in process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.startswith(f"{said}; repeat the same command")
    assert [path.name for path in tmp_path.iterdir()] == ["out.progress"]


def test_interrupt_in_a_destructor_is_not_lost(tmp_path):
    script = (
        "import os, signal, sys, time\n"
        "from midguide.cli.failures import reported\n"
        "class Closing:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(5)\n"
        "with reported() as outcome:\n"
        "    Closing()\n"
        "    time.sleep(5)\n"
        "sys.exit(outcome.code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_warning_is_one_line(tmp_path):
    script = (
        "import sys, warnings\n"
        "from midguide.cli.failures import reported\n"
        "from midguide.errors import ConvergenceWarning\n"
        "with reported():\n"
        "    for _ in range(2):\n"
        "        warnings.warn('it is approximate', ConvergenceWarning)\n"
        "    warnings.warn('of another library')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[:2] == ["warning: it is approximate", "<string>:7: UserWarning: of another library"]


def test_failing_writes_leave_nothing(tmp_path, prior, image):
    """A limit of 2 kB on every file makes real writes fail, as a full disk does."""
    script = (
        "import resource, sys; from midguide.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["reconstruct", str(image), "--operator", "identity", "--prior", str(prior), "--steps", "2", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_starts_without_torch_and_soon(tmp_path):
    script = (
        "import sys, midguide; from midguide.cli import main; code = main(['--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], code, file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    seconds = time.perf_counter() - started
    assert done.stderr.strip() == "[] 0"
    assert seconds < 3.0  # about 0.2 s; the bound leaves room for a busy machine, torch alone would take longer


def test_closed_pipe_ends_quietly(tmp_path):
    process = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m midguide list operators | true; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in process.stderr
