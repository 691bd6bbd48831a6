"""What all members of a sum in the ring are told alike. Plain values: whoever only reads messages needs no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from common.parameters.scope import Scope, sum_scope
from common.privacy.clipping import Clip

TASK_WEIGHT_UNIT = 1000
"""Weights of tasks enter weights of clients in thousandths, so that these stay integers."""
KEY_BYTES = 32
"""Of secrets, of private and public keys, and of keys of streams."""
DIGEST_BYTES = 32
"""SHA-256."""
SIGNATURE_BYTES = 64
"""Ed25519."""
MOST_WEIGHT = 2**31 - 1
"""Of one member in any cell."""


@dataclass(frozen=True)
class SumTerms:
    """How updates become sums: the section `secure_aggregation`, the same at the coordinator and at every client."""

    min_clients: int = 3
    """The fewest members of a sum; what fewer would train stays as it is."""
    masks: bool = True
    """False: the same sums without masks, which hide nothing."""
    largest_change: float = 0.5
    """Of one parameter; a longer update is shortened as a whole."""
    largest_weight: int = 1000
    """The most rows that a member counts with."""
    corrupt: float = 0.1
    """See `common.secure.graph.parameters`."""
    dropouts: float = 0.05
    """See `common.secure.graph.parameters`."""
    pinned: bool = False
    """Whether members know each other's identities, so that the coordinator cannot lie about keys and survivors."""


@dataclass(frozen=True)
class SumCell:
    """One sum of vectors: of a scope, or of the updates on one task where a scope is summed task by task."""

    scope: str
    task: str = ""

    @property
    def name(self) -> str:
        """Of the cell among those of its round."""
        return f"{self.scope} ({self.task})" if self.task else self.scope


@dataclass(frozen=True)
class Circle:
    """Sums with the same members in one round; each circle is a masked session of its own."""

    name: str
    cells: tuple[SumCell, ...]
    """A vector of 32-bit integers each; none in a round to score."""
    tasks: tuple[str, ...]
    """Whose losses, scores and numbers of rows are in its counts."""
    members: int
    """How many were asked: at most so many are in the sum."""
    bits: int
    """Behind the point."""

    @property
    def scope(self) -> str:
        """What its cells are called together in an update's header."""
        return sum_scope(self.name)


@dataclass(frozen=True)
class SumPart:
    """A circle that an answer enters."""

    circle: Circle
    sharers: tuple[str, ...] = ()
    """Who masks (U2), by id; nobody without masks."""
    letters: tuple[tuple[str, bytes], ...] = ()
    """To this member, by sender."""


@dataclass(frozen=True)
class SumOrder:
    """How the answer to an order enters sums, in place of an update and results that could be read."""

    terms: SumTerms
    attempt: int
    parts: tuple[SumPart, ...]
    factors: tuple[tuple[str, int], ...] = ()
    """Task -> what one of its rows weighs in scopes of several tasks."""
    caps: tuple[tuple[str, int], ...] = ()
    """Task -> the most rows that count; tasks without a cap are not in it."""
    one_each: bool = False
    """Whether every update that brings rows weighs 1."""
    clip: Clip | None = None
    """What an update may be at most where the sums are published under noise; it weighs 1 in every cell then."""

    @property
    def largest_weight(self) -> int:
        """Of one member in any cell."""
        return largest_weight(self.terms, dict(self.factors), self.one_each)

    @property
    def largest_change(self) -> float:
        """Of one parameter in any cell."""
        return largest_change(self.terms, self.clip)

    def weight(self, cell: SumCell, examples: Mapping[str, int]) -> int:
        """What an update weighs in a cell, from the rows of each task that it was trained on."""
        caps = dict(self.caps)
        counted = {task: min(n, caps.get(task, n), self.terms.largest_weight) for task, n in examples.items()}
        if cell.task:
            found = counted.get(cell.task, 0)
            return found if self.clip is None else min(found, 1)
        if task := Scope.parse(cell.scope).task:
            found = counted.get(task, 0)
        else:
            factors = dict(self.factors)
            found = sum(factors.get(task, 1) * n for task, n in counted.items())
        return min(found, self.largest_weight)


def largest_weight(terms: SumTerms, factors: Mapping[str, int], one_each: bool) -> int:
    """Of one member in any cell; cells of one task of many never weigh more."""
    return 1 if one_each else terms.largest_weight * max(factors.values(), default=1)


def largest_change(terms: SumTerms, clip: Clip | None) -> float:
    """Of one parameter in any cell: what the ring is made for."""
    return terms.largest_change if clip is None else min(terms.largest_change, clip.largest)


def task_factors(weights: Mapping[str, float]) -> dict[str, int]:
    """What one row of each task weighs in scopes of several tasks: small integers in the proportion of task weights."""
    found = {task: round(weight * TASK_WEIGHT_UNIT) for task, weight in weights.items()}
    common = gcd(*found.values()) or 1
    return {task: weight // common for task, weight in found.items()}


@dataclass(frozen=True)
class Announcement:
    """What a member says of itself before all others."""

    member: str
    """Its id."""
    mask_key: bytes
    """Public X25519 key of its pair streams; the private one is opened if it goes before its upload."""
    letter_key: bytes
    """Public X25519 key of letters to it; the private one is never opened."""
    seed_digest: bytes
    """SHA-256 of the seed of its own stream."""
    signature: bytes = b""
    """Ed25519 by its pinned identity, where identities are pinned; see `common/secure/letters.py`."""


def session_label(run: str, round_number: int, attempt: int, circle: str) -> str:
    """The name of one masked session: run|round.attempt|circle.

    Raises:
        ValueError: run or circle has the sign that parts them.
    """
    if "|" in run or "|" in circle:
        raise ValueError(f"{run!r} or {circle!r} has a |")
    return f"{run}|{round_number}.{attempt}|{circle}"
