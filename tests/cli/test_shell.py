"""What a shell and a terminal of 80 columns see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from midguide.catalogue.directory import PLACES
from midguide.cli import main
from midguide.cli.commands.list import OTHERS
from midguide.cli.completion import COMPLETE

BASH = shutil.which("bash")


SHELL = """
eval "$(midguide --show-completion)"
offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _midguide_completion midguide; echo "${COMPREPLY[@]}"; }
offer midguide reconstruct --operator-s
offer midguide reconstruct --sampler matheron : fas
"""


@pytest.mark.skipif(BASH is None, reason="no bash is installed")
def test_bash_completes_an_option_and_the_preset_of_a_sampler(tmp_path: Path) -> None:
    """Bash itself breaks `matheron:fas` in three words, and replaces the last one."""
    program = tmp_path / "midguide"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m midguide \"$@\"\n", "utf-8")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(BASH), "--norc", "-c", SHELL],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == ["--operator-set", "fast"], done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("midguide reco", ["reconstruct"]),
        ("midguide view --obs", ["--observation"]),
        ("midguide list kno", ["known"]),
        ("midguide sample --prior glyphs", ["glyphs-32"]),
        ("midguide reconstruct --sampler math", ["matheron"]),
        ("midguide reconstruct --sampler = math", ["matheron"]),
        ("midguide reconstruct --sampler no-such-name :", []),
        ("midguide reconstruct --operator box-in", ["box-inpainting"]),
        ("midguide benchmark --problems mixt", ["mixture-25"]),
    ],
)
def test_a_shell_completes_commands_options_and_names(
    words: str, offered: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPLETE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words.replace(" ", "\n"))
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == offered


@pytest.mark.parametrize("what", sorted((*PLACES, *OTHERS)))
def test_lists_fit_80_columns(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name is never broken: one that is longer has a line of its own."""
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 and " " in line] == []


def test_help_breaks_where_the_terminal_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["reconstruct", "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.partition("Arguments")[0].splitlines()]
    first = next(line for line in lines if line.startswith("IMAGE is the truth"))
    assert len(first) > 70
