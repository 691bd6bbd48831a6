"""Letters open for their reader only, and signatures fit one session and one content only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import WireError
from common.secure.letters import (
    check_keys,
    check_survivors,
    identity_key,
    open_letter,
    seal,
    sign_keys,
    sign_survivors,
)
from common.secure.masking import announce
from common.secure.roster import Roster, packed, roster_of
from common.secure.terms import SIGNATURE_BYTES, session_label
from tests.secure_cases import FIVE, SESSION, gathering_of, identity_of, secrets_of

ROSTER = gathering_of(FIVE).roster
OTHER_SESSION = session_label("run", 7, 1, "task/a")


def key_of(member: str) -> bytes:
    return secrets_of(member).letter_key


def sealed(content: bytes = b"shares", sender: str = "ann", reader: str = "bob") -> bytes:
    return seal(content, key_of(sender), ROSTER, sender, reader)


@given(st.binary(max_size=100))
def test_a_letter_opens_for_its_reader(content: bytes) -> None:
    letter = sealed(content)
    assert len(letter) == len(content) + 28
    assert open_letter(letter, key_of("bob"), ROSTER, "ann", "bob") == content


def test_two_letters_never_look_alike() -> None:
    assert len({sealed() for _ in range(50)}) == 50


def test_a_letter_opens_nowhere_else() -> None:
    letter = sealed()
    eve_for_dee = Roster(SESSION, tuple(found for found in ROSTER.announcements if found.member != "dee"))
    same_keys = Roster(OTHER_SESSION, ROSTER.announcements)
    for reader, roster, sender, named in [
        ("cy", ROSTER, "ann", "bob"),  # another's key
        ("cy", ROSTER, "ann", "cy"),  # another reader
        ("bob", ROSTER, "cy", "bob"),  # another sender
        ("ann", ROSTER, "bob", "ann"),  # handed back
        ("bob", eve_for_dee, "ann", "bob"),  # another roster
        ("bob", same_keys, "ann", "bob"),  # another session
    ]:
        with pytest.raises(WireError, match="does not open"):
            open_letter(letter, key_of(reader), roster, sender, named)


@given(st.integers(0, 8 * 34 - 1))
def test_one_changed_bit_is_noticed(bit: int) -> None:
    letter = bytearray(sealed())
    letter[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="does not open"):
        open_letter(bytes(letter), key_of("bob"), ROSTER, "ann", "bob")


@given(st.binary(max_size=120))
def test_any_bytes_are_a_clean_error(letter: bytes) -> None:
    with pytest.raises(WireError, match="letter of ann to bob"):
        open_letter(letter, key_of("bob"), ROSTER, "ann", "bob")


def test_keys_are_signed_for_one_session() -> None:
    private = identity_of("ann")
    said = announce("ann", SESSION, secrets_of("ann"))
    signed = replace(said, signature=sign_keys(private, SESSION, said))
    assert len(signed.signature) == SIGNATURE_BYTES
    check_keys(identity_key(private), SESSION, signed)
    for identity, session, changed in [
        (identity_key(identity_of("bob")), SESSION, signed),
        (identity_key(private), OTHER_SESSION, signed),
        (identity_key(private), SESSION, replace(signed, member="bob")),
        (identity_key(private), SESSION, replace(signed, mask_key=signed.letter_key)),
        (identity_key(private), SESSION, replace(signed, letter_key=signed.mask_key)),
        (identity_key(private), SESSION, replace(signed, seed_digest=bytes(32))),
        (identity_key(private), SESSION, said),
        (b"short", SESSION, signed),
    ]:
        with pytest.raises(WireError, match="signature of"):
            check_keys(identity, session, changed)


def test_survivors_are_signed_for_one_session_in_any_order() -> None:
    private, identity = identity_of("ann"), identity_key(identity_of("ann"))
    signature = sign_survivors(private, SESSION, ["ann", "bob", "cy"])
    check_survivors(identity, SESSION, ["cy", "ann", "bob"], signature, "ann")
    for session, survivors in [
        (OTHER_SESSION, ["ann", "bob", "cy"]),
        (SESSION, ["ann", "bob"]),
        (SESSION, ["ann", "bobcy"]),
        (SESSION, ["ann", "bob", "cy", "dee"]),
    ]:
        with pytest.raises(WireError, match="signature of ann"):
            check_survivors(identity, session, survivors, signature, "ann")


@given(st.binary(max_size=70))
def test_any_bytes_are_no_signature(signature: bytes) -> None:
    with pytest.raises(WireError, match="signature of ann"):
        check_survivors(identity_key(identity_of("ann")), SESSION, ["ann"], signature, "ann")


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_no_two_lists_are_packed_alike(one: list[bytes], other: list[bytes]) -> None:
    assert (packed(*one) == packed(*other)) == (one == other)


def test_a_roster_is_in_the_order_of_ids_and_its_digest_covers_all_but_signatures() -> None:
    assert roster_of(SESSION, reversed(ROSTER.announcements)).digest == ROSTER.digest
    assert ROSTER.places == {"ann": 1, "bob": 2, "cy": 3, "dee": 4, "eve": 5}
    ann, *rest = ROSTER.announcements
    digests = {Roster(OTHER_SESSION, ROSTER.announcements).digest, Roster(SESSION, tuple(rest)).digest}
    for changed in (
        replace(ann, member="ana"),
        replace(ann, mask_key=bytes(32)),
        replace(ann, letter_key=bytes(32)),
        replace(ann, seed_digest=bytes(32)),
    ):
        digests.add(Roster(SESSION, (changed, *rest)).digest)
    assert len(digests | {ROSTER.digest}) == 7
    assert Roster(SESSION, (replace(ann, signature=b""), *rest)).digest == ROSTER.digest
