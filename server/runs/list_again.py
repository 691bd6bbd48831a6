"""The list of clients, read again while a run goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from common.config import Config
from common.errors import FedMTLError
from server.engine.coordinator import Coordinator
from server.runs.assembly import roster_of

log = logging.getLogger("fedmtl.server")


class ListAgain:
    """Reads `server.clients` again, once for all who asked meanwhile.

    Args:
        read: gives the configuration as it is now; None where no file holds it.
    """

    def __init__(self, read: Callable[[], Config] | None) -> None:
        self._read = read
        self._asked = False

    def ask(self) -> None:
        """Have the list read soon."""
        self._asked = True

    async def tick(self, coordinator: Coordinator) -> None:
        """Read the list if somebody asked; a configuration that is wrong is one warning, and changes nothing."""
        if not self._asked or self._read is None:
            return
        self._asked = False
        try:
            config = await asyncio.to_thread(self._read)
        except FedMTLError as error:
            problem = " ".join(error.message.split())
            log.warning("%s; the list of clients from before stays, mend it and send SIGHUP again", problem)
            return
        await coordinator.admit(roster_of(config))
