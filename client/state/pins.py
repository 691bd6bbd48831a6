"""Who the members of masked sums are to one client: its own identity, and the public keys of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client.state.disk import disk
from common.errors import ConfigError, StateError
from common.privacy.secret import secret_at
from common.secure.letters import identity_key
from common.secure.members import FIELD, read_members
from common.secure.terms import KEY_BYTES

_KEY = "identity.key"


@dataclass(frozen=True)
class Pins:
    """Files that are read when identities are first asked for, which only orders with `pinned` do."""

    folder: Path
    """The client's, of all runs; `identity.key` lies there, made once, for this account alone."""
    client_id: str
    members: Path | None = None
    """Ids and public keys of all members; None: this client pins nobody."""

    @cached_property
    def key(self) -> bytes:
        """The private Ed25519 key of this client, 32 bytes; at first use a new one.

        Raises:
            StateError: the disk fails, or the file is damaged.
        """
        path = self.folder / _KEY
        with disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            key = secret_at(path)
        if len(key) != KEY_BYTES:
            remedy = "bring it back from a backup, or delete it and give the others the new public key"
            raise StateError(f"client.state_dir: '{path}' is damaged; {remedy}", f"{_KEY} is damaged")
        return key

    @property
    def public_key(self) -> bytes:
        """What the others write down of this client, 32 bytes.

        Raises:
            ConfigError: `cryptography` is missing.
            StateError: see `key`.
        """
        return identity_key(self.key)

    @cached_property
    def known(self) -> dict[str, bytes]:
        """Public keys by id, this client's among them.

        Raises:
            ConfigError: there is no file of members, it is wrong, or it has another key of this client.
            StateError: see `key`.
        """
        if self.members is None:
            raise ConfigError(f"{FIELD}: the coordinator asks for pinned identities; name a file of members here, too")
        found = read_members(self.members)
        if found.get(self.client_id) != self.public_key:
            raise ConfigError(
                f"{FIELD}: '{self.members}' has not the key of this client; write: {self.client_id} "
                f"{self.public_key.hex()}"
            )
        return found
