"""The coordinator as clients call it. It knows neither sockets nor files by name."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from common.bodies import ScopeVersion
from common.clock import Clock, today
from common.errors import Reason, Refused, UnreachableError
from common.orders import (
    Answer,
    Description,
    FederationStatus,
    JoinRequest,
    ModelArchitecture,
    Order,
    PollKind,
    PollReply,
    Progress,
    Receipt,
    Reply,
    Session,
    UpdateHeader,
    UpdateState,
    UploadStatus,
    Welcome,
)
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, is_candidate, is_control, is_private
from common.parameters.vector import Vector
from common.ports import CHUNK_BYTES, Chunk, Chunks, single
from server.aggregation.strategy import AggregationStrategy
from server.core.admission import check_answer, require_client
from server.core.answers import answer_poll, describe, is_wanted, update_state_of
from server.core.bodies import proximal_terms
from server.core.client_list import ClientList
from server.core.events import (
    Answered,
    DrainRequested,
    Joined,
    Left,
    ListChanged,
    OrderFailed,
    RolledBack,
    Seen,
    Started,
    Tick,
    UpdateRefused,
    Withdrew,
)
from server.core.facts import Traffic
from server.core.opening import waits_for
from server.core.phases import ENDED
from server.core.privacy import is_rolled_back
from server.core.probing import candidate_version
from server.core.state import ClientRecord, FederationState, RunSettings
from server.engine.effect_handler import EffectHandler
from server.engine.observer import Observer
from server.engine.writer import Writer
from server.storage.journal import Journal
from server.storage.models import ModelStore


@dataclass(frozen=True)
class Federation:
    """What the coordinator serves besides the published model.

    `schemas` covers every scope, private ones included; `private_vectors` are the initial values of private scopes.
    """

    run_name: str
    architecture: ModelArchitecture
    rules: tuple[tuple[str, str], ...]
    schemas: Mapping[str, ParameterSchema]
    tokenizer: bytes
    private_vectors: Mapping[str, Vector]
    strategy: AggregationStrategy = field(default_factory=AggregationStrategy)
    poll_seconds: float = 30.0


MOST_CALLS = 64
"""Calls of one client that stay open for a while. An honest one has few, and some of links that broke unnoticed."""

_LAST_WORDS = frozenset({PollKind.FINISHED, PollKind.FAILED, PollKind.DRAINING})


class Coordinator:
    """Implements `CoordinatorPort`. All changes go through the writer, one event at a time."""

    def __init__(
        self,
        settings: RunSettings,
        state: FederationState,
        federation: Federation,
        journal: Journal,
        models: ModelStore,
        clock: Clock,
        observer: Observer | None = None,
    ) -> None:
        handler = EffectHandler(journal, models, state.completed_rounds, federation.schemas, federation.strategy)
        self.writer = Writer(settings, state, handler, federation.run_name, observer)
        self._federation = federation
        self.journal = journal
        self._clock = clock
        self._calls = Counter[str]()
        self._told: set[str] = set()
        self._heard = asyncio.Event()
        before = state.traffic
        self.bytes_down, self.bytes_up, self._seconds_before = before.bytes_down, before.bytes_up, before.seconds
        self._started = clock.now()

    @property
    def settings(self) -> RunSettings:
        """What does not change during the run."""
        return self.writer.settings

    @property
    def state(self) -> FederationState:
        """The state after the last event."""
        return self.writer.state

    @property
    def vectors(self) -> Mapping[str, Vector]:
        """The published values of the travelling scopes."""
        return self.writer.handler.vectors

    async def start(self) -> None:
        """Begin, or go on where the journal left off."""
        await self.writer.apply(Started(self._clock.now()))

    async def tick(self) -> None:
        """Let deadlines and leases take effect."""
        await self.writer.apply(Tick(self._clock.now(), frozenset(self._calls), self._traffic()))

    async def drain(self) -> None:
        """Open no further round; clients are told to come back later."""
        await self.writer.apply(DrainRequested(self._clock.now()))

    async def admit(self, roster: ClientList) -> None:
        """Go on with another list of clients; those who may not stay are out."""
        await self.writer.apply(ListChanged(self._clock.now(), roster, today()))

    async def everybody_heard(self) -> None:
        """Return when every client that is present has been told that the run is over or stopping."""
        while {client.client_id for client in self.state.present()} - self._told:
            self._heard.clear()
            await self._heard.wait()

    def _traffic(self) -> Traffic:
        seconds = self._seconds_before + self._clock.now() - self._started
        return Traffic(self.bytes_down, self.bytes_up, round(seconds, 3))

    def _client(self, session: Session) -> ClientRecord:
        return require_client(self.settings, self.state, session)

    @contextmanager
    def _connected(self, client_id: str) -> Iterator[None]:
        """A call of a client that stays open for a while; those that stand still are ended by limits of their own."""
        if self._calls[client_id] >= MOST_CALLS:
            raise UnreachableError(f"client '{client_id}' has {MOST_CALLS} calls open already; end some, or wait")
        self._calls[client_id] += 1
        try:
            yield
        finally:
            self._calls[client_id] -= 1
            if not self._calls[client_id]:
                del self._calls[client_id]

    # The calls of `CoordinatorPort`, in the order in which a client makes them.

    async def describe(self) -> Description:
        """The tasks, and what reads their rows."""
        return Description(self._federation.architecture, self.settings.tasks)

    async def join(self, request: JoinRequest) -> Welcome:
        """Join the run, or come back; the newest process with a client id wins."""
        if self.state.phase in ENDED and request.client_id not in self.state.clients:
            raise Refused(Reason.ENDED, f"run '{self._federation.run_name}' is over ({self.state.phase.value})")
        token = secrets.token_hex(8)
        await self.writer.apply(Joined(self._clock.now(), request, token, today()))
        federation = self._federation
        client = self.state.clients[request.client_id]
        held = self.settings.held_scopes(federation.schemas, client, client.tasks)
        return Welcome(
            session=Session(self.settings.run_id, request.client_id, token),
            run_name=federation.run_name,
            architecture=federation.architecture,
            tasks=self.settings.tasks,
            rules=self.settings.membership.rules(federation.rules, client.client_id, client.tasks),
            schema_digests=tuple((scope, federation.schemas[scope].digest) for scope in held),
            poll_seconds=federation.poll_seconds,
            heartbeat_seconds=self.settings.lease_seconds / 4,
        )

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        """Park until there is something to say, at most `poll_seconds`."""
        if answer is not None:
            payload = answer.payload
            await self._hand_in(session, answer.head, lambda _: single(payload))
        deadline = asyncio.get_running_loop().time() + self._federation.poll_seconds
        if self.state.phase not in ENDED:
            client = self._client(session)
            activity = "update handed in" if pending_order else "waiting for work"
            await self.writer.apply(Seen(self._clock.now(), client.client_id, activity))
            if is_rolled_back(self.state, pending_order):
                await self.writer.apply(RolledBack(self._clock.now(), client.client_id, pending_order))
        while True:
            self.writer.require_whole()
            wake = self.writer.wake
            reply = answer_poll(self.settings, self.state, self._client(session), pending_order, self._clock.now())
            undecided = reply.update_state in (UpdateState.NONE, UpdateState.OPEN)
            remaining = deadline - asyncio.get_running_loop().time()
            if reply.kind in _LAST_WORDS:
                self._told.add(session.client_id)
                self._heard.set()
            if reply.order is not None:
                return replace(reply, order=self._with_inline(reply.order))
            if reply.kind is not PollKind.WAIT or not undecided or remaining <= 0:
                return replace(reply, waiting_for=reply.waiting_for or waits_for(self.settings, self.state))
            with self._connected(session.client_id), suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await wake.wait()

    def _with_inline(self, order: Order) -> Order:
        published = tuple(w for w in order.needed if not is_private(Scope.parse(w.scope).base))
        inline = self.writer.handler.broadcast.inline(published, self.vectors)
        self.bytes_down += sum(len(item.data) for item in inline)
        return replace(order, inline=inline)

    async def fetch(self, session: Session, scope: ScopeVersion, offset: int) -> AsyncIterator[Chunk]:
        """The scope's bytes at the version asked for, as long as it is the published one."""
        client = self._client(session)
        name = Scope.parse(scope.scope).base
        if name not in self.settings.held_scopes(self._federation.schemas, client, client.tasks):
            raise Refused(Reason.UNKNOWN_TASK, f"scope '{scope.scope}' is not for client '{client.client_id}'")
        private = is_private(name)
        version = 0 if private else self.state.versions[name]
        if is_control(scope.scope):
            version = self.state.version_of(scope.scope)
        elif is_candidate(scope.scope):
            version = candidate_version(self.settings, self.state, Scope.parse(scope.scope))
        elif scope.scope != name:
            version = next(
                (t.version for t in proximal_terms(self.settings, self.state, [ScopeVersion(name, version)])), -1
            )
        if scope.version != version:
            raise Refused(Reason.TOO_LATE, f"scope '{scope.scope}' is at version {version}, not {scope.version}")
        vector = self._federation.private_vectors[name] if private else self.vectors[scope.scope]
        with self._connected(client.client_id):
            for chunk in self.writer.handler.broadcast.chunks(scope, vector, offset):
                self.bytes_down += len(chunk)
                yield chunk

    async def fetch_tokenizer(self, session: Session, offset: int) -> AsyncIterator[Chunk]:
        """The packed tokenizer."""
        data = self._federation.tokenizer
        with self._connected(self._client(session).client_id):
            for start in range(offset, len(data), CHUNK_BYTES):
                self.bytes_down += len(data[start : start + CHUNK_BYTES])
                yield data[start : start + CHUNK_BYTES]

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        """Stage, check, fold. The same update again gets the same receipt."""
        await self._hand_in(session, header, chunks)
        return Receipt(header.order_id, header.digest)

    async def _hand_in(self, session: Session, answer: UpdateHeader | Reply, chunks: Chunks) -> None:
        """Check an answer, receive what comes with it, and let it count; the same again changes nothing."""
        client = self._client(session)
        if answer.order_id == client.committed:  # what became of an earlier attempt was lost
            return
        try:
            _, repeated = check_answer(self.settings, self.state, client.client_id, answer)
            if not repeated:
                if isinstance(answer, UpdateHeader) and answer.scopes:
                    await self._receive(client, answer, chunks)
                await self.writer.apply(Answered(self._clock.now(), client.client_id, answer, self._traffic()))
        except Refused as refusal:
            if refusal.reason is Reason.CORRUPT:  # damaged or cut on the way: the client sends the rest, or again
                raise
            await self.writer.apply(UpdateRefused(self._clock.now(), client.client_id, refusal.message, refusal.reason))
            raise

    async def _receive(self, client: ClientRecord, header: UpdateHeader, chunks: Chunks) -> None:
        with self._connected(client.client_id):
            payload = await self.writer.handler.uploads.receive(header, chunks)
        self.bytes_up += len(payload)  # in a line of its own: others add to it during the wait

    async def upload_status(self, session: Session, order_id: str) -> UploadStatus:
        """Where an upload stands."""
        client = self._client(session)
        return UploadStatus(
            update_state_of(self.state, client, order_id), self.writer.handler.uploads.received(order_id)
        )

    async def heartbeat(self, session: Session, progress: Progress) -> bool:
        """Renew the lease; True tells the client to stop."""
        client = self._client(session)
        if self.state.phase not in ENDED:
            activity = f"{progress.phase} {progress.fraction:.0%}"
            await self.writer.apply(Seen(self._clock.now(), client.client_id, activity))
        return not is_wanted(self.state, client, progress.order_id)

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        """Count the order as failed."""
        client = self._client(session)
        await self.writer.apply(OrderFailed(self._clock.now(), client.client_id, order_id, reason))

    async def leave(self, session: Session) -> None:
        """Take the client off the list."""
        client = self._client(session)
        if self.state.phase not in ENDED:
            await self.writer.apply(Left(self._clock.now(), client.client_id))

    async def withdraw(self, client_id: str) -> None:
        """Leave the client out for good, also after the run."""
        await self.writer.apply(Withdrew(self._clock.now(), client_id))

    async def status(self, after: str = "") -> FederationStatus:
        """The whole picture; of the clients a page."""
        return describe(self.settings, self.state, self._federation.run_name, after)
