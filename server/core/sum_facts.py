"""Sums in the ring as the core knows them: rules, and what was read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.orders import TaskResult
from common.secure.masking import Gathering
from common.secure.terms import Announcement, Circle, SumTerms

Circles = tuple[tuple[Circle, frozenset[str]], ...]
"""Circles, and who was asked for each."""


@dataclass(frozen=True)
class SumRules:
    """What does not change during a run in which nothing but sums can be read."""

    terms: SumTerms
    stage_seconds: float = 60.0
    """A stage closes after so long, whoever has answered."""
    identities: Mapping[str, bytes] = field(default_factory=dict)
    """Public Ed25519 keys of members, where they are pinned."""

    @property
    def least(self) -> int:
        """Members of the smallest circle."""
        return max(self.terms.min_clients, 2 if self.terms.masks else 1)


@dataclass(frozen=True)
class Stand:
    """A circle, and how far its round has come."""

    circle: Circle
    asked: frozenset[str]
    sharers: frozenset[str]
    """Who masks (U2); without masks everybody that was asked."""
    survivors: frozenset[str]
    """Whose answers are in the sum (U3)."""
    gathering: Gathering
    """Its session, with a roster of those with keys (U1)."""
    letters: Mapping[str, tuple[tuple[str, bytes], ...]] = field(default_factory=dict)
    """By reader: letters of those who mask, by sender."""

    @property
    def announcements(self) -> tuple[Announcement, ...]:
        """Of U1, in the order of ids."""
        return self.gathering.roster.announcements

    @property
    def members(self) -> frozenset[str]:
        """U1."""
        return frozenset(self.gathering.roster.places)


@dataclass(frozen=True)
class RoundSums:
    """What the sums of a round say."""

    results: tuple[TaskResult, ...] = ()
    """Of each task, of all clients in its sum together."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Weight sums by the names of cells."""
