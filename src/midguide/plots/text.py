"""Texts of users in figures."""

from __future__ import annotations


def literal(text: str) -> str:
    """A text that matplotlib shows as it is: dollar signs begin no formula, which might not be one.

    Example:
        >>> literal("a $b$")
        'a \\\\$b\\\\$'
    """
    return text.replace("$", r"\$")
