"""What a shell and a terminal of 80 columns see."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from midguide.catalogue.directory import PLACES
from midguide.cli import main
from midguide.cli.commands.list import OTHERS


def completed(words: str) -> list[str]:
    """What a shell offers for the last of the words."""
    asked = {"_MIDGUIDE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "from midguide.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout.split()


def test_a_shell_completes_commands_and_options() -> None:
    assert completed("midguide reco") == ["reconstruct"]
    assert completed("midguide view --obs") == ["--observation"]


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
    first = next(line for line in lines if line.startswith("IMAGE is taken"))
    assert len(first) > 70
