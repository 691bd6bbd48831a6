"""Who takes part in a masked session, with which keys: what its coordinator tells all of them alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from common.errors import WireError
from common.names import is_id
from common.secure.streams import agree, new_secret
from common.secure.terms import DIGEST_BYTES, KEY_BYTES, Announcement

_PREFIX = b"fedmtl roster"


def packed(*parts: bytes) -> bytes:
    """Parts with their lengths before them, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def check_announcement(announcement: Announcement) -> None:
    """Check one member's announcement before it joins a roster.

    Raises:
        ConfigError: `cryptography` is missing.
        WireError: an id or length is wrong, or a key is one that nobody can agree with.
    """
    if not is_id(announcement.member):
        raise WireError(f"{announcement.member!r} is no id of a member")
    if len(announcement.seed_digest) != DIGEST_BYTES:
        raise WireError(f"{announcement.member}: a digest of a seed has {DIGEST_BYTES} bytes")
    throwaway = new_secret()
    for key in (announcement.mask_key, announcement.letter_key):
        if len(key) != KEY_BYTES:
            raise WireError(f"{announcement.member}: a public key has {KEY_BYTES} bytes")
        try:
            agree(throwaway, key)
        except ValueError as error:
            raise WireError(f"{announcement.member}: {error}") from None


@dataclass(frozen=True)
class Roster:
    """All members of a masked session; make it with `roster_of`."""

    session: str
    """From `session_label`."""
    announcements: tuple[Announcement, ...]
    """In the order of ids."""

    @cached_property
    def by_member(self) -> dict[str, Announcement]:
        """The announcements by ids."""
        return {found.member: found for found in self.announcements}

    @cached_property
    def places(self) -> dict[str, int]:
        """Every member's place, from 1 on: where its shares are evaluated, and who is earlier or later."""
        return {found.member: place for place, found in enumerate(self.announcements, start=1)}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of session, ids, keys and digests of seeds; signatures are not in it."""
        parts = [_PREFIX, self.session.encode()]
        for found in self.announcements:
            parts += [found.member.encode(), found.mask_key, found.letter_key, found.seed_digest]
        return hashlib.sha256(packed(*parts)).digest()


def roster_of(session: str, announcements: Iterable[Announcement]) -> Roster:
    """The roster of some announcements, in any order.

    Raises:
        ConfigError: `cryptography` is missing.
        WireError: an announcement is wrong, or an id, key or digest comes twice: then one member could be two.
    """
    ordered = tuple(sorted(announcements, key=lambda found: found.member))
    for found in ordered:
        check_announcement(found)
    ids = [found.member for found in ordered]
    keys = [key for found in ordered for key in (found.mask_key, found.letter_key)]
    digests = [found.seed_digest for found in ordered]
    for what, values in (("id", ids), ("key", keys), ("digest of a seed", digests)):
        if len(set(values)) != len(values):
            raise WireError(f"{session}: one {what} comes twice in the roster")
    return Roster(session, ordered)
