"""Text of strangers, made fit for a terminal, a log and a reply of one line."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every character that is not printable as its escape: ends of lines, NUL, ESC, controls of direction, surrogates."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
