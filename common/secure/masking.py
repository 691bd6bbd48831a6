"""One member's part in a masked session: from keys to what opens the sum, as values.

After Bonawitz et al. 2017 ("Practical secure aggregation", figure 4) and, beyond 64 members, Bell et al. 2020. A member
adds to its cells the stream of its own seed and the streams that it shares with later neighbours, and takes away those
that it shares with earlier ones. Pair streams cancel in the sum; own streams are taken out when a threshold of the
neighbourhood opens the seeds of those that are in it.

Every step gives the state that the next one needs. Whoever keeps it must store it before its answer leaves: from an
older state, a member could answer a second, different question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from common.errors import WireError
from common.secure.graph import Parameters, neighbours, parameters
from common.secure.letters import check_keys, check_survivors, open_letter, seal, sign_keys, sign_survivors
from common.secure.ring import Cell
from common.secure.roster import Roster
from common.secure.shamir import SHARE_BYTES, random_number, share_bytes, share_value, split
from common.secure.streams import add_to_cells, agree, check_cells, new_secret, public_key
from common.secure.terms import KEY_BYTES, Announcement, SumTerms


@dataclass(frozen=True)
class Terms:
    """What all members of a session were told before it, and the coordinator keeps to."""

    min_clients: int
    """The fewest members of a sum."""
    corrupt: float = 0.1
    """See `common.secure.graph.parameters`."""
    dropouts: float = 0.05
    """See `common.secure.graph.parameters`."""
    identities: Mapping[str, bytes] | None = None
    """Pinned Ed25519 public keys of members; none: keys are as the coordinator relays them."""

    @classmethod
    def of(cls, terms: SumTerms, identities: Mapping[str, bytes] = MappingProxyType({})) -> Terms:
        """A session's part of what a run's members were told; `identities` count where these are pinned."""
        return cls(terms.min_clients, terms.corrupt, terms.dropouts, identities if terms.pinned else None)

    def parameters(self, members: int) -> Parameters:
        """Degree and threshold for so many members."""
        return parameters(members, self.corrupt, self.dropouts, self.identities is not None)


@dataclass(frozen=True)
class MemberSecrets:
    """What a member draws anew for each session, and nobody else may know."""

    mask_key: bytes = field(default_factory=new_secret, repr=False)
    """Private X25519 key of pair streams."""
    letter_key: bytes = field(default_factory=new_secret, repr=False)
    """Private X25519 key of letters."""
    seed: bytes = field(default_factory=new_secret, repr=False)
    """Of the member's own stream."""

    def __post_init__(self) -> None:
        """Refuse what could not be opened again.

        Raises:
            ValueError: a secret has another length than 32 bytes.
        """
        if {len(self.mask_key), len(self.letter_key), len(self.seed)} != {KEY_BYTES}:
            raise ValueError(f"secrets of a member have {KEY_BYTES} bytes each")


@dataclass(frozen=True)
class Gathering:
    """A session whose roster is known: the same for all members and the coordinator."""

    terms: Terms
    roster: Roster

    @cached_property
    def threshold(self) -> int:
        """Shares that open a secret."""
        return self.terms.parameters(len(self.roster.announcements)).threshold

    @cached_property
    def neighbours(self) -> dict[str, frozenset[str]]:
        """Every member's neighbours, without itself."""
        degree = self.terms.parameters(len(self.roster.announcements)).degree
        return neighbours(self.roster.places, self.roster.digest, degree)

    def check_roster(self) -> None:
        """Check that there are enough members and, where identities are pinned, that they signed their keys.

        Raises:
            WireError: there are fewer than `min_clients` or 2, or a signature does not fit.
        """
        found, session = self.roster.announcements, self.roster.session
        if len(found) < max(2, self.terms.min_clients):
            raise WireError(
                f"{session}: a roster of {len(found)}, at least {max(2, self.terms.min_clients)} are needed"
            )
        if self.terms.identities is not None:
            for one in found:
                if one.member not in self.terms.identities:
                    raise WireError(f"{session}: {one.member} has no pinned identity")
                check_keys(self.terms.identities[one.member], session, one)

    def check_members(self, what: str, found: frozenset[str], among: Collection[str], member: str) -> None:
        """Check a list of members from one member's place.

        Args:
            what: How an error calls the list.
            found: The list.
            among: Whom it must lie within.
            member: Who must be in it, with a threshold of its neighbourhood.

        Raises:
            WireError: the list is not as said, or has fewer than `min_clients`.
        """
        near = len(found & self.neighbours[member]) + 1
        if not found <= set(among):
            problem = "has others than before"
        elif member not in found:
            problem = f"has {member} not"
        elif len(found) < self.terms.min_clients:
            problem = f"has {len(found)}, at least {self.terms.min_clients} are needed"
        elif near < self.threshold:
            problem = f"has {near} of the neighbourhood of {member}, at least {self.threshold} are needed"
        else:
            return
        raise WireError(f"{self.roster.session}: the list of {what} {problem}")


@dataclass(frozen=True)
class Dealt:
    """A member that has written its letters."""

    gathering: Gathering
    member: str
    secrets: MemberSecrets
    own: bytes = field(repr=False)
    """Its shares of its own secrets: it holds one like every neighbour."""
    letters: Mapping[str, bytes]
    """To each neighbour."""


@dataclass(frozen=True)
class Holding:
    """A member that holds shares of its neighbours' secrets."""

    gathering: Gathering
    member: str
    secrets: MemberSecrets
    sharers: frozenset[str]
    """U2: who sent letters, hence who masks."""
    shares: Mapping[str, bytes] = field(repr=False)
    """Of each neighbour in U2 and of itself: the share of the mask key, then the one of the seed."""
    masked: bool = False
    """Its streams are used; another vector under them would tell the difference of the two."""
    survivors: frozenset[str] | None = None
    """U3, once it is signed or answered."""


@dataclass(frozen=True)
class Opening:
    """A member's answer to an order to unmask: one share of each neighbour in U2 and of itself, 33 bytes each."""

    seeds: Mapping[str, bytes] = field(repr=False)
    """Shares of the seeds of those in U3."""
    mask_keys: Mapping[str, bytes] = field(repr=False)
    """Shares of the mask keys of the others."""


def announce(member: str, session: str, secrets: MemberSecrets, identity: bytes | None = None) -> Announcement:
    """What a member publishes.

    Args:
        member: Its id.
        session: From `session_label`.
        secrets: Drawn for this session.
        identity: Its private Ed25519 key, where identities are pinned.

    Raises:
        ConfigError: `cryptography` is missing.
    """
    mask_key, letter_key = public_key(secrets.mask_key), public_key(secrets.letter_key)
    found = Announcement(member, mask_key, letter_key, hashlib.sha256(secrets.seed).digest())
    return found if identity is None else replace(found, signature=sign_keys(identity, session, found))


def deal(gathering: Gathering, member: str, secrets: MemberSecrets, draw: Callable[[], int] = random_number) -> Dealt:
    """Share a member's mask key and seed with its neighbourhood.

    Args:
        gathering: The roster as the coordinator told it, and the terms as they were before.
        member: Who deals.
        secrets: What it announced the public side of.
        draw: See `common.secure.shamir.split`.

    Raises:
        WireError: the roster does not have the member's own keys, is too small, or a signature does not fit.
    """
    gathering.check_roster()
    roster = gathering.roster
    mine = announce(member, roster.session, secrets)
    if member not in roster.by_member or replace(roster.by_member[member], signature=b"") != mine:
        raise WireError(f"{roster.session}: the roster does not have the keys of {member}")
    readers = sorted(gathering.neighbours[member] | {member})
    places = [roster.places[reader] for reader in readers]
    parts = [
        split(int.from_bytes(secret, "big"), gathering.threshold, places, draw)
        for secret in (secrets.mask_key, secrets.seed)
    ]
    contents = {
        reader: share_bytes(mask.value) + share_bytes(seed.value)
        for reader, mask, seed in zip(readers, *parts, strict=True)
    }
    own = contents.pop(member)
    letters = {
        reader: seal(content, secrets.letter_key, roster, member, reader) for reader, content in contents.items()
    }
    return Dealt(gathering, member, secrets, own, letters)


def receive(dealt: Dealt, sharers: Collection[str], letters: Mapping[str, bytes]) -> Holding:
    """Open the letters of a member's neighbours.

    Args:
        dealt: The member.
        sharers: U2, as the coordinator tells it: all whose letters it has.
        letters: To this member, by sender: one of each neighbour in U2.

    Raises:
        WireError: U2 is not a list that this member may mask with, or a letter is missing, too many, or does not open.
    """
    gathering, member, found = dealt.gathering, dealt.member, frozenset(sharers)
    roster = gathering.roster
    gathering.check_members("those with letters", found, roster.places, member)
    senders = found & gathering.neighbours[member]
    if set(letters) != senders:
        raise WireError(f"{roster.session}: letters to {member} are not those of its neighbours")
    shares = {member: dealt.own}
    for sender in sorted(senders):
        content = open_letter(letters[sender], dealt.secrets.letter_key, roster, sender, member)
        try:
            for part in _parts(content):
                share_value(part)
        except ValueError as error:
            raise WireError(f"{roster.session}: the letter of {sender} to {member}: {error}") from None
        shares[sender] = content
    return Holding(gathering, member, dealt.secrets, found, shares)


def mask(holding: Holding, cells: Mapping[str, Cell]) -> Holding:
    """Mask a member's cells in place, once.

    Args:
        holding: The member.
        cells: All that it hands in, by name: uint32 or uint64, (n,) each; changed.

    Raises:
        ValueError: it has masked before, or a cell has another type or shape.
    """
    if holding.masked:
        raise ValueError(f"{holding.gathering.roster.session}: {holding.member} has masked before")
    roster, member = holding.gathering.roster, holding.member
    check_cells(cells, roster.session)
    add_to_cells(cells, holding.secrets.seed, roster.session)
    for other in sorted(holding.sharers & holding.gathering.neighbours[member]):
        secret = agree(holding.secrets.mask_key, roster.by_member[other].mask_key)
        earlier = roster.places[other] < roster.places[member]
        add_to_cells(cells, secret, roster.session, subtract=earlier)
    return replace(holding, masked=True)


def confirm(holding: Holding, survivors: Collection[str], identity: bytes) -> tuple[Holding, bytes]:
    """Sign U3, where identities are pinned.

    Args:
        holding: The member.
        survivors: U3, as the coordinator tells it.
        identity: The member's private Ed25519 key.

    Returns:
        The member, which knows what it signed, and the signature.

    Raises:
        WireError: U3 is not a list that this member may answer; see `answer`.
    """
    bound = _bind(holding, frozenset(survivors))
    return bound, sign_survivors(identity, holding.gathering.roster.session, frozenset(survivors))


def answer(
    holding: Holding, survivors: Collection[str], signatures: Mapping[str, bytes] | None = None
) -> tuple[Holding, Opening]:
    """Open what is needed to unmask the sum over U3: never both shares of one member.

    Args:
        holding: The member.
        survivors: U3, as the coordinator tells it.
        signatures: Of U3, where identities are pinned: from at least a threshold of the member's neighbourhood.

    Returns:
        The member, which knows what it answered, and the answer.

    Raises:
        WireError: U3 lacks the member, is not within U2, has too few, is another one than before, or signatures do not
            fit.
    """
    found = frozenset(survivors)
    bound = _bind(holding, found)
    if holding.gathering.terms.identities is not None:
        _check_signatures(holding, found, holding.gathering.terms.identities, signatures or {})
    seeds = {other: _parts(content)[1] for other, content in holding.shares.items() if other in found}
    mask_keys = {other: _parts(content)[0] for other, content in holding.shares.items() if other not in found}
    return bound, Opening(seeds, mask_keys)


def _bind(holding: Holding, survivors: frozenset[str]) -> Holding:
    """Hold a member to one U3."""
    session = holding.gathering.roster.session
    if not holding.masked:
        raise WireError(f"{session}: {holding.member} has handed in nothing")
    if holding.survivors not in (None, survivors):
        raise WireError(f"{session}: a second, different list of survivors")
    holding.gathering.check_members("survivors", survivors, holding.sharers, holding.member)
    return replace(holding, survivors=survivors)


def _check_signatures(
    holding: Holding, survivors: frozenset[str], identities: Mapping[str, bytes], signatures: Mapping[str, bytes]
) -> None:
    gathering, session = holding.gathering, holding.gathering.roster.session
    near = (gathering.neighbours[holding.member] | {holding.member}) & survivors
    if not set(signatures) <= near:
        raise WireError(f"{session}: a signature is not from a survivor in the neighbourhood of {holding.member}")
    if len(signatures) < gathering.threshold:
        raise WireError(f"{session}: {len(signatures)} signatures, {gathering.threshold} are needed")
    for member, signature in signatures.items():
        check_survivors(identities[member], session, survivors, signature, member)


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """The share of the mask key and the one of the seed."""
    return content[:SHARE_BYTES], content[SHARE_BYTES:]
