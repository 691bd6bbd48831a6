"""What members tell each other through the coordinator: sealed letters, and signatures that it cannot make.

A letter is AES-256-GCM (NIST SP 800-38D) under a key for one sender, one reader and one session. Session, digest of
the roster, sender and reader are its associated data: in another place, it does not open. Signatures are Ed25519 (RFC
8032).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from common.errors import WireError
from common.secure.roster import Roster, packed
from common.secure.shamir import SHARE_BYTES
from common.secure.streams import agree, derive, require_package
from common.secure.terms import Announcement

NONCE_BYTES = 12

_TAG_BYTES = 16
LETTER_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES
"""A letter with a share of a mask key and one of a seed."""
_LETTER = b"fedmtl letter|"
_KEYS = b"fedmtl keys"
_SURVIVORS = b"fedmtl survivors"


def seal(content: bytes, private: bytes, roster: Roster, sender: str, reader: str) -> bytes:
    """A letter to another member: nonce, ciphertext, tag; 28 bytes more than its content.

    The nonce is random: two letters with one key differ, whatever they say.

    Args:
        content: What only the reader may know.
        private: The sender's private letter key.
        roster: Of the session, with both.
        sender: Who writes.
        reader: Who may read.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: a key has another length or is of low order.
    """
    key = _letter_key(private, roster.by_member[reader].letter_key, roster, sender, reader)
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, content, _bound_to(roster, sender, reader))


def open_letter(letter: bytes, private: bytes, roster: Roster, sender: str, reader: str) -> bytes:
    """What a letter says.

    Args:
        letter: From `seal`.
        private: The reader's private letter key.
        roster: Of the session, with both.
        sender: Who wrote.
        reader: Who reads.

    Raises:
        ConfigError: `cryptography` is missing.
        WireError: the letter is of another session, roster, sender or reader, or is damaged.
    """
    key = _letter_key(private, roster.by_member[sender].letter_key, roster, sender, reader)
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(letter) < NONCE_BYTES + _TAG_BYTES:
        raise WireError(f"{roster.session}: the letter of {sender} to {reader} has {len(letter)} bytes")
    try:
        return AESGCM(key).decrypt(letter[:NONCE_BYTES], letter[NONCE_BYTES:], _bound_to(roster, sender, reader))
    except InvalidTag:
        raise WireError(f"{roster.session}: the letter of {sender} to {reader} does not open") from None


def identity_key(private: bytes) -> bytes:
    """The public key of an identity's private one, 32 bytes: what organisations exchange beforehand.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the key has another length.
    """
    require_package()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign_keys(private: bytes, session: str, announcement: Announcement) -> bytes:
    """A signature of a member's keys in a session, 64 bytes.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the key has another length.
    """
    return _sign(private, _keys_message(session, announcement))


def check_keys(identity: bytes, session: str, announcement: Announcement) -> None:
    """Check an announcement's signature.

    Raises:
        ConfigError: `cryptography` is missing.
        WireError: it is not that of this identity for this session and these keys.
    """
    _check(identity, announcement.signature, _keys_message(session, announcement), announcement.member)


def sign_survivors(private: bytes, session: str, survivors: Iterable[str]) -> bytes:
    """A signature of whose updates are in a session's sum, 64 bytes.

    Raises:
        ConfigError: `cryptography` is missing.
        ValueError: the key has another length.
    """
    return _sign(private, _survivors_message(session, survivors))


def check_survivors(identity: bytes, session: str, survivors: Iterable[str], signature: bytes, member: str) -> None:
    """Check a member's signature of survivors.

    Raises:
        ConfigError: `cryptography` is missing.
        WireError: it is not that of this identity for this session and these survivors.
    """
    _check(identity, signature, _survivors_message(session, survivors), member)


def _letter_key(private: bytes, public: bytes, roster: Roster, sender: str, reader: str) -> bytes:
    """A key for one direction only, so that a letter cannot be handed back to its sender."""
    info = _LETTER + packed(roster.session.encode(), sender.encode(), reader.encode())
    return derive(agree(private, public), info)


def _bound_to(roster: Roster, sender: str, reader: str) -> bytes:
    return packed(roster.session.encode(), roster.digest, sender.encode(), reader.encode())


def _keys_message(session: str, found: Announcement) -> bytes:
    return packed(_KEYS, session.encode(), found.member.encode(), found.mask_key, found.letter_key, found.seed_digest)


def _survivors_message(session: str, survivors: Iterable[str]) -> bytes:
    return packed(_SURVIVORS, session.encode(), *(member.encode() for member in sorted(survivors)))


def _sign(private: bytes, message: bytes) -> bytes:
    require_package()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def _check(identity: bytes, signature: bytes, message: bytes, member: str) -> None:
    require_package()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise WireError(f"the signature of {member} does not fit") from None
