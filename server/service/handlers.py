"""Remote procedures on top of a `CoordinatorPort`: bytes in, bytes out, every error as the protocol says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import grpc

from common.errors import Refused, RunFolderError, UnreachableError, WireError
from common.ports import Chunk, CoordinatorPort, parts_of, single
from common.wire import methods
from common.wire.calls import FetchCall, TokenizerCall, UploadStart
from common.wire.codec import Codec
from common.wire.limits import LINE_CHARS
from common.wire.methods import Method
from server.service.callers import Context, Doorkeeper
from server.service.pace import Paces
from server.service.send_limiter import SendLimiter

IDLE_SECONDS = 120.0
"""How long a stream may stand still before it is given up; the client continues it."""

D = TypeVar("D", FetchCall, TokenizerCall)
Q = TypeVar("Q")
A = TypeVar("A")
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

_LOG = logging.getLogger(__name__)


class Router(grpc.GenericRpcHandler):
    """Finds the handler of a remote procedure by its path. With `mutual` TLS a caller is whom its certificate says."""

    def __init__(self, port: CoordinatorPort, mutual: bool) -> None:
        self._handlers = _handlers(port, Doorkeeper(mutual))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler, or None for an unknown path."""
        return self._handlers.get(handler_call_details.method)


def _handlers(port: CoordinatorPort, door: Doorkeeper) -> dict[str, Handler]:
    limiter = SendLimiter()

    rows: tuple[tuple[Method[Any, Any], Handler], ...] = (
        _unary(door, methods.DESCRIBE, lambda _: port.describe()),
        _unary(door, methods.JOIN, port.join),
        _unary(door, methods.POLL, lambda call: port.poll(call.session, call.pending_order, call.answer)),
        _download(
            door,
            methods.FETCH_SLICE,
            lambda call: _in_parts(port.fetch(call.session, call.scope, call.offset), call.chunk_bytes),
            limiter,
        ),
        _download(
            door,
            methods.FETCH_TOKENIZER,
            lambda call: _in_parts(port.fetch_tokenizer(call.session, call.offset), call.chunk_bytes),
            limiter,
        ),
        _upload(door, port),
        _unary(door, methods.UPLOAD_STATUS, lambda call: port.upload_status(call.session, call.order_id)),
        _unary(door, methods.HEARTBEAT, lambda call: port.heartbeat(call.session, call.progress)),
        _unary(
            door, methods.REPORT_FAILURE, lambda call: port.report_failure(call.session, call.order_id, call.reason)
        ),
        _unary(door, methods.LEAVE, port.leave),
        _unary(door, methods.WITHDRAW, lambda call: port.withdraw(call.client_id)),
        _unary(door, methods.STATUS, port.status),
    )
    return {method.path: handler for method, handler in rows}


def _unary(door: Doorkeeper, method: Method[Q, A], call: Callable[[Q], Awaitable[A]]) -> tuple[Method[Q, A], Handler]:
    async def handle(data: bytes, context: Context) -> bytes:
        async with _answering(method, context, door.paces):
            caller = door.caller(context)
            request = door.admitted(method.request.decode(data), caller)
            reply = await call(request)
            door.note(request, caller)
            return _encoded(method.reply, reply)

    return method, grpc.unary_unary_rpc_method_handler(handle)


def _download(
    door: Doorkeeper, method: Method[D, Chunk], call: Callable[[D], AsyncIterator[Chunk]], limiter: SendLimiter
) -> tuple[Method[D, Chunk], Handler]:
    async def handle(data: bytes, context: Context) -> None:
        async with _answering(method, context, door.paces):
            request = door.admitted(method.request.decode(data), door.caller(context))
            async for chunk in call(request):  # checks who calls before there is a chunk
                async with limiter.place(request.session.client_id):
                    await context.write(_encoded(method.reply, chunk))

    return method, grpc.unary_stream_rpc_method_handler(handle)


async def _in_parts(chunks: AsyncIterator[Chunk], size: int) -> AsyncIterator[Chunk]:
    async for chunk in chunks:
        for part in parts_of(chunk, size):
            yield part


def _upload(door: Doorkeeper, port: CoordinatorPort) -> tuple[Method[Any, Any], Handler]:
    method = methods.SUBMIT_UPDATE

    async def handle(parts: AsyncIterator[bytes], context: Context) -> bytes:
        async with _answering(method, context, door.paces):
            async with asyncio.timeout(IDLE_SECONDS):
                start = method.request.decode(await anext(parts, b""))
            if not isinstance(start, UploadStart):
                raise WireError("UploadPart: the first part is not a header")
            data = door.admitted(start, door.caller(context)).payload
            receipt = await port.submit(
                start.session, start.header, lambda _: _payload(parts, context) if data is None else single(data)
            )
            return _encoded(method.reply, receipt)

    return method, grpc.stream_unary_rpc_method_handler(handle)


async def _payload(parts: AsyncIterator[bytes], context: Context) -> AsyncIterator[Chunk]:
    await context.send_initial_metadata(((methods.CONTINUE_KEY, "1"),))
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            data = await anext(parts, None)
        if data is None:
            return
        chunk = methods.SUBMIT_UPDATE.request.decode(data)
        if isinstance(chunk, UploadStart):
            raise WireError("UploadPart: a second header")
        yield chunk


def _encoded(codec: Codec[A], value: A) -> bytes:
    try:
        return codec.encode(value)
    except WireError as error:
        # The caller's message was fine: this must not be answered as its mistake.
        raise RuntimeError(f"the coordinator made a wrong answer: {error.message}") from error


@asynccontextmanager
async def _answering(method: Method[Any, Any], context: Context, paces: Paces) -> AsyncIterator[None]:
    """Count the call, and turn what a handler raises into the status that the protocol has for it."""
    try:
        paces.take(method.path, context.peer())
        yield
    except Refused as error:
        reason = ((methods.REASON_KEY, error.reason.value),)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.message[:LINE_CHARS], reason)
    except WireError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message[:LINE_CHARS])
    except RunFolderError:  # the coordinator ends with it; clients wait until it is back
        await context.abort(grpc.StatusCode.UNAVAILABLE, methods.STOPPING)
    except UnreachableError as error:  # too much at a time: the same later is fine
        await context.abort(grpc.StatusCode.UNAVAILABLE, error.message[:LINE_CHARS])
    except TimeoutError as error:
        text = str(error) or "the stream stood still for too long"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
    except Exception:
        _LOG.exception("%s failed", method.path)
        await context.abort(grpc.StatusCode.INTERNAL, methods.INTERNAL_ERROR)
