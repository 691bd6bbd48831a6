"""The stages of a masked round, and what answers them, in messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.secure.shamir import SHARE_BYTES
from common.secure.terms import DIGEST_BYTES, KEY_BYTES, SIGNATURE_BYTES, Announcement
from common.stages import (
    AnnouncedKeys,
    CircleShares,
    Confirm,
    Keys,
    OpenedShares,
    SealedShares,
    Shares,
    SignedSurvivors,
    Unmask,
    UnmaskPart,
)
from common.wire import checks, limits
from common.wire.codec import Codec, codec
from common.wire.gen import federation_pb2 as pb
from common.wire.sum_parts import (
    client_ids,
    pack_circle,
    pack_named,
    pack_terms,
    unpack_circles,
    unpack_letters,
    unpack_named,
    unpack_terms,
)


def _pack_keys(value: Keys) -> pb.Keys:
    circles = map(pack_circle, value.circles)
    return pb.Keys(attempt=value.attempt, is_scoring=value.is_scoring, terms=pack_terms(value.terms), circles=circles)


def _unpack_keys(message: pb.Keys) -> Keys:
    checks.require(message, "terms")
    circles = unpack_circles(message.circles)
    return Keys(checks.count(message.attempt, "attempt"), message.is_scoring, unpack_terms(message.terms), circles)


def _pack_announcement(value: Announcement) -> pb.Announcement:
    return pb.Announcement(**vars(value))


def _unpack_announcement(message: pb.Announcement) -> Announcement:
    return Announcement(
        checks.client_id(message.member, "member"),
        checks.exactly(message.mask_key, "mask_key", KEY_BYTES),
        checks.exactly(message.letter_key, "letter_key", KEY_BYTES),
        checks.exactly(message.seed_digest, "seed_digest", DIGEST_BYTES),
        checks.exactly(message.signature, "signature", SIGNATURE_BYTES if message.signature else 0),
    )


def _circle_names(values: Iterable[str]) -> tuple[str, ...]:
    found = checks.items(tuple(values), "circles", limits.MAX_CIRCLES)
    return checks.distinct((checks.circle_name(value) for value in found), "circles")


def _pack_announced(value: AnnouncedKeys) -> pb.AnnouncedKeys:
    return pb.AnnouncedKeys(
        circles=[
            pb.CircleKeys(circle=circle, announcement=_pack_announcement(found)) for circle, found in value.circles
        ]
    )


def _unpack_announced(message: pb.AnnouncedKeys) -> AnnouncedKeys:
    names = _circle_names(found.circle for found in message.circles)
    said = [_unpack_announcement(found.announcement) for found in message.circles]
    return AnnouncedKeys(tuple(zip(names, said, strict=True)))


def _pack_shares(value: Shares) -> pb.Shares:
    rosters = [
        pb.CircleMembers(circle=circle, members=map(_pack_announcement, members)) for circle, members in value.rosters
    ]
    return pb.Shares(attempt=value.attempt, is_scoring=value.is_scoring, rosters=rosters)


def _unpack_shares(message: pb.Shares) -> Shares:
    names = _circle_names(found.circle for found in message.rosters)
    rosters = [_unpack_roster(found.members) for found in message.rosters]
    return Shares(checks.count(message.attempt, "attempt"), message.is_scoring, tuple(zip(names, rosters, strict=True)))


def _unpack_roster(messages: Sequence[pb.Announcement]) -> tuple[Announcement, ...]:
    found = tuple(map(_unpack_announcement, checks.items(messages, "members", limits.MAX_CLIENTS)))
    checks.distinct((one.member for one in found), "members")
    return found


def _pack_sealed(value: SealedShares) -> pb.SealedShares:
    return pb.SealedShares(
        circles=[pb.CircleLetters(circle=circle, letters=pack_named(letters)) for circle, letters in value.letters]
    )


def _unpack_sealed(message: pb.SealedShares) -> SealedShares:
    names = _circle_names(found.circle for found in message.circles)
    letters = [unpack_letters(found.letters) for found in message.circles]
    return SealedShares(tuple(zip(names, letters, strict=True)))


def _pack_confirm(value: Confirm) -> pb.Confirm:
    survivors = [pb.CircleClients(circle=circle, clients=members) for circle, members in value.survivors]
    return pb.Confirm(attempt=value.attempt, is_scoring=value.is_scoring, survivors=survivors)


def _unpack_confirm(message: pb.Confirm) -> Confirm:
    names = _circle_names(found.circle for found in message.survivors)
    members = [client_ids(found.clients, "survivors") for found in message.survivors]
    return Confirm(
        checks.count(message.attempt, "attempt"), message.is_scoring, tuple(zip(names, members, strict=True))
    )


def _pack_signed(value: SignedSurvivors) -> pb.SignedSurvivors:
    return pb.SignedSurvivors(
        circles=[pb.CircleSignature(circle=circle, signature=found) for circle, found in value.signatures]
    )


def _unpack_signed(message: pb.SignedSurvivors) -> SignedSurvivors:
    names = _circle_names(found.circle for found in message.circles)
    signatures = [checks.exactly(found.signature, "signature", SIGNATURE_BYTES) for found in message.circles]
    return SignedSurvivors(tuple(zip(names, signatures, strict=True)))


def _pack_unmask(value: Unmask) -> pb.Unmask:
    parts = [
        pb.UnmaskPart(circle=part.circle, survivors=part.survivors, signatures=pack_named(part.signatures))
        for part in value.parts
    ]
    return pb.Unmask(attempt=value.attempt, is_scoring=value.is_scoring, parts=parts)


def _unpack_unmask(message: pb.Unmask) -> Unmask:
    names = _circle_names(part.circle for part in message.parts)
    parts = [
        UnmaskPart(
            circle,
            client_ids(part.survivors, "survivors"),
            unpack_named(part.signatures, "signatures", SIGNATURE_BYTES),
        )
        for circle, part in zip(names, message.parts, strict=True)
    ]
    return Unmask(checks.count(message.attempt, "attempt"), message.is_scoring, tuple(parts))


def _pack_opened(value: OpenedShares) -> pb.OpenedShares:
    return pb.OpenedShares(
        circles=[
            pb.CircleShares(circle=part.circle, seeds=pack_named(part.seeds), mask_keys=pack_named(part.mask_keys))
            for part in value.circles
        ]
    )


def _unpack_opened(message: pb.OpenedShares) -> OpenedShares:
    names = _circle_names(part.circle for part in message.circles)
    return OpenedShares(
        tuple(_unpack_circle_shares(name, part) for name, part in zip(names, message.circles, strict=True))
    )


def _unpack_circle_shares(circle: str, message: pb.CircleShares) -> CircleShares:
    """Of each member one of its secrets, never both."""
    seeds = unpack_named(message.seeds, "seeds", SHARE_BYTES)
    mask_keys = unpack_named(message.mask_keys, "mask_keys", SHARE_BYTES)
    checks.distinct((member for member, _ in (*seeds, *mask_keys)), "seeds and mask_keys")
    return CircleShares(circle, seeds, mask_keys)


KEYS: Codec[Keys] = codec(pb.Keys, _pack_keys, _unpack_keys)
ANNOUNCED_KEYS: Codec[AnnouncedKeys] = codec(pb.AnnouncedKeys, _pack_announced, _unpack_announced)
SHARES: Codec[Shares] = codec(pb.Shares, _pack_shares, _unpack_shares)
SEALED_SHARES: Codec[SealedShares] = codec(pb.SealedShares, _pack_sealed, _unpack_sealed)
CONFIRM: Codec[Confirm] = codec(pb.Confirm, _pack_confirm, _unpack_confirm)
SIGNED_SURVIVORS: Codec[SignedSurvivors] = codec(pb.SignedSurvivors, _pack_signed, _unpack_signed)
UNMASK: Codec[Unmask] = codec(pb.Unmask, _pack_unmask, _unpack_unmask)
OPENED_SHARES: Codec[OpenedShares] = codec(pb.OpenedShares, _pack_opened, _unpack_opened)
