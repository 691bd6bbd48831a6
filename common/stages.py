"""The stages of a masked round as orders: keys, shares, confirm, unmask, and what answers them. Plain values.

Between shares and confirm lies the order to train or to score, whose `SumOrder` says how its answer is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.bodies import Body
from common.orders import ReplyContent
from common.secure.terms import Announcement, Circle, SumTerms, session_label

SCORING = "score"


def circle_session(run: str, number: int, attempt: int, is_scoring: bool, circle: str) -> str:
    """The name of a circle's masked session; a round to score a version has other ones than the round that made it."""
    return session_label(run, number, attempt, f"{SCORING}-{circle}" if is_scoring else circle)


@dataclass(frozen=True)
class Stage(Body):
    """An order that serves masks alone; `attempt` and `is_scoring` say of which round, beside the order's number."""

    attempt: int
    is_scoring: bool


@dataclass(frozen=True)
class Keys(Stage):
    """Draw keys for these circles. The answer is `AnnouncedKeys`."""

    activity = "drawing keys"
    terms: SumTerms
    circles: tuple[Circle, ...]


@dataclass(frozen=True)
class AnnouncedKeys(ReplyContent):
    """Answers `Keys`: the member's public keys in each circle."""

    circles: tuple[tuple[str, Announcement], ...]


@dataclass(frozen=True)
class Shares(Stage):
    """Share secrets with the neighbours in these circles. The answer is `SealedShares`."""

    activity = "sharing secrets"
    rosters: tuple[tuple[str, tuple[Announcement, ...]], ...]
    """By circle: all members with keys (U1), in the order of ids."""


@dataclass(frozen=True)
class SealedShares(ReplyContent):
    """Answers `Shares`: a letter to each neighbour, by circle and reader."""

    letters: tuple[tuple[str, tuple[tuple[str, bytes], ...]], ...]


@dataclass(frozen=True)
class Confirm(Stage):
    """Sign who is in the sums, where identities are pinned. The answer is `SignedSurvivors`."""

    activity = "signing"
    survivors: tuple[tuple[str, tuple[str, ...]], ...]
    """By circle: whose updates are in the sum (U3), by id."""


@dataclass(frozen=True)
class SignedSurvivors(ReplyContent):
    """Answers `Confirm`: a signature by circle."""

    signatures: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class UnmaskPart:
    """What a member is told of one sum before it opens its shares."""

    circle: str
    survivors: tuple[str, ...]
    """U3, by id."""
    signatures: tuple[tuple[str, bytes], ...] = ()
    """Of U3, by those in the member's neighbourhood, where identities are pinned."""


@dataclass(frozen=True)
class Unmask(Stage):
    """Open the shares that take the masks out of these sums. The answer is `OpenedShares`."""

    activity = "unmasking"
    parts: tuple[UnmaskPart, ...]


@dataclass(frozen=True)
class CircleShares:
    """Shares that a member opens in one circle, 33 bytes each, by whose secret it is."""

    circle: str
    seeds: tuple[tuple[str, bytes], ...]
    """Of those in the sum."""
    mask_keys: tuple[tuple[str, bytes], ...]
    """Of those that masked and are not in it."""


@dataclass(frozen=True)
class OpenedShares(ReplyContent):
    """Answers `Unmask`."""

    circles: tuple[CircleShares, ...]
