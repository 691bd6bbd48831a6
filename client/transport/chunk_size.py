"""How much one message of a stream carries, by what the link lets through."""

from __future__ import annotations

from common.ports import CHUNK_BYTES, LEAST_CHUNK_BYTES

GROWS_AFTER = 16
"""Chunks in a row that must pass before the next ones are twice as large."""


class ChunkSize:
    """A message that does not arrive whole is lost, so chunks are halved after a break and grow again later."""

    def __init__(self) -> None:
        self.nbytes = CHUNK_BYTES
        self._passed = 0

    def broke(self) -> None:
        """The stream broke: less at a time from now on."""
        self.nbytes = max(self.nbytes // 2, LEAST_CHUNK_BYTES)
        self._passed = 0

    def passed(self) -> None:
        """A chunk went through."""
        self._passed += 1
        if self._passed == GROWS_AFTER:
            self.nbytes = min(self.nbytes * 2, CHUNK_BYTES)
            self._passed = 0
