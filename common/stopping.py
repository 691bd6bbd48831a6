"""What SIGTERM and SIGINT do: the first asks for an end in good order where somebody listens, else the process ends.

Python runs a signal's handler in the main thread, between two of its own steps. While a model is built or rows are
tokenised, that may be half a minute away. So a thread waits for signals, which the interpreter writes to a pipe as they
come, and ends the process then and there. That is safe for the reason for which `kill -9` is: what a run needs is on
disk before anybody hears of it.

SIGHUP is ignored, unless something is to be read again then: a terminal shows a run, and its end is not the end of the
run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

INTERRUPTED = 130
"""The exit code of a process that was ended."""
ENDING_SECONDS = 1.0
"""How long last words and threads may hold the process up."""

_ASKING, _HANGUP = (signal.SIGTERM, signal.SIGINT), signal.SIGHUP


class Request:
    """Whether somebody asked for an end in good order."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ask = ask
        self.noticed = False

    def hear(self) -> None:
        """Called in the thread that waits for signals."""
        self.noticed = True
        self._loop.call_soon_threadsafe(self._ask)


class _Signals:
    """The process's signals; there is one set of them, hence one of these."""

    def __init__(self) -> None:
        self.in_force = False
        self.request: Request | None = None
        self.hang_up: Callable[[], object] | None = None
        self.last_words: list[Callable[[], object]] = []

    def wait(self, pipe: int) -> None:
        """Hear signals until the pipe's other end is closed."""
        with open(pipe, "rb", buffering=0) as noticed:
            while number := noticed.read(1):
                hang_up = self.hang_up
                if number[0] == _HANGUP and hang_up is not None:
                    hang_up()
                if number[0] not in _ASKING:
                    continue
                request = self.request
                if request is None or request.noticed:
                    self._end()
                else:
                    request.hear()

    def _end(self) -> None:
        end_within(ENDING_SECONDS, INTERRUPTED)
        for speak in reversed(self.last_words):
            with suppress(OSError):
                speak()
        sys.stderr.write("interrupted\n")
        os._exit(INTERRUPTED)


_signals = _Signals()


@contextmanager
def noticed() -> Iterator[None]:
    """Hear SIGTERM and SIGINT from here on; within another such block, or outside the main thread, nothing changes."""
    if _signals.in_force or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # The interpreter hears of a signal only where a handler of Python's own is set.
    before = {number: signal.signal(number, lambda *_: None) for number in _ASKING}
    before[_HANGUP] = signal.signal(_HANGUP, signal.SIG_IGN)
    thread = threading.Thread(target=_signals.wait, args=(reading,), name="signals", daemon=True)
    thread.start()
    _signals.in_force = True
    try:
        yield
    finally:
        _signals.in_force = False
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(writing)
        thread.join()


@contextmanager
def asking(ask: Callable[[], object]) -> Iterator[Request]:
    """Within this block the first signal has `ask` called in the running event loop; the second ends the process."""
    with noticed():
        before, _signals.request = _signals.request, Request(ask)
        try:
            yield _signals.request
        finally:
            _signals.request = before


@contextmanager
def at_hang_up(call: Callable[[], object]) -> Iterator[None]:
    """Within this block SIGHUP has `call` called in the running event loop; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    with noticed():
        _signals.hang_up = lambda: loop.call_soon_threadsafe(call)
        before = signal.signal(_HANGUP, lambda *_: None)
        try:
            yield
        finally:
            signal.signal(_HANGUP, before)
            _signals.hang_up = None


@contextmanager
def at_the_end(speak: Callable[[], object]) -> Iterator[None]:
    """Within this block `speak` is called, in a thread of its own, before a signal ends the process."""
    _signals.last_words.append(speak)
    try:
        yield
    finally:
        _signals.last_words.remove(speak)


def end_within(seconds: float, code: int) -> None:
    """See to it that the process is gone by then, whatever its threads do that nobody can stop."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
