"""The coordinator as a client sees it. Real gRPC, the codec in-process and a direct call all speak this."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from common.bodies import ScopeVersion
from common.orders import (
    Answer,
    Description,
    FederationStatus,
    JoinRequest,
    PollReply,
    Progress,
    Receipt,
    Session,
    UpdateHeader,
    UploadStatus,
    Welcome,
)

CHUNK_BYTES = 1 << 20
"""Size of one chunk of a stream; gRPC's default message limit stays as it is."""

LEAST_CHUNK_BYTES = 1 << 14
"""Chunks get smaller on links that break, but not smaller than this."""

INLINE_BYTES = 1 << 16
"""So much data may ride inside an order, or inside the first message of an update, and needs no stream of its own."""

Chunk = bytes | memoryview

Chunks = Callable[[int], AsyncIterator[Chunk]]
"""Gives a payload from a byte offset on, in chunks of at most `CHUNK_BYTES`; may be called again after a break."""


def fits_inline(answer: Answer) -> bool:
    """Whether an answer may come with a poll."""
    return answer.nbytes <= INLINE_BYTES


@dataclass(frozen=True)
class Payload:
    """A payload in memory, and the `Chunks` of it. Who is called in the same process may read `data` as it lies."""

    data: memoryview

    async def __call__(self, offset: int) -> AsyncIterator[Chunk]:
        """The bytes from `offset` on."""
        for start in range(offset, len(self.data), CHUNK_BYTES):
            yield self.data[start : start + CHUNK_BYTES]


class CoordinatorPort(Protocol):
    """Every call can be repeated; a call that breaks a rule raises `Refused` and changes nothing.

    Raises (any call): `Refused` with the reason, `UnreachableError` when no answer came in time, `WireError` where
    one side does not follow the protocol. A transport repeats calls and continues broken streams on its own.
    """

    async def describe(self) -> Description:
        """What to know before joining."""
        ...

    async def join(self, request: JoinRequest) -> Welcome:
        """Become a member, or come back."""
        ...

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        """Ask for work; parked until there is some or the poll window ends.

        `pending_order` names the client's last uncommitted answer, or is empty. `answer` is that answer, if it is small
        and not yet handed in; it is taken or refused first, as by `submit`.
        """
        ...

    def fetch(self, session: Session, scope: ScopeVersion, offset: int) -> AsyncIterator[Chunk]:
        """The bytes of one scope's vector from `offset` on, in chunks."""
        ...

    def fetch_tokenizer(self, session: Session, offset: int) -> AsyncIterator[Chunk]:
        """The tokenizer's files, packed, from `offset` on, in chunks."""
        ...

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        """Hand in an update; the same update again gets the same receipt.

        The coordinator asks `chunks(header.offset)` once. What it gets may end early where a connection broke.
        """
        ...

    async def upload_status(self, session: Session, order_id: str) -> UploadStatus:
        """How much of an interrupted upload stands."""
        ...

    async def heartbeat(self, session: Session, progress: Progress) -> bool:
        """Say that work goes on. True means: stop this order, it is no longer wanted."""
        ...

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        """The order cannot be carried out; `reason` never quotes data."""
        ...

    async def leave(self, session: Session) -> None:
        """Go away in good order."""
        ...

    async def withdraw(self, client_id: str) -> None:
        """Leave this client out for good; what it handed in is named in the run folder, and not taken out of models."""
        ...

    async def status(self, after: str = "") -> FederationStatus:
        """Who is there, which round, what it waits for."""
        ...


def parts_of(chunk: Chunk, size: int) -> Iterator[Chunk]:
    """A chunk in parts of at most `size` bytes, without a copy."""
    if len(chunk) <= size:
        yield chunk
        return
    view = memoryview(chunk)
    for start in range(0, len(view), size):
        yield view[start : start + size]


async def single(data: Chunk) -> AsyncIterator[Chunk]:
    """A stream of one chunk."""
    yield data
