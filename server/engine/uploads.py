"""Updates on their way in: staged in bounded memory, checked, and only then offered to the core."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.bodies import RING
from common.errors import Reason, Refused
from common.orders import UpdateHeader
from common.parameters.encodings import ENCODINGS, EncodedDelta
from common.parameters.schema import ParameterSchema
from common.ports import INLINE_BYTES, LEAST_CHUNK_BYTES, Chunk, Payload

BUDGET_BYTES = 64 << 20
"""Uploads staged at a time may take this much memory, or one whole update where that is larger."""

STALL_SECONDS = 30.0
"""A stream that brings less than `LEAST_BYTES` in so long is given up; what arrived stands until others need room."""

LEAST_BYTES = LEAST_CHUNK_BYTES
"""The smallest chunk of a client whose link breaks again and again: slower links bring no update home anyway."""


@dataclass
class _Staged:
    """One update's bytes so far. `reader` counts the streams that have written to it: only the latest one may.

    `sealed` bytes are whole and checked and wait for the core's word; nothing may replace them. A `borrowed` buffer is
    the client's own, in this process.
    """

    header: UpdateHeader
    buffer: NDArray[np.uint8]
    received: int = 0
    reader: int = 0
    reading: bool = False
    sealed: bool = False
    borrowed: bool = False
    hash: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    @property
    def idle(self) -> bool:
        """Whether it is an interrupted upload that nobody continues at present."""
        return not (self.reading or self.sealed)

    def deltas(self, schemas: Mapping[str, ParameterSchema]) -> list[tuple[str, EncodedDelta]]:
        """One encoded delta per scope, whose payloads are views; none of integers, which mean nothing one by one."""
        if self.header.codec == RING:
            return []
        encoding = ENCODINGS[self.header.codec]
        deltas, offset = [], 0
        for scope in self.header.scopes:
            payload = self.buffer[offset : offset + scope.nbytes]
            deltas.append((scope.scope, EncodedDelta(encoding, schemas[scope.scope], payload)))
            offset += scope.nbytes
        return deltas


class Uploads:
    """Receives updates chunk by chunk. What does not fit the budget waits under the transport's flow control.

    Their headers must have been checked: codec, scopes and sizes are some that the federation with `schemas` has.
    Payloads stay encoded here, so an update takes as much memory as it took on the wire.
    """

    def __init__(self, schemas: Mapping[str, ParameterSchema], budget_bytes: int = BUDGET_BYTES) -> None:
        self._schemas = schemas
        self._budget = budget_bytes
        self._used = 0
        self._staged: dict[str, _Staged] = {}
        self._spare: list[NDArray[np.uint8]] = []
        self._spare_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def received(self, order_id: str) -> int:
        """Bytes that stand of an interrupted upload."""
        staged = self._staged.get(order_id)
        return staged.received if staged is not None else 0

    async def receive(self, header: UpdateHeader, chunks: Callable[[int], AsyncIterator[Chunk]]) -> NDArray[np.uint8]:
        """Read a whole update.

        A broken stream leaves what arrived, so that the client can go on from there.

        Returns:
            The payload, uint8, of `header.nbytes` bytes; it stays staged until `discard`.

        Raises:
            Refused: too many or too few bytes, a digest that does not match, a payload that its encoding does not
                have, or values that are not finite.
        """
        if isinstance(chunks, Payload) and len(chunks.data) == header.nbytes:
            return await self._borrow(header, chunks.data)
        staged = await self._stage(header)
        if not staged.sealed:
            # What has arrived of the stream before since the client asked comes again, and is left out.
            await self._read(staged, _without(chunks(header.offset), staged.received - header.offset))
        return staged.buffer

    async def _borrow(self, header: UpdateHeader, data: memoryview) -> NDArray[np.uint8]:
        """Stage an update where it lies in this process: nothing is copied, and nothing can be damaged on the way.

        Only its values are checked. The client keeps the memory as it is until its call returns.
        """
        staged = _Staged(header, np.frombuffer(data, dtype=np.uint8), header.nbytes, sealed=True, borrowed=True)
        if header.nbytes <= INLINE_BYTES:
            refusal = _bad_values(staged, self._schemas)
        else:
            refusal = await asyncio.to_thread(_bad_values, staged, self._schemas)
        if refusal is not None:
            raise refusal
        self.discard(header.order_id)
        self._staged[header.order_id] = staged
        return staged.buffer

    def dense_bytes(self, order_id: str) -> int:
        """Bytes of a staged update's deltas once they are decoded, which is what folding it costs."""
        header = self._staged[order_id].header
        if header.codec == RING:
            return header.nbytes
        return sum(self._schemas[scope.scope].nbytes for scope in header.scopes)

    def take(self, order_id: str) -> list[tuple[str, EncodedDelta]]:
        """The deltas of a received update, one per scope; valid until `discard`."""
        return self._staged[order_id].deltas(self._schemas)

    def payload(self, order_id: str) -> NDArray[np.uint8]:
        """The bytes of a received update, uint8, as they came; valid until `discard`."""
        return self._staged[order_id].buffer

    def discard(self, order_id: str) -> None:
        """Forget an update's bytes, if there are any."""
        staged = self._staged.pop(order_id, None)
        if staged is not None:
            self._release(staged)
            self._admit_waiting()

    def discard_all_but(self, order_ids: frozenset[str]) -> None:
        """Forget the bytes of every order that is no longer open."""
        for order_id in [name for name in self._staged if name not in order_ids]:
            self.discard(order_id)

    async def _stage(self, header: UpdateHeader) -> _Staged:
        """The upload that this one continues, or room for a new one as soon as there is some."""
        waited = False
        try:
            while True:
                known = self._continued(header)
                if known is not None:
                    return known
                self.discard(header.order_id)
                if self._make_room(header.nbytes):
                    break
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                if waited:
                    self._waiting.appendleft(turn)
                else:
                    self._waiting.append(turn)
                waited = True
                await turn
            self._used += header.nbytes
            self._staged[header.order_id] = staged = _Staged(header, self._buffer(header.nbytes))
            return staged
        finally:
            self._admit_waiting()

    def _continued(self, header: UpdateHeader) -> _Staged | None:
        known = self._staged.get(header.order_id)
        if known is not None and known.header.digest == header.digest:
            starts_over = header.offset == 0 < known.received
            if known.sealed or (header.offset <= known.received and not starts_over):
                return known
        elif known is not None and known.sealed:
            raise Refused(Reason.CORRUPT, f"order {header.order_id}: another upload of it is complete; ask again")
        if header.offset:
            at = known.received if known is not None else 0
            raise Refused(Reason.CORRUPT, f"order {header.order_id}: upload continues at {header.offset}, not at {at}")
        return None

    async def _read(self, staged: _Staged, chunks: AsyncIterator[Chunk]) -> None:
        """Read a stream to its end, check the whole and seal it."""
        order_id, size = staged.header.order_id, len(staged.buffer)
        staged.reader += 1
        mine, staged.reading = staged.reader, True
        try:
            async with aclosing(_unstalled(chunks, order_id)) as stream:
                async for chunk in stream:
                    self._require_latest(staged, mine)
                    self._append(staged, chunk)
            self._require_latest(staged, mine)
            if staged.received != size:
                text = f"order {order_id}: the stream ended after {staged.received} of {size} bytes"
                raise Refused(Reason.CORRUPT, text)
            if size <= INLINE_BYTES:  # sooner done than handed to a thread
                refusal = _problem(staged, self._schemas)
            else:
                refusal = await asyncio.to_thread(_problem, staged, self._schemas)
            self._require_latest(staged, mine)
            if refusal is not None:
                self.discard(order_id)
                raise refusal
            staged.sealed = True
        finally:
            if staged.reader == mine:
                staged.reading = False
                self._admit_waiting()

    def _require_latest(self, staged: _Staged, reader: int) -> None:
        """Check that a stream still writes to what will be counted."""
        order_id = staged.header.order_id
        if staged.reader != reader or self._staged.get(order_id) is not staged:
            raise Refused(Reason.CORRUPT, f"order {order_id}: another upload took over, or its round closed; ask again")

    def _append(self, staged: _Staged, chunk: Chunk) -> None:
        end = staged.received + len(chunk)
        if end > len(staged.buffer):
            self.discard(staged.header.order_id)
            raise Refused(
                Reason.TOO_LARGE,
                f"order {staged.header.order_id}: more than the {len(staged.buffer)} announced bytes",
            )
        staged.buffer[staged.received : end] = np.frombuffer(chunk, dtype=np.uint8)
        staged.hash.update(chunk)
        staged.received = end

    def _make_room(self, nbytes: int) -> bool:
        """Whether an update may be staged; forgets interrupted ones for it, whose clients then start over."""
        if self._used + nbytes <= self._budget:
            return True
        busy = sum(len(staged.buffer) for staged in self._staged.values() if not (staged.idle or staged.borrowed))
        if busy and busy + nbytes > self._budget:
            return False
        for name in [name for name, staged in self._staged.items() if staged.idle]:
            if self._used + nbytes > self._budget:
                self._release(self._staged.pop(name))
        return True

    def _buffer(self, nbytes: int) -> NDArray[np.uint8]:
        """Memory for an update: that of an earlier one where it fits, since fresh memory costs page faults."""
        for place, buffer in enumerate(self._spare):
            if nbytes <= len(buffer) <= nbytes + nbytes // 4:
                self._spare_bytes -= len(buffer)
                return self._spare.pop(place)[:nbytes]
        self._drop_spares(self._budget - self._used - nbytes)
        return np.empty(nbytes, dtype=np.uint8)

    def _release(self, staged: _Staged) -> None:
        if staged.borrowed:
            return
        self._used -= len(staged.buffer)
        buffer = staged.buffer if staged.buffer.base is None else staged.buffer.base
        if len(buffer) > INLINE_BYTES and self._used + self._spare_bytes + len(buffer) <= self._budget:
            self._spare.append(buffer)
            self._spare_bytes += len(buffer)

    def _drop_spares(self, most_bytes: int) -> None:
        while self._spare and self._spare_bytes > most_bytes:
            self._spare_bytes -= len(self._spare.pop(0))

    def _admit_waiting(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


async def _unstalled(chunks: AsyncIterator[Chunk], order_id: str) -> AsyncGenerator[Chunk, None]:
    """The chunks, as long as enough comes in time; a slow client must not hold memory that others wait for."""
    loop = asyncio.get_running_loop()
    due, arrived = loop.time() + STALL_SECONDS, 0
    while True:
        try:
            async with asyncio.timeout_at(due):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            slow = f"order {order_id}: too slow, {arrived} bytes in {STALL_SECONDS:g} s; least is {LEAST_BYTES}"
            raise TimeoutError(slow) from None
        arrived += len(chunk)
        if arrived >= LEAST_BYTES:
            due, arrived = loop.time() + STALL_SECONDS, 0
        yield chunk


async def _without(chunks: AsyncIterator[Chunk], nbytes: int) -> AsyncIterator[Chunk]:
    """The chunks without their first `nbytes` bytes."""
    async for chunk in chunks:
        if nbytes < len(chunk):
            yield chunk[nbytes:] if nbytes else chunk
        nbytes = max(nbytes - len(chunk), 0)


def _problem(staged: _Staged, schemas: Mapping[str, ParameterSchema]) -> Refused | None:
    """What is wrong with the bytes of a whole update."""
    order_id = staged.header.order_id
    if staged.hash.hexdigest() != staged.header.digest:
        return Refused(Reason.CORRUPT, f"order {order_id}: the bytes do not match their digest; send again")
    return _bad_values(staged, schemas)


def _bad_values(staged: _Staged, schemas: Mapping[str, ParameterSchema]) -> Refused | None:
    """What is wrong with the values of a whole update."""
    order_id = staged.header.order_id
    for scope, delta in staged.deltas(schemas):
        try:
            delta.check()
        except Refused as refusal:
            return Refused(refusal.reason, f"order {order_id}: scope '{scope}' {refusal.message}")
    return None
