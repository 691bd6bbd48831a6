"""One labelled text or pair of texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A row of a task's data.

    Args:
        text: The text, or the first text of a pair.
        text_pair: The second text of a pair, None for a task on single texts.
        label: A class index, a score, or for a multi-label task the indices of the labels that apply.
    """

    text: str
    text_pair: str | None
    label: int | float | tuple[int, ...]
