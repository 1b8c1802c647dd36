"""Docstrings as the site reads them: `Example:` is a section of doctests, and a list begins a paragraph of its own."""

from __future__ import annotations

import re

from griffe import Extension, Object


class Docstrings(Extension):
    """Mends what Markdown would read otherwise than our docstrings mean."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = mended(obj.docstring.value)


def mended(text: str) -> str:
    """A docstring with what Markdown and the reader of Google's style need."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        starts = line.lstrip().startswith("- ") and before.strip() and not before.lstrip().startswith("- ")
        if starts and len(line) - len(line.lstrip()) == len(before) - len(before.lstrip()) and not _in_list(lines):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _in_list(lines: list[str]) -> bool:
    """Whether the last lines go on a list."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if line.lstrip().startswith("- "):
            return True
    return False
