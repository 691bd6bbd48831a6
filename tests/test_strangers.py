"""Strangers and clients that misbehave, beside honest ones whose federation goes on all the same."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest

from client.agent import Agent
from client.transport.grpc_port import GrpcCoordinator
from common.bodies import ScopeVersion
from common.clock import ManualClock
from common.config import render
from common.errors import ConfigError, Reason, Refused, UnreachableError
from common.orders import FederationStatus, PollReply, ScopePayload, Session
from common.ports import CHUNK_BYTES, single
from common.wire import methods
from common.wire.calls import FetchCall
from server.core.answers import SHOWN
from server.engine.coordinator import MOST_CALLS
from server.engine.repeats import TOLD, WINDOW_SECONDS
from server.service.connections import MOST_CONNECTIONS, RESERVED_FILES, connection_limit
from server.service.grpc_server import start_server
from server.service.pace import Pace, address_of
from tests.federations import array_config, make_client
from tests.grpc_cases import HEADER, HOST, JOIN, MODEL, SHARED, Heard, Memory, client, collect, cut, run, served
from tests.hands import Hands
from tests.processes import Programs

NAMES = ("a", "b", "c")


@contextmanager
def idle_connections(number: int, count: int) -> Iterator[None]:
    """Connections on which nothing is ever said."""
    with ExitStack() as strangers:
        for _ in range(count):
            strangers.enter_context(socket.create_connection((HOST, number)))
        yield


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of another process")
def test_many_idle_connections_leave_a_federation_in_peace(tmp_path: Path) -> None:
    config = array_config("federation.min_clients=3", "training.num_rounds=3")
    (tmp_path / "config.yaml").write_text(render(config))

    async def agent(number: int, name: str) -> None:
        async with GrpcCoordinator(HOST, number, None, name) as port:
            await Agent(port, make_client(config, name, list(config.tasks), "1/1"), tmp_path / name).run()

    async def federation(number: int) -> None:
        early = [asyncio.create_task(agent(number, name)) for name in NAMES[:2]]
        late = GrpcCoordinator(HOST, number, None, "c")
        while len((await late.status()).clients) < 2:
            pass
        with idle_connections(number, 400):
            await late.status()
            await Agent(late, make_client(config, "c", list(config.tasks), "1/1"), tmp_path / "c").run()
            await asyncio.gather(*early)
        await late.close()

    with Programs(tmp_path) as programs:
        serve = ("--mode", "server", "--config", "config.yaml", "--port", "0", "--run_dir", "run")
        server = programs.start(*serve)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (256, 256))
        asyncio.run(asyncio.wait_for(federation(server.port()), 100))
        assert server.exit_code() == 0, server.output
        assert json.loads((tmp_path / "run" / "report.json").read_text())["rounds_completed"] == 3
        assert "Too many open files" not in server.output


def test_who_says_nothing_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.connections.HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr("client.transport.retries.LONGEST_PAUSE_SECONDS", 0.2)

    async def test() -> None:
        heard = Heard()
        logging.getLogger("client.transport.retries").addHandler(heard)
        server = await start_server(Memory(), HOST, 0, None, connections=20)
        with idle_connections(server.port_number, 100):
            async with client(server.port_number) as coordinator:
                await coordinator.describe()
        logging.getLogger("client.transport.retries").removeHandler(heard)
        assert heard.event.is_set()  # it was turned away at first
        await server.stop(0)

    run(test())


def test_connections_leave_room_for_the_coordinators_own_files() -> None:
    assert connection_limit(None, 256) == 256 - RESERVED_FILES
    assert connection_limit(None, 1 << 20) == MOST_CONNECTIONS
    assert connection_limit(100, 256) == 100
    with pytest.raises(ConfigError, match=r"max_connections: 200 does not fit the limit of 256 open files; .* 296 or"):
        connection_limit(200, 256)


@dataclass
class Endless(Memory):
    """A coordinator whose model has no end for one of its clients."""

    begun: int = 0
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, session: Session, scope: ScopeVersion, offset: int) -> AsyncIterator[bytes]:
        if session.client_id == "greedy":
            self.begun += 1
            if self.begun == 100:
                self.all_begun.set()
            while True:
                yield MODEL[:CHUNK_BYTES]
        async for chunk in cut(MODEL, offset, CHUNK_BYTES):
            yield chunk


def test_downloads_that_nobody_reads_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.send_limiter.PLACE_SECONDS", 3600.0)

    async def test() -> None:
        memory = Endless()
        unread = methods.FETCH_SLICE.request.encode(FetchCall(Session("run-1", "greedy", "t1"), SHARED, 0, CHUNK_BYTES))
        async with served(memory) as server, grpc.aio.insecure_channel(f"{HOST}:{server.port_number}") as channel:
            calls = [channel.unary_stream(methods.FETCH_SLICE.path)(unread) for _ in range(100)]
            await memory.all_begun.wait()
            async with client(server.port_number) as coordinator:
                session = (await coordinator.join(JOIN)).session
                assert await collect(coordinator.fetch(session, SHARED, 0)) == MODEL
            for call in calls:
                call.cancel()

    run(test())


def test_a_run_knows_so_many_clients_and_no_more() -> None:
    async def test() -> None:
        hands = Hands("federation.max_clients=3")
        await hands.join()
        with pytest.raises(Refused, match=r"client .d.: the run knows federation\.max_clients: 3 clients") as refusal:
            await hands.join(["d"])
        assert refusal.value.reason is Reason.FULL
        await hands.join(["a"])  # who is known comes back
        assert (await hands.poll("a")).order is not None

    run(test())


class Told:
    """An observer that notes how many clients it is told of."""

    def __init__(self) -> None:
        self.most = 0

    def notice(self, text: str, warning: bool) -> None:
        pass

    def changed(self, waiting: bool, describe: Callable[[], FederationStatus]) -> None:
        self.most = max(self.most, len(describe().clients))

    def closed(self, *_: object) -> None:
        pass


def test_a_join_does_not_list_all_who_joined_before() -> None:
    async def test() -> None:
        hands, seen = Hands("federation.min_clients=1000"), Told()
        hands.coordinator.writer._observer = seen
        await hands.join([f"client-{number}" for number in range(100)])
        assert seen.most == SHOWN
        status = await hands.coordinator.status()
        assert len(status.clients) == status.client_count == 100

    run(test())


def test_joins_from_one_address_have_a_pace() -> None:
    clock = ManualClock()
    pace = Pace(3, 2.0, clock.now)
    for _ in range(3):
        pace.take("10.0.0.1", "joins")
    with pytest.raises(UnreachableError, match=r"too many joins from 10\.0\.0\.1"):
        pace.take("10.0.0.1", "joins")
    pace.take("10.0.0.2", "joins")
    clock.advance(1.0)
    for _ in range(2):
        pace.take("10.0.0.1", "joins")
    with pytest.raises(UnreachableError):
        pace.take("10.0.0.1", "joins")
    assert address_of("ipv6:%5B::1%5D:4711") == "ipv6:%5B::1%5D"


def test_who_joins_too_fast_tries_again_and_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.pace.JOINS_AT_ONCE", 1)
    monkeypatch.setattr("server.service.pace.JOINS_PER_SECOND", 20.0)

    async def test() -> None:
        memory = Memory()
        async with served(memory) as server, client(server.port_number) as coordinator:
            for number in range(3):
                assert (await coordinator.join(JOIN)).session.token == f"t{number + 1}"

    run(test())


def test_a_client_that_floods_is_put_off_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.service.pace.CALLS_AT_ONCE", 20)
    monkeypatch.setattr("server.service.pace.CALLS_PER_SECOND", 0.0)

    async def test() -> None:
        memory = Memory()
        memory.work.set()
        async with served(memory) as server, grpc.aio.insecure_channel(f"{HOST}:{server.port_number}") as channel:
            status = channel.unary_unary(methods.STATUS.path)
            calls = [status(methods.STATUS.request.encode("")) for _ in range(100)]
            codes = await asyncio.gather(*(call.code() for call in calls))
            assert codes.count(grpc.StatusCode.OK) == 20 and codes.count(grpc.StatusCode.UNAVAILABLE) == 80
            async with client(server.port_number) as coordinator:
                session = (await coordinator.join(JOIN)).session
                assert (await coordinator.poll(session, "")).order is not None

    run(test())


def test_one_client_parks_so_many_polls_and_no_more() -> None:
    async def test() -> None:
        hands = Hands("federation.min_clients=2")
        await hands.join(["a"])
        polls = [asyncio.create_task(hands.poll("a")) for _ in range(MOST_CALLS + 20)]
        refused = [poll async for poll in first(polls, 20)]
        assert all("has 64 calls open already" in str(poll.exception()) for poll in refused)
        await hands.join(["b"])
        assert (await hands.poll("b")).order is not None
        parked = await asyncio.gather(*(poll for poll in polls if poll not in refused))
        assert len(parked) == MOST_CALLS and all(reply.order is not None for reply in parked)

    run(test())


async def first(tasks: list[asyncio.Task[PollReply]], count: int) -> AsyncIterator[asyncio.Task[PollReply]]:
    """Tasks as they end, so many of them."""
    left = set(tasks)
    while count:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            count -= 1
            yield task


def test_a_flood_of_refused_updates_is_told_a_few_times_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedmtl.server")

    async def test() -> None:
        hands = Hands("federation.offences=0")
        await hands.join()
        order = (await hands.poll("a")).order
        assert order is not None
        wrong = replace(HEADER, order_id=order.order_id, scopes=(ScopePayload("shared", 0, "ab" * 32, 4),))
        for _ in range(100):
            with pytest.raises(Refused):
                await hands.coordinator.submit(hands.sessions["a"], wrong, lambda _: single(b"abcd"))
        assert caplog.text.count("update of a refused") == TOLD
        hands.clock.advance(WINDOW_SECONDS)
        await hands.coordinator.tick()
        assert caplog.text.count(f"update_refused of a: {100 - TOLD} more in 60 s") == 1
        assert hands.coordinator.state.clients["a"].tally.refused == 100
        await hands.coordinator.tick()
        assert caplog.text.count("more in 60 s") == 1

    run(test())
