"""A coordinator in memory behind real gRPC on loopback, and a network that breaks."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import xxhash

from client.transport.grpc_port import GrpcCoordinator
from common.bodies import ScopeVersion, Train, TrainingSettings
from common.capabilities import Capabilities
from common.errors import Reason, Refused
from common.orders import (
    Answer,
    ClientStatus,
    Description,
    FederationStatus,
    JoinRequest,
    ModelArchitecture,
    Order,
    PollKind,
    PollReply,
    Progress,
    Receipt,
    ScopePayload,
    Session,
    UpdateHeader,
    UpdateState,
    UploadStatus,
    Welcome,
)
from common.ports import Chunks, CoordinatorPort
from common.tasks import KNOWN_TASKS
from common.tls import TlsFiles
from server.service.grpc_server import RunningServer, start_server

HOST = "127.0.0.1"
TASK = KNOWN_TASKS["sst2"]
SHARED = ScopeVersion("shared", 4)
MODEL = bytes(range(256)) * 12_000
TOKENIZER = bytes(range(255)) * 2_000
PAYLOAD = bytes(reversed(range(251))) * 12_000
HEADER = UpdateHeader(
    "order-1",
    "dense-float32",
    (ScopePayload("shared", 4, "ab" * 32, len(PAYLOAD)),),
    xxhash.xxh3_128(PAYLOAD).hexdigest(),
    (),
    2.5,
)
ORDER = Order("order-1", 2, 4, (SHARED,), 60.0, Train(TrainingSettings(1, 8, 0.1, 0.2, 0.0, 1.0, 8), seed=9))
JOIN = JoinRequest("clinic-a", (TASK,), (("sst2", 10),), Capabilities(("dense-float32",)))
NOBODY = Session("run-1", "clinic-a", "none")


async def cut(data: bytes, offset: int = 0, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for at in range(offset, len(data), size):
        yield data[at : at + size]


@dataclass
class Memory:
    """A coordinator for one client and one order. `breaks` is raised by the next calls instead of an answer."""

    breaks: Exception | None = None
    token: int = 0
    work: asyncio.Event = field(default_factory=asyncio.Event)
    parked: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    staged: bytearray = field(default_factory=bytearray)
    receipt: Receipt | None = None
    fetched_from: list[int] = field(default_factory=list)
    heard: list[object] = field(default_factory=list)
    poll_seconds: float = 30.0

    def _check(self, session: Session) -> None:
        if self.breaks is not None:
            raise self.breaks
        if session.token != f"t{self.token}":
            raise Refused(Reason.SUPERSEDED, f"client {session.client_id}: another process took over")

    async def describe(self) -> Description:
        return Description(ModelArchitecture("{}", "cross", 64, "ab" * 32, len(TOKENIZER)), (TASK,))

    async def join(self, request: JoinRequest) -> Welcome:
        if self.breaks is not None:
            raise self.breaks
        if request.tasks != (TASK,):
            raise Refused(Reason.UNKNOWN_TASK, f"unknown task '{request.tasks[0].name}'")
        self.token += 1
        architecture = ModelArchitecture("{}", "cross", 64, "ab" * 32, len(TOKENIZER))
        session = Session("run-1", request.client_id, f"t{self.token}")
        rules, digests = (("*", "shared"),), (("shared", "ab" * 32),)
        return Welcome(session, "Probe", architecture, (TASK,), rules, digests, self.poll_seconds, 5.0)

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        self._check(session)
        self.parked.set()
        try:
            await self.work.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        update_state = UpdateState.OPEN if pending_order else UpdateState.NONE
        return PollReply(PollKind.ORDER, update_state, "quorum: 1 of 2", ORDER)

    async def fetch(self, session: Session, scope: ScopeVersion, offset: int) -> AsyncIterator[bytes]:
        self._check(session)
        self.fetched_from.append(offset)
        async for chunk in cut(MODEL, offset):
            yield chunk

    async def fetch_tokenizer(self, session: Session, offset: int) -> AsyncIterator[bytes]:
        self._check(session)
        self.fetched_from.append(-1 - offset)
        async for chunk in cut(TOKENIZER, offset):
            yield chunk

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        self._check(session)
        if self.receipt is not None:
            if self.receipt.digest != header.digest:
                raise Refused(Reason.DIFFERENT_UPDATE, f"order {header.order_id}: already answered otherwise")
            return self.receipt
        if header.offset not in (0, len(self.staged)):
            raise Refused(Reason.CORRUPT, f"upload continues at {header.offset}, not at {len(self.staged)}")
        del self.staged[header.offset :]
        self.idle.clear()
        try:
            async for chunk in chunks(header.offset):
                self.staged += chunk
        finally:
            self.idle.set()
        if len(self.staged) != header.nbytes or xxhash.xxh3_128(self.staged).hexdigest() != header.digest:
            raise Refused(Reason.CORRUPT, f"order {header.order_id}: bytes are missing or wrong")
        self.receipt = Receipt(header.order_id, header.digest)
        return self.receipt

    async def upload_status(self, session: Session, order_id: str) -> UploadStatus:
        self._check(session)
        await self.idle.wait()
        return UploadStatus(UpdateState.OPEN, len(self.staged))

    async def heartbeat(self, session: Session, progress: Progress) -> bool:
        self._check(session)
        self.heard.append(progress)
        return progress.fraction >= 0.5

    async def report_failure(self, session: Session, order_id: str, reason: str) -> None:
        self._check(session)
        self.heard.append((order_id, reason))

    async def leave(self, session: Session) -> None:
        self._check(session)
        self.token += 1

    async def withdraw(self, client_id: str) -> None:
        self.heard.append((client_id, "withdrew"))

    async def status(self, after: str = "") -> FederationStatus:
        clients = (ClientStatus("clinic-a", ("sst2",), True, "training"),)
        return FederationStatus("Probe", "run-1", "open", 2, 5, "quorum: 1 of 2", clients, 1)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


@asynccontextmanager
async def served(memory: CoordinatorPort, number: int = 0, tls: TlsFiles | None = None) -> AsyncIterator[RunningServer]:
    server = await start_server(memory, HOST, number, tls)
    try:
        yield server
    finally:
        await server.stop(0)


def client(number: int, patience: float = 30.0, tls: TlsFiles | None = None, host: str = HOST) -> GrpcCoordinator:
    return GrpcCoordinator(host, number, tls, "clinic-a", patience)


@asynccontextmanager
async def connected(memory: Memory) -> AsyncIterator[GrpcCoordinator]:
    async with served(memory) as server, client(server.port_number) as coordinator:
        yield coordinator


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Relay:
    """Passes connections on to a port, and cuts the nth one off when `cuts[n]` bytes went through it."""

    def __init__(self, number: int, *cuts: int) -> None:
        self._target = number
        self._cuts = list(cuts)
        self.connections = 0

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._cuts[self.connections] if self.connections < len(self._cuts) else 1 << 60
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(HOST, self._target)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal left
            while (data := await source.read(1 << 14)) and (left := left - len(data)) > 0:
                sink.write(data)
                await sink.drain()
            writer.transport.abort()
            far_writer.transport.abort()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)


class Heard(logging.Handler):
    """Sets an event when the transport says that it tries again."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "not reachable" in record.getMessage():
            self.event.set()


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
