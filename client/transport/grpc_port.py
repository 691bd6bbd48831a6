"""The coordinator over gRPC: deadlines, repeated calls, streams that go on after a break."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import grpc

from client.transport.channel import Connection
from client.transport.chunk_size import ChunkSize
from client.transport.handshake import certificate_lapse
from client.transport.retries import Retry, explain, final, is_refused_certificate, is_tls_problem
from client.transport.target import Target
from common.bodies import ScopeVersion
from common.errors import Reason, Refused, UnreachableError, WireError
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
from common.ports import INLINE_BYTES, Chunk, Chunks
from common.tls import TlsFiles
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
from common.wire.methods import Method

ANSWER_SECONDS = 15.0
"""Deadline of a call; a poll has its window besides."""
DOWNLOAD_IDLE_SECONDS = 30.0
"""A download without a chunk for so long is broken."""
UPLOAD_IDLE_SECONDS = 300.0
"""An upload that stands still for so long is broken; a coordinator that is short of memory makes uploads wait."""

Q = TypeVar("Q")
A = TypeVar("A")
_Download = AsyncGenerator[Chunk, None]


class GrpcCoordinator:
    """A `CoordinatorPort` over one gRPC connection. Make it inside a running event loop and close it there.

    Args:
        host: name or address of the coordinator.
        number: its port.
        tls: the client's TLS files, or None for plain text.
        client_id: spreads the pauses of different clients, always in the same way.
        patience_seconds: how long to try again without an answer before `UnreachableError`.

    Raises:
        ConfigError: a TLS file is not what it should be.
    """

    def __init__(
        self, host: str, number: int, tls: TlsFiles | None, client_id: str = "", patience_seconds: float = 300.0
    ) -> None:
        self._target = Target.of(host, number, os.environ)
        self._tls = tls
        self._link = Connection(self._target, tls)
        self._jitter = random.Random(client_id)
        self._patience = patience_seconds
        self._size = ChunkSize()
        self._poll_seconds = 30.0
        self._answered = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._link.close()

    async def describe(self) -> Description:
        """See `CoordinatorPort`."""
        return await self._call(methods.DESCRIBE, None)

    async def join(self, request: JoinRequest) -> Welcome:
        """See `CoordinatorPort`; the answer's poll window sets the deadline of polls."""
        welcome = await self._call(methods.JOIN, request)
        self._poll_seconds = welcome.poll_seconds
        return welcome

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        """See `CoordinatorPort`."""
        return await self._call(methods.POLL, PollCall(session, pending_order, answer), self._poll_seconds)

    def fetch(self, session: Session, scope: ScopeVersion, offset: int) -> AsyncIterator[Chunk]:
        """See `CoordinatorPort`; goes on by itself after a break."""
        return self._download(
            lambda at: self._stream(methods.FETCH_SLICE, FetchCall(session, scope, at, self._size.nbytes)), offset
        )

    def fetch_tokenizer(self, session: Session, offset: int) -> AsyncIterator[Chunk]:
        """See `CoordinatorPort`; goes on by itself after a break."""
        return self._download(
            lambda at: self._stream(methods.FETCH_TOKENIZER, TokenizerCall(session, at, self._size.nbytes)), offset
        )

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        """See `CoordinatorPort`; goes on by itself after a break, from where the coordinator has got to."""
        if header.nbytes <= INLINE_BYTES:
            payload = b"".join([chunk async for chunk in chunks(0)])
            start = UploadStart(session, replace(header, offset=0), payload)
            return await self._call(methods.SUBMIT_UPDATE, start, UPLOAD_IDLE_SECONDS)
        retry = self._retry()
        while True:
            try:
                return await self._upload(session, header, chunks)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self._size.broke()
                header = replace(header, offset=await self._offset_after(error, session, header, retry))

    async def upload_status(self, session: Session, order_id: str) -> UploadStatus:
        """See `CoordinatorPort`."""
        return await self._call(methods.UPLOAD_STATUS, OrderCall(session, order_id))

    async def heartbeat(self, session: Session, progress: Progress) -> bool:
        """See `CoordinatorPort`."""
        return await self._call(methods.HEARTBEAT, HeartbeatCall(session, progress))

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        """See `CoordinatorPort`."""
        await self._call(methods.REPORT_FAILURE, FailureCall(session, order_id, reason))

    async def leave(self, session: Session) -> None:
        """See `CoordinatorPort`."""
        await self._call(methods.LEAVE, session)

    async def withdraw(self, client_id: str) -> None:
        """See `CoordinatorPort`."""
        await self._call(methods.WITHDRAW, WithdrawCall(client_id))

    async def status(self, after: str = "") -> FederationStatus:
        """See `CoordinatorPort`."""
        return await self._call(methods.STATUS, after)

    async def _call(self, method: Method[Q, A], request: Q, parked_seconds: float = 0.0) -> A:
        """One request and its reply, which may be parked for a while before it is due.

        On the wire a stream of one message is a single message, so small updates come this way too.
        """
        data = method.request.encode(request)
        retry = self._retry(asyncio.get_running_loop().time() + parked_seconds)
        while True:
            send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._link.channel.unary_unary(method.path)
            try:
                reply = await send(data, timeout=parked_seconds + ANSWER_SECONDS)
            except grpc.aio.AioRpcError as error:
                await self._missed(error, retry)
            else:
                self._answered = True
                return method.reply.decode(reply)

    async def _download(self, attempt: Callable[[int], _Download], offset: int) -> _Download:
        """The chunks from `offset` on; `attempt` is made again from the offset reached whenever the stream breaks."""
        retry = self._retry()
        while True:
            try:
                async with aclosing(attempt(offset)) as chunks:
                    async for chunk in chunks:
                        retry.answered()
                        self._size.passed()
                        offset += len(chunk)
                        yield chunk
                return
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                self._size.broke()
                await self._missed(error, retry)

    async def _stream(self, method: Method[Q, Chunk], request: Q) -> _Download:
        """One attempt at a download."""
        open_stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._link.channel.unary_stream(method.path)
        call = open_stream(method.request.encode(request))
        replies = aiter(call)
        try:
            while True:
                async with asyncio.timeout(DOWNLOAD_IDLE_SECONDS):
                    data = await anext(replies, None)
                if data is None:
                    return
                chunk = method.reply.decode(data)
                if not chunk:
                    raise WireError(f"coordinator at {self._target} sends chunks without content")
                yield chunk
        finally:
            call.cancel()

    async def _upload(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        """One attempt at an upload."""
        method = methods.SUBMIT_UPDATE
        open_stream: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = self._link.channel.stream_unary(method.path)
        call = open_stream()

        async def told(message: Awaitable[None]) -> bool:
            try:
                async with asyncio.timeout(UPLOAD_IDLE_SECONDS):
                    await message
                return True
            except (asyncio.InvalidStateError, grpc.aio.InternalError):
                return False  # The call has ended; its status says why.

        try:
            await told(call.write(method.request.encode(UploadStart(session, header))))
            async with asyncio.timeout(UPLOAD_IDLE_SECONDS):
                answer = await call.initial_metadata()
            # grpc.aio hides the status of a call that ends while it writes; so nothing is written unasked.
            if any(key == methods.CONTINUE_KEY for key, _ in answer):
                async for chunk in _parts(chunks(header.offset), self._size):
                    if not await told(call.write(method.request.encode(chunk))):
                        break
                    self._size.passed()
                await told(call.done_writing())
            async with asyncio.timeout(UPLOAD_IDLE_SECONDS):
                return method.reply.decode(await call)
        finally:
            call.cancel()

    async def _offset_after(
        self, error: grpc.aio.AioRpcError | TimeoutError, session: Session, header: UpdateHeader, retry: Retry
    ) -> int:
        """Where a failed upload goes on."""
        try:
            await self._missed(error, retry)
        except Refused as refusal:
            if refusal.reason is Reason.CORRUPT and header.offset:
                return 0  # What arrived of an earlier attempt is of no use.
            raise
        received = min((await self.upload_status(session, header.order_id)).received, header.nbytes)
        if received > header.offset:
            retry.answered()
        return received

    def _retry(self, since: float | None = None) -> Retry:
        return Retry(self._target, self._jitter, self._patience, since)

    async def _missed(self, error: grpc.aio.AioRpcError | TimeoutError, retry: Retry) -> None:
        """Pause after a failed attempt, or raise what the failure stands for."""
        outcome = None if isinstance(error, TimeoutError) else final(error, str(self._target))
        if outcome is not None:
            raise outcome from None
        self._link.renew()
        if not self._answered and is_tls_problem(error):
            reason, check = explain(error)
            if self._tls is not None and is_refused_certificate(error):
                reason, check = await certificate_lapse(self._target, self._tls) or (reason, check)
            check = self._target.to_check(check)
            raise UnreachableError(f"coordinator at {self._target} not reachable: {reason}; check {check}") from None
        await retry.pause(error)


async def _parts(chunks: AsyncIterator[Chunk], size: ChunkSize) -> AsyncIterator[Chunk]:
    """The chunks in parts as large as the link lets through."""
    async for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest) > 0:
            part, rest = rest[: size.nbytes], rest[size.nbytes :]
            yield part
