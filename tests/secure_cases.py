"""A masked session played with values: secrets that are the same in every run of a test, and members in a row."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from common.secure.letters import identity_key
from common.secure.masking import (
    Dealt,
    Gathering,
    Holding,
    MemberSecrets,
    Opening,
    Terms,
    announce,
    answer,
    confirm,
    deal,
    mask,
    receive,
)
from common.secure.ring import Cell, add
from common.secure.roster import roster_of
from common.secure.shamir import PRIME
from common.secure.terms import session_label

SESSION = session_label("run", 7, 1, "shared")
FIVE = ("ann", "bob", "cy", "dee", "eve")


def bytes_of(*words: object) -> bytes:
    """32 bytes that depend on words only."""
    return hashlib.sha256(repr(words).encode()).digest()


def secrets_of(member: str, session: str = SESSION) -> MemberSecrets:
    return MemberSecrets(*(bytes_of(member, session, what) for what in ("mask", "letter", "seed")))


def identity_of(member: str) -> bytes:
    return bytes_of(member, "identity")


def pinned(members: Sequence[str], min_clients: int = 3) -> Terms:
    """Terms with the identities of all members."""
    return Terms(min_clients, identities={member: identity_key(identity_of(member)) for member in members})


def gathering_of(members: Sequence[str], terms: Terms | None = None, session: str = SESSION) -> Gathering:
    """A session whose members announced the keys of `secrets_of`, signed by those of `identity_of`."""
    said = [announce(member, session, secrets_of(member, session), identity_of(member)) for member in members]
    return Gathering(terms or Terms(3), roster_of(session, said))


def cells_of(member: str, values: int = 50, numbers: int = 5) -> dict[str, Cell]:
    """Two cells of a member."""
    generator = np.random.default_rng(int.from_bytes(member.encode(), "big"))
    return {
        "shared": generator.integers(0, 2**32, values, dtype=np.uint32),
        "scores": generator.integers(0, 2**64, numbers, dtype=np.uint64),
    }


def sums_of(parts: Collection[Mapping[str, Cell]]) -> dict[str, Cell]:
    """The sums of all members' cells."""
    first, *others = parts
    total = {name: cell.copy() for name, cell in first.items()}
    for part in others:
        for name, cell in part.items():
            add(total[name], cell)
    return total


@dataclass
class Play:
    """Members of one session up to what they hand in."""

    gathering: Gathering
    deals: dict[str, Dealt] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)
    masked: dict[str, dict[str, Cell]] = field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        return list(self.gathering.roster.places)

    def deal(self) -> Play:
        generator, session = Random(1), self.gathering.roster.session
        for member in self.members:
            secrets = secrets_of(member, session)
            self.deals[member] = deal(self.gathering, member, secrets, lambda: generator.randrange(PRIME))
        return self

    def letters_to(self, reader: str, sharers: Collection[str]) -> dict[str, bytes]:
        near = self.gathering.neighbours[reader] & set(sharers)
        return {sender: self.deals[sender].letters[reader] for sender in near}

    def mask(self, sharers: Collection[str], **sizes: int) -> Play:
        """U2 masks; a member's cells are those of `cells_of`."""
        self.holdings, self.masked = {}, {}
        for member in sharers:
            holding = receive(self.deals[member], sharers, self.letters_to(member, sharers))
            cells = cells_of(member, **sizes)
            self.holdings[member] = mask(holding, cells)
            self.masked[member] = cells
        return self

    def open(self, survivors: Collection[str], asked: Collection[str]) -> dict[str, Opening]:
        """Answers of those asked to a list of survivors, confirmed first where identities are pinned."""
        signatures = None
        if self.gathering.terms.identities is not None:
            signed = {member: confirm(self.holdings[member], survivors, identity_of(member)) for member in survivors}
            signatures = {member: signature for member, (_, signature) in signed.items()}
        return {member: answer(self.holdings[member], survivors, self.near(member, signatures))[1] for member in asked}

    def near(self, member: str, signatures: Mapping[str, bytes] | None) -> Mapping[str, bytes] | None:
        """The signatures of a member's neighbourhood."""
        if signatures is None:
            return None
        around = self.gathering.neighbours[member] | {member}
        return {other: signature for other, signature in signatures.items() if other in around}
