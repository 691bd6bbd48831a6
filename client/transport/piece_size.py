"""How much one message of a stream carries, by what the link lets through."""

from __future__ import annotations

from common.ports import LEAST_PIECE_BYTES, PIECE_BYTES

GROWS_AFTER = 16
"""Pieces in a row that must pass before the next ones are twice as large."""


class PieceSize:
    """A message that does not arrive whole is lost, so pieces are halved after a break and grow again later."""

    def __init__(self) -> None:
        self.nbytes = PIECE_BYTES
        self._passed = 0

    def broke(self) -> None:
        """The stream broke: less at a time from now on."""
        self.nbytes = max(self.nbytes // 2, LEAST_PIECE_BYTES)
        self._passed = 0

    def passed(self) -> None:
        """A piece went through."""
        self._passed += 1
        if self._passed == GROWS_AFTER:
            self.nbytes = min(self.nbytes * 2, PIECE_BYTES)
            self._passed = 0
