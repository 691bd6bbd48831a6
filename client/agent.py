"""The client daemon: join, prepare, take part, come back after every break, say goodbye."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from client.jobs.executor import OpenExecutor, ThreadExecutor
from client.jobs.kept import private_values
from client.jobs.local_client import LocalClient
from client.limits import fetch_tokenizer
from client.masking import SumMember
from client.participation import REJOIN, Participation, PreparedRun, first_of, layout_of
from client.pulse import Pulse
from client.state.pins import Pins
from client.state.secrets import SecretStore
from client.state.store import DURABLE, Durability, RunStore
from common.errors import FedMTLError, Refused, RunFailedError, UnreachableError
from common.log_fields import about
from common.orders import Session, Welcome
from common.ports import CoordinatorPort

log = logging.getLogger("fedmtl.client")

GOODBYE_SECONDS = 5.0
STOP_SECONDS = 15.0
"""How long a client that was told to stop may take, goodbye included."""


class Agent:
    """One client of one coordinator until the run is over.

    Args:
        port: the coordinator.
        client: who takes part.
        state: folder for what the client keeps, one folder per run.
        open_executor: where its jobs run.
        durability: of what it keeps.
    """

    def __init__(
        self,
        port: CoordinatorPort,
        client: LocalClient,
        state: Path,
        open_executor: OpenExecutor = ThreadExecutor,
        durability: Durability = DURABLE,
    ) -> None:
        self._port = port
        self._client = client
        self._state = state
        self._open_executor = open_executor
        self._durability = durability
        self._limits = client.computing.limits
        self._stop = asyncio.Event()
        self._pulse = Pulse(port)
        self._prepared: PreparedRun | None = None
        self.orders_done = 0

    def stop(self) -> None:
        """Drain: give up the order under way, say goodbye and return from `run`."""
        self._pulse.unwanted.set()
        self._stop.set()

    async def run(self) -> None:
        """Take part until the coordinator says that the run is finished.

        Raises:
            RunFailedError: the federation stopped early.
            Refused: this client may not take part.
            UnreachableError: the coordinator stayed silent for too long.
        """
        sessions, ended = asyncio.ensure_future(self._sessions()), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((sessions, ended), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((sessions,), timeout=STOP_SECONDS)
            if sessions.done():
                sessions.result()
            else:
                log.warning("not done within %g s; this client stops without a goodbye", STOP_SECONDS)
        finally:
            ended.cancel()
            sessions.cancel()

    async def _sessions(self) -> None:
        """One session after the other, since a coordinator that was restarted knows nobody."""
        while not self._stop.is_set():
            try:
                if await self._take_part():
                    return
            except Refused as refusal:
                if refusal.reason not in REJOIN:
                    raise
                log.warning("%s", refusal.message)

    async def _take_part(self) -> bool:
        """One session: join and work until the run ends (True) or this client is told to stop (False)."""
        welcome = await first_of(self._stop.wait(), self._port.join(self._client.request))
        if welcome is None:
            return False
        finished = False
        try:
            prepared = await self._ready_for(welcome)
            if prepared is not None:
                finished = await self._work_for(welcome, prepared)
        except (Refused, UnreachableError, RunFailedError):
            raise
        except FedMTLError:  # nobody shall wait for a client that cannot go on
            await self._say_goodbye(welcome.session)
            raise
        if not finished:
            await self._say_goodbye(welcome.session)
        return finished

    async def _work_for(self, welcome: Welcome, prepared: PreparedRun) -> bool:
        participation = Participation(self._port, welcome, prepared, self._limits, self._pulse, self._stop)
        try:
            finished = await participation.work()
        finally:
            self.orders_done += participation.handed_in
        if finished:
            log.info("run '%s' is finished; this client worked on %d orders", welcome.run_name, self.orders_done)
        return finished

    async def _ready_for(self, welcome: Welcome) -> PreparedRun | None:
        """What this client has of a run, or of what the run has become; None if it is told to stop first."""
        if self._prepared is None or self._prepared.layout != layout_of(welcome):
            self._prepared = None
            async with self._pulse.during(welcome, "", "preparing"):
                self._prepared = await first_of(self._stop.wait(), self._prepare(welcome))
        return None if self._stop.is_set() else self._prepared

    async def _prepare(self, welcome: Welcome) -> PreparedRun:
        session, folder = welcome.session, self._state / welcome.session.run_id
        self._limits.check_welcome(welcome)
        tokenizer = await fetch_tokenizer(self._port, session, welcome.architecture)
        executor = await asyncio.to_thread(self._open_executor, self._client, welcome, tokenizer, folder)
        store = RunStore(folder, self._durability)
        # Before the first order, which it would hold up.
        await private_values(self._port, session, executor.schemas, store)
        pins = Pins(self._state, session.client_id, self._client.computing.members)
        secrets = SecretStore(folder, self._durability)
        member = SumMember(session.run_id, session.client_id, secrets, pins)
        return PreparedRun(layout_of(welcome), executor, store, member)

    async def _say_goodbye(self, session: Session) -> None:
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._port.leave(session)
        except (TimeoutError, FedMTLError) as error:
            log.warning("could not say goodbye: %s", error)
        log.info("left", extra=about(event="left", client=session.client_id))
