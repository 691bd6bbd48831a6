"""The published vectors as clients receive them: every chunk is made once and handed to everybody."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from common.bodies import ScopeVersion
from common.orders import ScopeValues
from common.parameters.vector import Vector
from common.ports import CHUNK_BYTES, INLINE_BYTES
from common.wire.chunks import framed

BUDGET_BYTES = 64 << 20
"""Chunks kept at a time. Readers of a larger model share those around the place where they read."""


class Broadcast:
    """Cuts vectors into immutable chunks, each already inside the message that carries it."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._chunks: OrderedDict[tuple[ScopeVersion, int], memoryview] = OrderedDict()
        self._inline: dict[tuple[ScopeVersion, ...], tuple[ScopeValues, ...]] = {}

    def chunks(self, scope: ScopeVersion, vector: Vector, offset: int) -> Iterator[memoryview]:
        """The vector's bytes from `offset` on, in views of at most `CHUNK_BYTES`."""
        data = vector.data.cast("B")
        for start in range(offset - offset % CHUNK_BYTES, len(data), CHUNK_BYTES):
            chunk = self._chunk(scope, data, start)
            yield chunk[offset - start :] if start < offset else chunk

    def inline(self, scopes: tuple[ScopeVersion, ...], vectors: Mapping[str, Vector]) -> tuple[ScopeValues, ...]:
        """The values of those small scopes that fit into an order, `INLINE_BYTES` in all."""
        values = self._inline.get(scopes)
        if values is None:
            left, chosen = INLINE_BYTES, []
            for scope in scopes:
                if vectors[scope.scope].nbytes <= left:
                    left -= vectors[scope.scope].nbytes
                    chosen.append(ScopeValues(scope.scope, vectors[scope.scope].tobytes()))
            values = self._inline[scopes] = tuple(chosen)
        return values

    def clear(self) -> None:
        """Forget all chunks: another version is published."""
        self._chunks.clear()
        self._inline.clear()
        self._used = 0

    def _chunk(self, scope: ScopeVersion, data: memoryview, start: int) -> memoryview:
        key = (scope, start)
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
            return chunk
        chunk = self._chunks[key] = framed(data[start : start + CHUNK_BYTES])
        self._used += len(chunk)
        while self._used > self._budget:
            self._used -= len(self._chunks.popitem(last=False)[1])
        return chunk
