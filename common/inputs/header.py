"""What the numbers of a task's examples are, in their order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_NAMES = 10
SHOWN_COLUMNS = 2


@dataclass(frozen=True)
class Header:
    """What the numbers of a task's rows are, in their order: part of the task for whoever trains on tables.

    `count` is how many a row has. `digest` stands for their names and order; it is empty where rows have no names.
    `names` are for people: all of them, or only the first where they have travelled.
    """

    count: int
    digest: str = ""
    names: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    """Of a row that has more than one dimension."""
    columns: bool = False
    """Whether each name says all of a column, and the encoder's section names them."""

    @classmethod
    def shaped(cls, shape: tuple[int, ...]) -> Header:
        """The header of rows of this shape, whose numbers have no names."""
        return cls(math.prod(shape), shape=shape if len(shape) > 1 else ())

    @classmethod
    def of(cls, names: Sequence[str], columns: bool = False) -> Header:
        """The header of columns with these names."""
        written = json.dumps([*names], separators=(",", ":"))
        return cls(len(names), hashlib.sha256(written.encode()).hexdigest()[:32], tuple(names), columns=columns)

    def fits(self, other: Header) -> bool:
        """Whether rows with these two headers are rows of the same numbers, as far as names tell."""
        named = bool(self.digest and other.digest)
        return (self.count, self.shape) == (other.count, other.shape) and not (named and self.digest != other.digest)

    def beside(self, other: Header) -> tuple[str, str]:
        """Both headers in words, from the first name on in which they differ."""
        pairs = zip(self.names, other.names, strict=False)
        start = next((place for place, (a, b) in enumerate(pairs) if a != b), 0)
        start = start if start >= SHOWN_NAMES or self.columns else 0
        shown = SHOWN_COLUMNS if self.columns else SHOWN_NAMES
        return self._described(start, shown), other._described(start, shown)

    def _described(self, start: int, most: int) -> str:
        if self.shape:
            return "x".join(map(str, self.shape))
        if not self.names:
            return f"{self.count} without names"
        last = start + most
        shown = ["..."] * bool(start) + [*self.names[start:last]] + ["..."] * (last < self.count)
        return f"[{', '.join(shown)}]"
