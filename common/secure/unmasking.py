"""The coordinator's part in a masked session: from shares to the sum of the survivors, and to nothing else.

It opens the seed of everybody in the sum, and the mask key of everybody who masked and then went. What it opens is
compared with what was announced: a mask key must give the announced public key, a seed its digest. So a wrong share is
noticed, and left out where a threshold of good ones remains.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from math import comb

from common.errors import WireError
from common.secure.masking import Gathering, Opening
from common.secure.ring import Cell
from common.secure.shamir import SECRET_BYTES, Share, join, share_value, value_at
from common.secure.streams import add_to_cells, agree, check_cells, public_key

MOST_TRIES = 4096
"""Sets of shares that are tried for one secret: all of them where they are no more, else random ones.

Of 67 shares with threshold 49, a random set has none of two wrong ones once in 14 times, of four once in 250.
"""


class GivenUpError(ValueError):
    """The sum of a session cannot be opened; nothing was changed."""


def check_opening(
    gathering: Gathering, sharers: Collection[str], survivors: Collection[str], opening: Opening, member: str
) -> None:
    """Check the form of a member's answer to an order to unmask; whether shares are right shows when they are joined.

    Args:
        gathering: The session.
        sharers: U2.
        survivors: U3.
        opening: The answer.
        member: Who gave it.

    Raises:
        WireError: the member is none of the survivors, or the answer does not have just the shares that were asked for.
    """
    session, found = gathering.roster.session, frozenset(survivors)
    if member not in found:
        raise WireError(f"{session}: {member!r} is not asked for shares")
    held = (gathering.neighbours[member] | {member}) & frozenset(sharers)
    if set(opening.seeds) != held & found or set(opening.mask_keys) != held - found:
        raise WireError(f"{session}: {member} opens other shares than those asked for")
    for share in (*opening.seeds.values(), *opening.mask_keys.values()):
        try:
            share_value(share)
        except ValueError as error:
            raise WireError(f"{session}: {member}: {error}") from None


def unmask(
    gathering: Gathering,
    sharers: Collection[str],
    survivors: Collection[str],
    openings: Mapping[str, Opening],
    sums: Mapping[str, Cell],
) -> frozenset[str]:
    """Take all masks out of the sums of the survivors' cells, in place.

    Args:
        gathering: The session.
        sharers: U2: who masked.
        survivors: U3: whose cells are in the sums.
        openings: Answers of survivors, by member.
        sums: One sum for each cell, by the name it was masked with; changed.

    Returns:
        Members whose answers were wrong, as far as that showed, and were left out.

    Raises:
        ConfigError: `cryptography` is missing.
        GivenUpError: U3 is too small or not within U2, or too few good shares of a secret are there; no sum is changed.
        ValueError: a cell has another type or shape.
    """
    among, found, session = frozenset(sharers), frozenset(survivors), gathering.roster.session
    if not found <= among <= set(gathering.roster.places):
        raise GivenUpError(f"{session}: survivors are not within those that masked, or those not in the roster")
    if len(found) < max(2, gathering.terms.min_clients):
        raise GivenUpError(f"{session}: {len(found)} survivors, {max(2, gathering.terms.min_clients)} are needed")
    check_cells(sums, session)
    secrets = _Secrets(gathering, among, found, openings)
    gone = [member for member in sorted(among - found) if gathering.neighbours[member] & found]
    # All are opened before the first sum changes.
    seeds = [secrets.seed(member) for member in sorted(found)]
    mask_keys = [secrets.mask_key(member) for member in gone]
    for seed in seeds:
        add_to_cells(sums, seed, session, subtract=True)
    roster = gathering.roster
    for member, mask_key in zip(gone, mask_keys, strict=True):
        for other in sorted(gathering.neighbours[member] & found):
            pair = agree(mask_key, roster.by_member[other].mask_key)
            # The survivor added the stream if the one that is gone is later: the opposite takes it out.
            add_to_cells(sums, pair, session, subtract=roster.places[member] > roster.places[other])
    return frozenset(secrets.wrong)


class _Secrets:
    """Secrets of one session, opened from the shares that members gave."""

    def __init__(
        self, gathering: Gathering, sharers: frozenset[str], survivors: frozenset[str], openings: Mapping[str, Opening]
    ) -> None:
        self._gathering = gathering
        self.wrong: set[str] = set()
        self._openings: dict[str, Opening] = {}
        for member, opening in openings.items():
            try:
                check_opening(gathering, sharers, survivors, opening, member)
            except WireError:
                self.wrong.add(member)
            else:
                self._openings[member] = opening

    def seed(self, member: str) -> bytes:
        """The seed of a member that is in the sum."""
        digest = self._gathering.roster.by_member[member].seed_digest
        shares = {holder: opening.seeds[member] for holder, opening in self._of_neighbours(member)}
        return self._opened(member, shares, lambda secret: hashlib.sha256(secret).digest() == digest)

    def mask_key(self, member: str) -> bytes:
        """The mask key of a member that is gone."""
        public = self._gathering.roster.by_member[member].mask_key
        shares = {holder: opening.mask_keys[member] for holder, opening in self._of_neighbours(member)}
        return self._opened(member, shares, lambda secret: public_key(secret) == public)

    def _of_neighbours(self, member: str) -> Iterator[tuple[str, Opening]]:
        """Answers of those that hold a share of a member's; who gave a wrong one before comes last."""
        holders = (self._gathering.neighbours[member] | {member}) & set(self._openings)
        for holder in sorted(holders, key=lambda holder: (holder in self.wrong, holder)):
            yield holder, self._openings[holder]

    def _opened(self, member: str, given: Mapping[str, bytes], fits: Callable[[bytes], bool]) -> bytes:
        places, threshold = self._gathering.roster.places, self._gathering.threshold
        shares = [Share(places[holder], share_value(data)) for holder, data in given.items()]
        for tried, used in enumerate(_choices(shares, threshold, self._gathering.roster.digest)):
            secret = join(used, threshold)
            if secret < 256**SECRET_BYTES and fits(secret.to_bytes(SECRET_BYTES, "big")):
                # A threshold is more than half, so every share is among the first or the last ones.
                if tried or join(shares[-threshold:], threshold) != secret:
                    self._blame(given, shares, used)
                return secret.to_bytes(SECRET_BYTES, "big")
        raise GivenUpError(
            f"{self._gathering.roster.session}: a secret of {member} does not open from {len(shares)} shares, "
            f"{threshold} good ones are needed"
        )

    def _blame(self, given: Mapping[str, bytes], shares: Sequence[Share], good: Sequence[Share]) -> None:
        """Remember who gave shares that do not lie on the polynomial of the good ones."""
        for holder, share in zip(given, shares, strict=True):
            if value_at(good, len(good), share.place) != share.value:
                self.wrong.add(holder)


def _choices(shares: Sequence[Share], threshold: int, seed: bytes) -> Iterator[Sequence[Share]]:
    """Sets of `threshold` shares: the first ones, then all others or, if they are too many, random ones."""
    if len(shares) < threshold:
        return
    if comb(len(shares), threshold) <= MOST_TRIES:
        yield from combinations(shares, threshold)
        return
    yield shares[:threshold]
    generator = random.Random(seed)
    for _ in range(MOST_TRIES - 1):
        yield generator.sample(shares, threshold)
