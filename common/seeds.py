"""Seeds derived from what they are for, so that no two uses share a stream and no order of calls matters."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on the configured seed and on every part of `purpose`, and on nothing else.

    Parts are typically (round, client id, purpose). Text and number parts are kept apart: `1` and `"1"` differ.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"fedmtl-seed")
    for part in (seed, *purpose):
        kind = b"i" if isinstance(part, int) else b"s"
        encoded = str(part).encode()
        digest.update(kind + len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest(), "big") >> 1
