"""Few at a time, without letting slow ones hold up the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_A_TIME = 4
PLACE_SECONDS = 0.1
AT_MOST = 64


class SendLimiter:
    """Lets a few at a time send what takes memory. One that takes long gives its place to the next in line.

    gRPC copies each message that it is handed and keeps it until the receiver takes it. With fast receivers only
    `AT_A_TIME` messages are on their way; slow ones add up, but never to more than `AT_MOST`.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(AT_MOST)
        self._quick = asyncio.Semaphore(AT_A_TIME)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        async with self._all:
            await self._quick.acquire()
            held = True

            def give_back() -> None:
                nonlocal held
                if held:
                    self._quick.release()
                held = False

            timer = asyncio.get_running_loop().call_later(PLACE_SECONDS, give_back)
            try:
                yield
            finally:
                timer.cancel()
                give_back()
