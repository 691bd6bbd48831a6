"""Signs of life: what a client says of itself while it prepares, fetches, works or hands in."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from client.training.loop import TrainingStopped
from common.errors import FedMTLError
from common.orders import Progress, Session, Welcome
from common.ports import CoordinatorPort

LEAST_SECONDS = 0.01
"""Heartbeats are at least so far apart, whatever a coordinator asks for."""

log = logging.getLogger("fedmtl.client")


class Pulse:
    """Heartbeats, with what they say. `unwanted` is set as soon as an answer to one says so, and ends the work."""

    def __init__(self, port: CoordinatorPort) -> None:
        self._port = port
        self.phase = ""
        self.fraction = 0.0
        self._tells = True
        self.unwanted = threading.Event()

    def enter(self, phase: str, tells: bool = True) -> None:
        """Begin with another part of the work; how fast it goes on tells of the number of rows, unless nobody hears."""
        self.phase, self.fraction, self._tells = phase, 0.0, tells

    def progress(self, fraction: float) -> None:
        """Note how much is done; called from the worker's thread after every batch.

        Raises:
            TrainingStopped: the work is not wanted any more.
        """
        self.fraction = fraction if self._tells else 0.0
        if self.unwanted.is_set():
            raise TrainingStopped("cancelled")

    @asynccontextmanager
    async def during(self, welcome: Welcome, order_id: str, phase: str) -> AsyncIterator[None]:
        """Send heartbeats all the while: a client that is at work is there, however long it takes."""
        self.enter(phase)
        beats = asyncio.create_task(self._beat(welcome.session, order_id, welcome.heartbeat_seconds))
        try:
            yield
        finally:
            beats.cancel()

    async def _beat(self, session: Session, order_id: str, every: float) -> None:
        while True:
            await asyncio.sleep(max(every, LEAST_SECONDS))
            try:
                unwanted = await self._port.heartbeat(session, Progress(order_id, self.phase, self.fraction))
            except FedMTLError as error:  # the work's own calls report what is wrong
                log.debug("heartbeat: %s", error)
                continue
            if unwanted and order_id:
                self.unwanted.set()
