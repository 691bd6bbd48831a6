"""The published vectors as clients receive them: every piece is made once and handed to everybody."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from common.orders import ScopeValues, ScopeVersion
from common.parameters.vector import Vector
from common.ports import INLINE_BYTES, PIECE_BYTES
from common.wire.pieces import framed

BUDGET_BYTES = 64 << 20
"""Pieces kept at a time. Readers of a larger model share those around the place where they read."""


class Broadcast:
    """Cuts vectors into immutable pieces, each already inside the message that carries it."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._used = 0
        self._pieces: OrderedDict[tuple[ScopeVersion, int], memoryview] = OrderedDict()
        self._inline: dict[tuple[ScopeVersion, ...], tuple[ScopeValues, ...]] = {}

    def pieces(self, scope: ScopeVersion, vector: Vector, offset: int) -> Iterator[memoryview]:
        """The vector's bytes from `offset` on, in views of at most `PIECE_BYTES`."""
        data = vector.data.cast("B")
        for start in range(offset - offset % PIECE_BYTES, len(data), PIECE_BYTES):
            piece = self._piece(scope, data, start)
            yield piece[offset - start :] if start < offset else piece

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
        """Forget all pieces: another version is published."""
        self._pieces.clear()
        self._inline.clear()
        self._used = 0

    def _piece(self, scope: ScopeVersion, data: memoryview, start: int) -> memoryview:
        key = (scope, start)
        piece = self._pieces.get(key)
        if piece is not None:
            self._pieces.move_to_end(key)
            return piece
        piece = self._pieces[key] = framed(data[start : start + PIECE_BYTES])
        self._used += len(piece)
        while self._used > self._budget:
            self._used -= len(self._pieces.popitem(last=False)[1])
        return piece
