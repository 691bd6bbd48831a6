"""The one rule for ids: of runs, clients, orders and sessions, some of which become names of folders and files."""

from __future__ import annotations

import re

ID_CHARS = 128
RULE = "letters, digits, _ . and -, no dot at the beginning and no two dots in a row"

_NAME = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]+")


def is_id(text: str, longest: int = ID_CHARS) -> bool:
    """Whether a text of at most `longest` characters may be an id: one plain name in any file system."""
    return len(text) <= longest and _NAME.fullmatch(text) is not None
