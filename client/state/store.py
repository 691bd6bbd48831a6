"""What a client keeps on its disk for one run: private scopes and its last update until that is committed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash
from torch import Tensor

from client.state.disk import Damaged, disk, read_tensors, write_tensors
from common.errors import StateError, WireError
from common.orders import Answer, Update, UpdateHeader
from common.wire.messages import PENDING_ANSWER

log = logging.getLogger("fedmtl.client")

_PRIVATE = "private.safetensors"
_NEXT_PRIVATE = "private.next.safetensors"
_PREVIOUS_PRIVATE = "private.previous.safetensors"
_PENDING = "update.bin"
_SPARE = ".update.bin.spare"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Durability:
    """What a client's files outlive."""

    flushed: bool
    """Whether every file is brought to the disk itself (fsync), so that it outlives the machine's power."""
    copied: bool
    """Whether the private values before the newest are kept as well, in case those are damaged."""
    repeatable: bool
    """Whether an update without private values may be made again from the same seeds, with the same bits, after a kill.

    Such answers are neither written nor kept for handing them in again. Those with private values are
    written, because these become final only after the coordinator's commit.
    """


DURABLE = Durability(flushed=True, copied=True, repeatable=False)
"""Of clients that live apart from the coordinator."""
REPEATABLE = Durability(flushed=False, copied=False, repeatable=True)
"""Of clients in the coordinator's process, with which they die."""


class RunStore:
    """One client's files for one run. Every change is whole or absent, whenever the process dies.

    Every file tells when it is damaged. Of the private values the copy before the newest is kept, and takes its place
    then; a damaged update is made again, but what the coordinator says of it still decides about its private values.
    The file of a forgotten update is kept for the next one: writing over it costs a third of writing a new one.

    Raises (every method): `StateError` where the disk fails, or holds nothing that can be used.
    """

    def __init__(self, folder: Path, durability: Durability = DURABLE) -> None:
        self._folder = folder
        self._durability = durability
        self.pending: Answer | None = None
        self.uncommitted, self.returning = "", False
        if durability.repeatable and not folder.is_dir():  # most of such clients never have anything to put there
            return
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.returning = any(folder.iterdir())
            self.pending = self._load_pending()
            self.uncommitted = self.pending.order_id if self.pending is not None else self._order_of_next()
            if not self.uncommitted:  # private values whose update was never kept, or rolled back
                self._forget()
                (folder / _NEXT_PRIVATE).unlink(missing_ok=True)

    def private(self) -> dict[str, Tensor] | None:
        """The committed values of the private scopes, or None before the first commit."""
        newest, previous = self._folder / _PRIVATE, self._folder / _PREVIOUS_PRIVATE
        with disk(self._folder):
            values, problem = _newest_whole(self._folder)
            # Killed while it committed, a client has no newest file, and the coordinator says again what to do.
            if problem and (newest.exists() or not self.uncommitted):
                log.warning(
                    "'%s' %s: the values before the last order take its place, in %s",
                    newest,
                    problem,
                    ", ".join(values or ()),
                )
                previous.replace(newest)
            return values

    def start_private(self, values: Mapping[str, Tensor]) -> None:
        """Commit the values that the private scopes start from."""
        with disk(self._folder):
            self._make_folder()
            self._write(_PRIVATE, values, "")

    def save(self, answer: Answer, private: Mapping[str, Tensor]) -> None:
        """Keep an answer, and the private values that belong to it, before it is handed in."""
        if private or not self._durability.repeatable:
            with disk(self._folder):
                self._make_folder()
                if private:
                    self._write(_NEXT_PRIVATE, private, answer.order_id)
                else:
                    (self._folder / _NEXT_PRIVATE).unlink(missing_ok=True)
                self._write_answer(answer)
        self.pending = None if self._durability.repeatable else answer
        self.uncommitted = answer.order_id

    def _write_answer(self, answer: Answer) -> None:
        header = PENDING_ANSWER.encode(answer.head)
        spare = self._folder / _SPARE
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            # The header holds the payload's own digest.
            file.write(xxhash.xxh3_128_digest(header) + len(header).to_bytes(8, "little") + header)
            file.write(answer.payload)
            file.truncate()
            file.flush()
            self._flush(file.fileno())
        spare.rename(self._folder / _PENDING)

    def commit(self) -> None:
        """The update is durable at the coordinator: its private values become the committed ones."""
        upcoming, newest = self._folder / _NEXT_PRIVATE, self._folder / _PRIVATE
        with disk(self._folder):
            if upcoming.is_file():
                if newest.is_file() and self._durability.copied:
                    newest.replace(self._folder / _PREVIOUS_PRIVATE)
                upcoming.replace(newest)
            self._forget()

    def roll_back(self) -> None:
        """The update will never count: go back to the committed private values."""
        # The update goes first: it must never be handed in again without its private values.
        with disk(self._folder):
            self._forget()
            (self._folder / _NEXT_PRIVATE).unlink(missing_ok=True)

    def close(self) -> None:
        """The run is over: leave nothing behind that nobody needs."""
        with disk(self._folder):
            (self._folder / _SPARE).unlink(missing_ok=True)

    def _make_folder(self) -> None:
        if self._durability.repeatable:
            self._folder.mkdir(parents=True, exist_ok=True)

    def _forget(self) -> None:
        pending = self._folder / _PENDING
        if pending.is_file():
            pending.replace(self._folder / _SPARE)
        self.pending = None
        self.uncommitted = ""

    def _load_pending(self) -> Answer | None:
        path = self._folder / _PENDING
        if not path.is_file():
            return None
        data = memoryview(path.read_bytes())
        start = _DIGEST_BYTES + 8
        end = start + int.from_bytes(data[_DIGEST_BYTES:start], "little")
        head, payload = bytes(data[start:end]), data[end:]
        try:
            if xxhash.xxh3_128_digest(head) != bytes(data[:_DIGEST_BYTES]):
                raise WireError("its checksum does not fit")
            found = PENDING_ANSWER.decode(head)
        except WireError as error:
            log.warning("'%s' is damaged (%s): the update in it is made again if it is still wanted", path, error)
            return None
        if not isinstance(found, UpdateHeader):
            return found
        if xxhash.xxh3_128_hexdigest(payload) != found.digest:
            log.warning("'%s' is damaged: %s is made again if it is still wanted", path, found.order_id)
            payload = memoryview(b"")
        return Update(found, payload)

    def _order_of_next(self) -> str:
        """The order of a damaged update, if its private values are whole: they may belong to an update that counts."""
        if not (self._folder / _PENDING).is_file():
            return ""
        try:
            return read_tensors(self._folder / _NEXT_PRIVATE)[1]
        except (FileNotFoundError, Damaged):
            return ""

    def _write(self, name: str, values: Mapping[str, Tensor], note: str) -> None:
        temporary = self._folder / f".{name}.partial"
        write_tensors(temporary, values, note, self._flush)
        temporary.rename(self._folder / name)

    def _flush(self, descriptor: int) -> None:
        if self._durability.flushed:  # else the operating system has the bytes, and outlives this process
            os.fsync(descriptor)


def read_private(folder: Path) -> dict[str, Tensor]:
    """The committed private values in a client's folder of a run, which stays as it is; nothing before the first ones.

    Raises:
        StateError: they are damaged, or the disk fails.
    """
    with disk(folder):
        return _newest_whole(folder)[0] or {}


def _newest_whole(folder: Path) -> tuple[dict[str, Tensor] | None, str]:
    """The committed private values, or those before if the newest are damaged, and then what is wrong with these."""
    newest, previous = folder / _PRIVATE, folder / _PREVIOUS_PRIVATE
    try:
        return read_tensors(newest)[0], ""
    except FileNotFoundError:
        if not previous.exists():
            return None, ""
        problem = "is missing"
    except Damaged as damage:
        problem = f"is damaged ({damage})"
    try:
        return read_tensors(previous)[0], problem
    except (FileNotFoundError, Damaged):
        raise StateError(
            f"client.state_dir: '{newest}' {problem}, and there is no whole copy of it; bring it back from a "
            f"backup, or delete '{folder}' and lose what this client alone has learnt in this run",
            "private values are damaged",
        ) from None
