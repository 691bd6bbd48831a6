"""Few at a time, without letting slow ones hold up the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_A_TIME = 4
PLACE_SECONDS = 0.1
AT_MOST = 64
OF_ONE_CALLER = 2
"""Places that one caller may have: fewer than `AT_A_TIME`, so that it never has all of those."""
STILL_SECONDS = 45.0
"""A reader that takes nothing for so long is given up; clients themselves wait for 30 s, and go on where they were."""
CONTESTED_SECONDS = 5.0
"""The same where others wait for its place. Clients ask for less at a time after a break, so slow ones get on."""


class SendLimiter:
    """Lets a few at a time send what takes memory. One that takes long gives its place to the next in line.

    gRPC copies each message that it is handed and keeps it until the receiver takes it. With fast receivers only
    `AT_A_TIME` messages are on their way; slow ones add up, but never to more than `AT_MOST`, nor `OF_ONE_CALLER`.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(AT_MOST)
        self._quick = asyncio.Semaphore(AT_A_TIME)
        self._callers: dict[str, asyncio.Semaphore] = {}
        self._calls = Counter[str]()
        self._held: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Raises:
            TimeoutError: it was held for too long.
        """
        async with self._own(caller):
            if self._all.locked():
                self._hurry()
            async with self._all:
                await self._quick.acquire()
                held = True

                def give_back() -> None:
                    nonlocal held
                    if held:
                        self._quick.release()
                    held = False

                loop = asyncio.get_running_loop()
                timer = loop.call_later(PLACE_SECONDS, give_back)
                limit = asyncio.timeout(STILL_SECONDS)
                try:
                    async with limit:
                        self._held[limit] = loop.time()
                        yield
                finally:
                    self._held.pop(limit, None)
                    timer.cancel()
                    give_back()

    @asynccontextmanager
    async def _own(self, caller: str) -> AsyncIterator[None]:
        """One of the caller's places."""
        self._calls[caller] += 1
        try:
            async with self._callers.setdefault(caller, asyncio.Semaphore(OF_ONE_CALLER)):
                yield
        finally:
            self._calls[caller] -= 1
            if not self._calls[caller]:
                del self._calls[caller], self._callers[caller]

    def _hurry(self) -> None:
        """Let the oldest place that has its full time yet have less of it."""
        if self._held:
            limit = next(iter(self._held))
            limit.reschedule(max(self._held.pop(limit) + CONTESTED_SECONDS, asyncio.get_running_loop().time()))
