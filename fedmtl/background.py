"""Coroutines from code that may or may not run in a loop, such as a notebook's; and those that go on beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A coroutine in a thread and a loop of its own, from `start` on.

    Loop and task are there before the thread is, so that whatever ends the wait finds something to cancel.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.loop = asyncio.new_event_loop()
        self._task = self.loop.create_task(work)
        self._ended = threading.Event()  # a join that is interrupted takes the thread for ended (Python 3.11)
        self._thread = threading.Thread(target=self._carry_out)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self) -> None:
        """Return when it has ended."""
        self._ended.wait()

    def ended(self) -> bool:
        """Whether it has."""
        return self._ended.is_set()

    def close(self) -> None:
        """End it, wait for that if it has begun, and give back what it took."""
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self._task.cancel)  # changes nothing where it has ended
        if self._thread.ident is not None:
            self._ended.wait()
        self.loop.close()

    def result(self) -> T:
        """What the coroutine gave or raised; it has ended."""
        return self._task.result()

    def _carry_out(self) -> None:
        try:
            self.loop.run_until_complete(asyncio.wait([self._task]))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self._ended.set()


class Running(Generic[T]):
    """A coordinator or a client at work beside this code.

    Args:
        beside: its work, which has not begun.
        ask: asks it, in its loop, to end in good order.
        ready: set once it is at work, or has failed.
    """

    def __init__(self, beside: Background[T], ask: Callable[[], object], ready: threading.Event) -> None:
        self._beside, self._ask = beside, ask
        try:
            beside.start()
            ready.wait()
        except KeyboardInterrupt:
            beside.close()
            raise

    def stop(self) -> None:
        """Ask it to end in good order; `wait` says when it has."""
        if not self._beside.ended():
            self._beside.loop.call_soon_threadsafe(self._ask)

    def wait(self) -> T:
        """What it gave, as soon as it has ended. An interruption ends it in good order, a second one at once.

        Raises:
            FedMTLError: what went wrong.
        """
        try:
            try:
                self._beside.wait()
            except KeyboardInterrupt:
                self.stop()
                self._beside.wait()
                raise
        finally:
            self._beside.close()
        return self._beside.result()


def completed(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives, also where a loop runs already, as in a notebook; an interruption ends it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    beside = Background(work)
    try:
        beside.start()
        beside.wait()
    finally:
        beside.close()
    return beside.result()
