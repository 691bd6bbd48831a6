"""What a comparison is at, and when it will be done: a line on a terminal, and now and then one in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.text import Text

from common.stopping import at_the_end

log = logging.getLogger("fedmtl.compare")

LOG_SECONDS = 60.0
"""Between two lines in the log."""


class RunsProgress:
    """Tells how far all runs together are; see `of`.

    Args:
        console: where the line is shown if it is a terminal; else it is in the log.
        left: how much work there is; see `Part.work`.
        clock: seconds from any start.
    """

    def __init__(self, console: Console | None, left: float, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._clock = clock
        self._left = left
        self._done = 0.0
        self._seconds = 0.0
        self._log_at = 0.0

    def expect(self, left: float) -> None:
        """There is so much work left now, for instance because settings have been chosen."""
        self._left = left

    @contextmanager
    def of(self, title: str, rounds: int, work: float) -> Iterator[Callable[[int], None]]:
        """Inside, one simulation is under way; what is given wants the number of every round that has closed."""
        started = self._clock()
        with ExitStack() as opened:
            live = self._live(opened)

            def show(number: int) -> None:
                share = min(number / rounds, 1.0)
                said = f"{title}: round {number} of {rounds}; {self._remaining(started, share * work)}"
                if live is not None:
                    live.update(Text(said), refresh=True)
                elif self._clock() >= self._log_at:
                    self._log_at = self._clock() + LOG_SECONDS
                    log.info("%s", said)

            show(0)
            yield show
        self._seconds += self._clock() - started
        self._done += work
        self._left -= work

    def _live(self, opened: ExitStack) -> Live | None:
        if self._console is None or not self._console.is_terminal:
            return None
        opened.enter_context(at_the_end(self._console.show_cursor))
        return opened.enter_context(Live(console=self._console, auto_refresh=False, transient=True))

    def _remaining(self, started: float, done: float) -> str:
        """How long all runs will take, at the speed so far."""
        finished = self._done + done
        if not finished:
            return "the time that is left is not known yet"
        seconds = (self._seconds + self._clock() - started) / finished * (self._left - done)
        return f"about {told(seconds)} left"


def told(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
