"""What a shell offers for a word: names of catalogues and, after a colon, presets."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

COMPLETE = "_MIDGUIDE_COMPLETE"
BREAKS = frozenset(":=")
"""Where bash breaks a word in two."""


def names(plural: str, *others: str) -> Callable[[str], list[str]]:
    """What completes a value of an option: the names of a catalogue and, after a colon, the presets of one.

    Args:
        plural: of the catalogue; or "priors".
        others: what the option takes besides.
    """

    def offered(incomplete: str) -> list[str]:
        if plural == "priors":
            from midguide.priors.cards import shipped
            from midguide.storage.hub import CARDS

            return [*shipped(), *CARDS]
        from midguide.catalogue.directory import catalogue

        found, (name, colon, _) = catalogue(plural), incomplete.partition(":")
        if colon:
            return [f"{name}:{preset}" for preset in found.presets(name)] if name in found else []
        return [*others, *found]

    return offered


def answer(command: Any, argv: Sequence[str]) -> None:
    """Print what the shell asks for, and leave the program."""
    typed = ""
    if os.environ[COMPLETE] == "complete_bash":
        whole = _whole(os.environ.get("COMP_WORDS", ""), int(os.environ.get("COMP_CWORD", "0")))
        os.environ |= {"COMP_WORDS": "\n".join(whole), "COMP_CWORD": str(len(whole) - 1)}
        value = whole[-1].rpartition("=")[2]
        typed = value[: value.rfind(":") + 1]  # bash replaces only what stands after the last break
    answers = io.StringIO()
    try:
        with contextlib.redirect_stdout(answers):
            command.main(list(argv), prog_name="midguide")
    finally:
        print("\n".join(line.removeprefix(typed) for line in answers.getvalue().splitlines()))


def _whole(words: str, at: int) -> list[str]:
    """The words up to the one at the cursor, as they were typed."""
    broken = words.split("\n" if "\n" in words else " ")
    whole: list[str] = []
    for word in [*broken, ""][: at + 1]:
        if whole and (word and BREAKS.issuperset(word) or whole[-1][-1:] in BREAKS):
            whole[-1] += word
        else:
            whole.append(word)
    return whole
