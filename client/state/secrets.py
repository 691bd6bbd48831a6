"""What a client keeps of the masked session under way, and when the last one ended: one file, written whole."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from client.state.disk import Damaged, disk
from client.state.store import DURABLE, Durability
from common.privacy.secret import sync_folder
from common.secure.masking import MemberSecrets
from common.secure.terms import Announcement, SumTerms

log = logging.getLogger("fedmtl.client")

_FILE = "secure.bin"
_ASIDE = ".secure.bin.partial"
_DIGEST_BYTES = 16


class Moment(NamedTuple):
    """One attempt at a round, in the order in which they come."""

    round: int
    is_scoring: bool
    attempt: int


@dataclass(frozen=True)
class CircleSecrets:
    """One circle's session, as far as this client has come."""

    secrets: MemberSecrets
    roster: tuple[Announcement, ...] = ()
    """U1, once this client has written its letters."""
    own: bytes = field(default=b"", repr=False)
    letters: Mapping[str, bytes] = field(default_factory=dict)
    """By reader. Sealing draws anew, so that the same answer can be given again only from here."""
    sharers: tuple[str, ...] = ()
    """U2, once this client has masked."""
    shares: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    masked: bool = False
    survivors: tuple[str, ...] | None = None
    """U3, once it is signed or answered."""


@dataclass(frozen=True)
class MaskedSession:
    """All circles of one attempt at a round."""

    moment: Moment
    terms: SumTerms
    circles: Mapping[str, CircleSecrets]


class SecretStore:
    """The file `secure.bin` of a client in a run, for its account alone.

    A change is written aside, brought to the disk and put in place; then what was there before is overwritten with
    zeros. So after the end of a session nothing is left but the moment. A file system that copies on write keeps old
    blocks nevertheless. Clients that die with their coordinator have no file, since nobody asks them afterwards.

    Raises (every method): `StateError` where the disk fails; then nothing has changed.
    """

    def __init__(self, folder: Path, durability: Durability = DURABLE) -> None:
        self._folder = folder
        self._durability = durability
        self.ended: Moment | None = None
        """When the last session was that is over, whether or not its sums were opened."""
        self.session: MaskedSession | None = None
        """Under way."""
        if durability.repeatable:
            return
        with disk(folder):
            self._wipe(folder / _ASIDE)
            try:
                self.ended, self.session = _decoded((folder / _FILE).read_bytes())
            except FileNotFoundError:
                return
            except Damaged as damage:
                text = "'%s' is damaged (%s): this client is out of the sums of the round under way"
                log.warning(text, folder / _FILE, damage)
                self._wipe(folder / _FILE)

    def save(self, session: MaskedSession) -> None:
        """Keep a session, before an answer that follows from it leaves."""
        self._write(self.ended, session)
        self.session = session

    def end(self) -> None:
        """The session under way is settled or void: forget its secrets, and never take part in it again."""
        if self.session is not None:
            ended = max(self.session.moment, self.ended or self.session.moment)
            self._write(ended, None)
            self.ended, self.session = ended, None

    def _write(self, ended: Moment | None, session: MaskedSession | None) -> None:
        if self._durability.repeatable:
            return
        path, aside, content = self._folder / _FILE, self._folder / _ASIDE, _encoded(ended, session)
        with disk(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._wipe(aside)
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                self._flush(file.fileno())
            old = os.open(path, os.O_WRONLY) if path.exists() else None
            try:
                aside.rename(path)
                if self._durability.flushed:
                    sync_folder(self._folder)
                if old is not None:
                    self._zero(old)
            finally:
                if old is not None:
                    os.close(old)

    def _wipe(self, path: Path) -> None:
        """Overwrite a file and remove it, if it is there."""
        if path.exists():
            descriptor = os.open(path, os.O_WRONLY)
            try:
                self._zero(descriptor)
            finally:
                os.close(descriptor)
            path.unlink()

    def _zero(self, descriptor: int) -> None:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        self._flush(descriptor)

    def _flush(self, descriptor: int) -> None:
        if self._durability.flushed:
            os.fsync(descriptor)


def _encoded(ended: Moment | None, session: MaskedSession | None) -> bytes:
    values = {"ended": ended, "session": None if session is None else asdict(session)}
    text = json.dumps(values, default=_hex).encode()
    return xxhash.xxh3_128_digest(text) + text


def _hex(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is not kept")
    return value.hex()


def _decoded(data: bytes) -> tuple[Moment | None, MaskedSession | None]:
    text = data[_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(text) != data[:_DIGEST_BYTES]:
        raise Damaged("its checksum does not fit")
    try:
        values = json.loads(text)
        ended, session = values["ended"], values["session"]
        return None if ended is None else Moment(*ended), None if session is None else _session(session)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{type(error).__name__} of another FedMTL") from None


def _session(values: Mapping[str, Any]) -> MaskedSession:
    circles = {name: _circle(found) for name, found in values["circles"].items()}
    return MaskedSession(Moment(*values["moment"]), SumTerms(**values["terms"]), circles)


def _circle(values: Mapping[str, Any]) -> CircleSecrets:
    survivors = values["survivors"]
    return CircleSecrets(
        MemberSecrets(**_bytes_of(values["secrets"])),
        tuple(Announcement(member=found.pop("member"), **_bytes_of(found)) for found in values["roster"]),
        bytes.fromhex(values["own"]),
        _bytes_of(values["letters"]),
        tuple(values["sharers"]),
        _bytes_of(values["shares"]),
        values["masked"],
        None if survivors is None else tuple(survivors),
    )


def _bytes_of(values: Mapping[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in values.items()}
