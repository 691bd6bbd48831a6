"""Text from outside as plain text: what could drive a terminal, turn its lines around or hide there is escaped."""

from __future__ import annotations

from unicodedata import category

_JOINERS = "\u200c\u200d"
"""Without these two, words of some scripts (Persian, Hindi, ...) are written wrongly."""


def plain(text: str) -> str:
    """The text on one line, with an escape for every character that shows nothing itself.

    These are control, format, surrogate, private and unassigned characters and separators of lines and paragraphs;
    blanks of every kind stay.
    """
    if text.isprintable():
        return text
    return "".join(char if _shows(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def is_plain(text: str) -> bool:
    """Whether `plain` would leave the text as it is."""
    return text.isprintable() or all(map(_shows, text))


def is_plain_name(text: str) -> bool:
    """Whether a name is plain text; it may hold the joiners that some scripts need, which are escaped when shown."""
    return is_plain(text.translate(dict.fromkeys(map(ord, _JOINERS))))


def blanked(text: str) -> str:
    """The text on one line with single blanks, also in place of what `plain` would escape."""
    return " ".join("".join(char if _shows(char) else " " for char in text).split())


def _shows(char: str) -> bool:
    return char.isprintable() or category(char) == "Zs"
