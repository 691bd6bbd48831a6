"""Time as a value that is handed in: the core never asks for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from threading import Lock
from typing import Protocol


class Clock(Protocol):
    """Seconds on a scale that only moves forward."""

    def now(self) -> float:
        """Seconds since an arbitrary fixed moment."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since boot, whatever happens to the calendar time; those that a machine sleeps may be missing."""
        return time.monotonic()


class AwakeClock:
    """Another clock, of which the time between two looks counts as at most `most` seconds.

    A process that was stopped, or whose machine was asleep or on its way to another host, could hear nobody: that time
    must count for no lease and no deadline. So somebody has to look at it more often. `lost` is what did not count.
    """

    def __init__(self, inner: Clock, most: float) -> None:
        self._inner = inner
        self._most = most
        self._seen = inner.now()
        self._looking = Lock()
        self.lost = 0.0

    def now(self) -> float:
        """Seconds of the other clock, less those that were lost; may be asked from any thread."""
        with self._looking:
            seen = self._inner.now()
            self.lost += max(seen - self._seen - self._most, 0.0)
            self._seen = seen
            return seen - self.lost


def utc_text(seconds: float, precision: str = "milliseconds") -> str:
    """A moment, in seconds since 1970, as ISO 8601 in UTC, such as `2026-03-01T12:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def today() -> str:
    """The day in UTC, as ISO 8601, such as `2026-03-01`."""
    return datetime.now(UTC).date().isoformat()


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
