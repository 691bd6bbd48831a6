"""The file of `secure_aggregation.members`: who takes part, by id, with public keys that were exchanged beforehand."""

from __future__ import annotations

from pathlib import Path

from common.errors import ConfigError
from common.names import RULE, is_id
from common.secure.terms import KEY_BYTES

FIELD = "secure_aggregation.members"
_COMMENT = "#"


def read_members(path: Path) -> dict[str, bytes]:
    """Public Ed25519 keys, 32 bytes each, by id: a line `client_id hex-public-key` each; # begins a comment.

    Raises:
        ConfigError: the file cannot be read, a line is none, or an id or a key comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{FIELD}: '{path}' cannot be read ({why}); name a file of ids and public keys") from None
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition(_COMMENT)[0].split()
        if not words:
            continue
        where = f"{FIELD}: '{path}', line {number}"
        if len(words) != 2:
            raise ConfigError(f"{where} has {len(words)} words; write a client id and its public key")
        member, key = words[0], _key(words[1], where)
        if not is_id(member):
            raise ConfigError(f"{where}: {member[:80]!r} is no client id; write {RULE}")
        if member in found:
            raise ConfigError(f"{where}: client '{member}' has a line already; keep one of the two")
        if key in found.values():
            raise ConfigError(f"{where}: the key of '{member}' is another client's already; each has its own")
        found[member] = key
    return found


def _key(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{where}: {text[:80]!r} is no public key; write its {2 * KEY_BYTES} hexadecimal digits")
    return key
