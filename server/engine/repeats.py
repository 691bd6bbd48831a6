"""Lines that one client could have written without end: told a few times, and then counted."""

from __future__ import annotations

from dataclasses import dataclass

from common.log_fields import LogFields

WINDOW_SECONDS = 60.0
TOLD = 3
"""Lines of one kind about one client in a window; the others are one line with their number when it ends."""
COUNTED = frozenset({"update_refused", "client_joined", "client_left"})
"""Events that a client causes by itself, as often as it likes."""


@dataclass
class _Window:
    ends: float
    lines: int = 0


class Repeats:
    """Decides which lines are told. Time is the coordinator's, in seconds."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}

    def tells(self, fields: LogFields, now: float) -> bool:
        """Whether a line is told; else it is counted."""
        event, client = fields.get("event", ""), fields.get("client", "")
        if event not in COUNTED:
            return True
        window = self._windows.setdefault((event, client), _Window(now + WINDOW_SECONDS))
        window.lines += 1
        return window.lines <= TOLD

    def ended(self, now: float) -> list[tuple[str, LogFields]]:
        """A line for each window that is over and had more than was told."""
        over = [key for key, window in self._windows.items() if now >= window.ends]
        lines: list[tuple[str, LogFields]] = []
        for event, client in over:
            more = self._windows.pop((event, client)).lines - TOLD
            if more > 0:
                what = f"{event} of {client}: {more} more in {WINDOW_SECONDS:g} s"
                lines.append((what, LogFields(event=event, client=client, reason=f"{more} more")))
        return lines
