"""An update's bytes where they lie, for a coordinator in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from common.ports import PIECE_BYTES, Piece


@dataclass(frozen=True)
class Payload:
    """A payload in memory, and the `Pieces` of it. Who is called in the same process may read `data` as it lies."""

    data: memoryview

    async def __call__(self, offset: int) -> AsyncIterator[Piece]:
        """The bytes from `offset` on."""
        for start in range(offset, len(self.data), PIECE_BYTES):
            yield self.data[start : start + PIECE_BYTES]
