"""Time as a value that is handed in: the core never asks for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Seconds on a scale that only moves forward."""

    def now(self) -> float:
        """Seconds since an arbitrary fixed moment."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since boot, not affected by changes of the calendar time."""
        return time.monotonic()


def utc_text(seconds: float, precision: str = "milliseconds") -> str:
    """A moment, in seconds since 1970, as ISO 8601 in UTC, such as `2026-03-01T12:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


class ManualClock:
    """A clock that moves when told to; for simulation and tests."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """The moment set last."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: {seconds}")
        self._now += seconds
