"""The wire without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

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
from common.ports import INLINE_BYTES, Chunk, Chunks, CoordinatorPort, single
from common.wire import methods
from common.wire.calls import (
    FailureCall,
    FetchCall,
    HeartbeatCall,
    OrderCall,
    PollCall,
    TokenizerCall,
    UploadStart,
    WithdrawCall,
)
from common.wire.codec import Codec
from common.wire.methods import Method

V = TypeVar("V")
Q = TypeVar("Q")


class CodecCoordinator:
    """A `CoordinatorPort` that hands every value to `inner` as bytes and back, exactly as the network would."""

    def __init__(self, inner: CoordinatorPort) -> None:
        self._inner = inner

    async def describe(self) -> Description:
        """See `CoordinatorPort`."""
        _sent(methods.DESCRIBE, None)
        return _through(methods.DESCRIBE.reply, await self._inner.describe())

    async def join(self, request: JoinRequest) -> Welcome:
        """See `CoordinatorPort`."""
        return _through(methods.JOIN.reply, await self._inner.join(_sent(methods.JOIN, request)))

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        """See `CoordinatorPort`."""
        call = _sent(methods.POLL, PollCall(session, pending_order, answer))
        return _through(methods.POLL.reply, await self._inner.poll(call.session, call.pending_order, call.answer))

    def fetch(self, session: Session, scope: ScopeVersion, offset: int) -> AsyncIterator[Chunk]:
        """See `CoordinatorPort`."""
        call = _sent(methods.FETCH_SLICE, FetchCall(session, scope, offset))
        return _each(methods.FETCH_SLICE.reply, self._inner.fetch(call.session, call.scope, call.offset))

    def fetch_tokenizer(self, session: Session, offset: int) -> AsyncIterator[Chunk]:
        """See `CoordinatorPort`."""
        call = _sent(methods.FETCH_TOKENIZER, TokenizerCall(session, offset))
        return _each(methods.FETCH_TOKENIZER.reply, self._inner.fetch_tokenizer(call.session, call.offset))

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        """See `CoordinatorPort`."""
        small = header.nbytes <= INLINE_BYTES
        payload = b"".join([chunk async for chunk in chunks(0)]) if small else None
        start = _sent(methods.SUBMIT_UPDATE, UploadStart(session, header, payload))
        if not isinstance(start, UploadStart):
            raise TypeError("a header became something else on the wire")
        data = start.payload
        receipt = await self._inner.submit(
            start.session, start.header, lambda offset: _payload(chunks(offset)) if data is None else single(data)
        )
        return _through(methods.SUBMIT_UPDATE.reply, receipt)

    async def upload_status(self, session: Session, order_id: str) -> UploadStatus:
        """See `CoordinatorPort`."""
        call = _sent(methods.UPLOAD_STATUS, OrderCall(session, order_id))
        return _through(methods.UPLOAD_STATUS.reply, await self._inner.upload_status(call.session, call.order_id))

    async def heartbeat(self, session: Session, progress: Progress) -> bool:
        """See `CoordinatorPort`."""
        call = _sent(methods.HEARTBEAT, HeartbeatCall(session, progress))
        return _through(methods.HEARTBEAT.reply, await self._inner.heartbeat(call.session, call.progress))

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        """See `CoordinatorPort`."""
        call = _sent(methods.REPORT_FAILURE, FailureCall(session, order_id, reason))
        await self._inner.report_failure(call.session, call.order_id, call.reason)

    async def leave(self, session: Session) -> None:
        """See `CoordinatorPort`."""
        await self._inner.leave(_sent(methods.LEAVE, session))

    async def withdraw(self, client_id: str) -> None:
        """See `CoordinatorPort`."""
        await self._inner.withdraw(_sent(methods.WITHDRAW, WithdrawCall(client_id)).client_id)

    async def status(self, after: str = "") -> FederationStatus:
        """See `CoordinatorPort`."""
        return _through(methods.STATUS.reply, await self._inner.status(_sent(methods.STATUS, after)))


def _through(codec: Codec[V], value: V) -> V:
    return codec.decode(codec.encode(value))


def _sent(method: Method[Q, Any], request: Q) -> Q:
    return _through(method.request, request)


async def _each(codec: Codec[Chunk], chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    async for chunk in chunks:
        yield _through(codec, chunk)


async def _payload(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    async for chunk in chunks:
        part = _through(methods.SUBMIT_UPDATE.request, chunk)
        if not isinstance(part, UploadStart):
            yield part
