"""Updates on their way in: staged in bounded memory, checked, and only then offered to the core."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.errors import Reason, Refused
from common.orders import UpdateHeader
from server.aggregation.streaming import is_finite

BUDGET_BYTES = 64 << 20
"""Uploads staged at a time may take this much memory, or one whole update where that is larger."""

STALL_SECONDS = 30.0
"""A stream that brings nothing for so long is given up; what arrived stands."""


@dataclass
class _Staged:
    """One update's bytes so far. `reader` counts the streams that have written to it: only the latest one may."""

    header: UpdateHeader
    buffer: NDArray[np.uint8]
    received: int = 0
    reader: int = 0
    active: bool = False
    hash: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)


class Uploads:
    """Receives updates piece by piece. What does not fit the budget waits under the transport's flow control."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._staged: dict[str, _Staged] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def received(self, order_id: str) -> int:
        """Bytes that stand of an interrupted upload."""
        staged = self._staged.get(order_id)
        return staged.received if staged is not None else 0

    async def receive(self, header: UpdateHeader, pieces: Callable[[int], AsyncIterator[bytes]]) -> NDArray[np.uint8]:
        """Read a whole update.

        A broken stream leaves what arrived, so that the client can go on from there.

        Returns:
            The payload, uint8, of `header.nbytes` bytes; it stays staged until `discard`.

        Raises:
            Refused: too many or too few bytes, a digest that does not match, or values that are not finite.
        """
        staged = await self._stage(header)
        staged.reader += 1
        mine, staged.active = staged.reader, True
        try:
            async for piece in _unstalled(pieces(header.offset), header.order_id):
                if staged.reader != mine:
                    raise Refused(Reason.CORRUPT, f"order {header.order_id}: another upload of it took over")
                self._append(staged, piece)
        finally:
            if staged.reader == mine:
                staged.active = False
                self._admit_waiting()
        if staged.received != header.nbytes:
            raise Refused(
                Reason.CORRUPT,
                f"order {header.order_id}: the stream ended after {staged.received} of {header.nbytes} bytes",
            )
        try:
            await asyncio.to_thread(_check, staged, self.take(header.order_id))
        except Refused:
            self.discard(header.order_id)
            raise
        staged.active = True
        return staged.buffer

    def take(self, order_id: str) -> list[tuple[str, NDArray[np.float32]]]:
        """The deltas of a received update, one float32 vector per scope, as views."""
        staged = self._staged[order_id]
        deltas, offset = [], 0
        for scope in staged.header.scopes:
            part = staged.buffer[offset : offset + scope.nbytes]
            deltas.append((scope.scope, part.view(np.float32)))
            offset += scope.nbytes
        return deltas

    def discard(self, order_id: str) -> None:
        """Forget an update's bytes, if there are any."""
        staged = self._staged.pop(order_id, None)
        if staged is not None:
            self._used -= len(staged.buffer)
            self._admit_waiting()

    def discard_all_but(self, order_ids: frozenset[str]) -> None:
        """Forget the bytes of every order that is no longer open."""
        for order_id in [name for name in self._staged if name not in order_ids]:
            self.discard(order_id)

    async def _stage(self, header: UpdateHeader) -> _Staged:
        known = self._staged.get(header.order_id)
        if known is not None and known.header.digest == header.digest and header.offset == known.received:
            return known
        if header.offset:
            at = known.received if known is not None else 0
            raise Refused(Reason.CORRUPT, f"order {header.order_id}: upload continues at {header.offset}, not at {at}")
        self.discard(header.order_id)
        while self._used and self._used + header.nbytes > self._budget and not self._evict_idle():
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._admit_waiting()
                raise
        self._used += header.nbytes
        staged = _Staged(header, np.empty(header.nbytes, dtype=np.uint8))
        self._staged[header.order_id] = staged
        return staged

    def _append(self, staged: _Staged, piece: bytes) -> None:
        end = staged.received + len(piece)
        if end > len(staged.buffer):
            self.discard(staged.header.order_id)
            raise Refused(
                Reason.TOO_LARGE,
                f"order {staged.header.order_id}: more than the {len(staged.buffer)} announced bytes",
            )
        staged.buffer[staged.received : end] = np.frombuffer(piece, dtype=np.uint8)
        staged.hash.update(piece)
        staged.received = end

    def _evict_idle(self) -> bool:
        """Make room by forgetting one interrupted upload, if there is one; its client starts over."""
        idle = next((name for name, staged in self._staged.items() if not staged.active), None)
        if idle is None:
            return False
        self._used -= len(self._staged.pop(idle).buffer)
        return True

    def _admit_waiting(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


async def _unstalled(pieces: AsyncIterator[bytes], order_id: str) -> AsyncIterator[bytes]:
    """The pieces, as long as each comes in time; a silent client must not hold memory that others wait for."""
    while True:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(Reason.CORRUPT, f"order {order_id}: no byte for {STALL_SECONDS:g} s; send again") from None
        yield piece


def _check(staged: _Staged, deltas: list[tuple[str, NDArray[np.float32]]]) -> None:
    order_id = staged.header.order_id
    if staged.hash.hexdigest() != staged.header.digest:
        raise Refused(Reason.CORRUPT, f"order {order_id}: the bytes do not match their digest; send again")
    for scope, delta in deltas:
        if not is_finite(delta):
            raise Refused(Reason.NOT_FINITE, f"order {order_id}: scope '{scope}' holds NaN or infinite values")
