"""Whoever is connected and moving is present, and time that a coordinator slept through counts for nobody."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.agent import Agent
from client.transport.grpc_port import GrpcCoordinator
from common.bodies import ScopeVersion
from common.clock import AwakeClock, ManualClock
from common.config import render
from common.errors import Reason, Refused
from common.orders import PollKind, Progress, Session, Welcome
from server.core.effects import Combine, Notice
from server.core.events import Left, OrderFailed, Seen, Tick
from server.core.open_round import OrderState
from server.core.opening import waits_for
from server.core.phases import Phase
from server.runs.assembly import in_memory
from tests.core_cases import RULES, Table, rules
from tests.crashes import Cast, Gate
from tests.federations import array_config, make_model
from tests.hands import NAMES, Hands, in_chunks
from tests.processes import Programs

LEASE = RULES.lease_seconds


def three(**changes: object) -> Table:
    table = Table(rules(min_clients=3, **changes))
    for name, task in (("a", "sst2"), ("b", "qqp"), ("c", "sst2")):
        table.join(name, task)
    return table


def present(table: Table) -> list[str]:
    return [member.client_id for member in table.state.present()]


# The core.


def test_an_open_call_renews_the_lease_and_when_it_ends_most_of_a_lease_is_left() -> None:
    table = three()
    for table.now in range(0, 10 * int(LEASE)):
        table.apply(Tick(table.now, frozenset("ab")))
    assert present(table) == ["a", "b"]
    table.apply(Tick(table.now + 0.7 * LEASE))
    assert present(table) == ["a", "b"]
    table.apply(Tick(table.now + LEASE))
    assert present(table) == []


def test_a_later_round_waits_for_min_clients_and_goes_on_as_soon_as_they_are_back() -> None:
    table = three(rejoin_timeout_seconds=100.0, num_rounds=3)
    table.answer("a")
    table.answer("b")
    table.apply(Left(0.0, "c"))
    assert table.state.completed_rounds == 1 and table.state.open is None and table.state.phase is Phase.WAITING
    assert waits_for(table.settings, table.state) == "clients for any task (2 of 3 in all)"
    table.now = 50.0
    table.join("c", "sst2")
    assert len(table.state.open.orders) == 3


def test_those_who_stay_away_are_waited_for_once_until_all_have_been_there_again() -> None:
    table = three(rejoin_timeout_seconds=40.0, num_rounds=9)
    table.apply(Left(0.0, "c"))
    table.answer("a")
    table.answer("b")
    table.apply(Tick(39.0))
    assert table.state.open is None
    for _ in range(2):
        table.now = 40.0
        table.apply(Tick(table.now))
        assert sorted(order.client_id for order in table.state.open.orders.values()) == ["a", "b"]
        table.answer("a")
        table.answer("b")
    table.join("c", "sst2")
    for client in "abc":  # the last of it answers in the next round already
        table.answer(client)
    before = table.state.completed_rounds
    table.apply(Left(table.now, "c"))
    table.answer("a")
    table.answer("b")
    assert table.state.completed_rounds == before + 1 and table.state.open is None  # a new shortage, a new wait


def test_a_round_never_closes_with_fewer_updates_than_asked_for() -> None:
    table = three(min_updates=3, quorum=0.5, round_attempts=2)
    table.answer("a")
    table.answer("b")
    table.apply(OrderFailed(0.0, "c", table.order("c").order_id, "no reason"))
    assert table.state.completed_rounds == 0 and not table.of(Combine)
    (notice,) = [effect.text for effect in table.of(Notice) if "attempt 1" in effect.text]
    assert notice == "round 1, attempt 1: 2 of 3 updates, quorum 3; the round starts again"
    for client in "abc":
        table.answer(client)
    assert table.state.completed_rounds == 1


def test_a_round_never_opens_with_fewer_orders_than_updates_are_needed() -> None:
    table = Table(rules(min_updates=2))
    table.join("a", "sst2")
    table.apply(Tick(RULES.start_timeout_seconds - 1, frozenset("a")))
    assert table.state.phase is Phase.WAITING
    table.now = RULES.start_timeout_seconds - 1
    table.join("b", "qqp")
    assert len(table.state.open.orders) == 2
    lonely = three(min_updates=3, rejoin_timeout_seconds=0.0)
    for client in "abc":
        lonely.answer(client)
    lonely.apply(Left(0.0, "b"))
    lonely.answer("a")
    lonely.answer("c")
    assert waits_for(lonely.settings, lonely.state) == "clients for qqp (0 of 1), any task (2 of 3 in all)"
    for lonely.now in (1.0, RULES.start_timeout_seconds + 1):
        for client in "ac":
            lonely.apply(Seen(lonely.now, client, ""))
    assert lonely.state.phase is Phase.FAILED
    assert "2 clients to ask where federation.min_updates is 3 for 600 s" in lonely.state.reason


# The clock.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_a_gap_counts_as_at_most_so_much_and_time_never_goes_back(gaps: list[float]) -> None:
    inner = ManualClock(5.0)
    clock = AwakeClock(inner, 1.0)
    before = clock.now()
    for gap in gaps:
        inner.advance(gap)
        now = clock.now()
        assert now - before == pytest.approx(min(gap, 1.0), abs=1e-6)
        assert clock.lost == pytest.approx(inner.now() - now, abs=1e-6)
        before = now


@pytest.mark.parametrize("awake", [True, False])
def test_a_coordinator_that_slept_longer_than_the_lease_and_the_deadline_expires_nobody(awake: bool) -> None:
    async def play() -> tuple[int, list[str]]:
        time = ManualClock()
        hands = Hands("federation.round_timeout_seconds=80", clock=AwakeClock(time, 1.0) if awake else time)
        await hands.join()
        await hands.submit("a", 1e-3)
        time.advance(90.0)
        await hands.coordinator.tick()
        state = hands.coordinator.state
        there = [member.client_id for member in state.present()]
        if awake:
            for name in "bc":
                await hands.submit(name, 1e-3)
            await hands.coordinator.tick()
        return hands.coordinator.journal.rounds()[0].count(OrderState.ACCEPTED), there

    # The other clock shows what is at stake: a round that misses two clients, and nobody left.
    assert asyncio.run(play()) == ((3, list(NAMES)) if awake else (1, []))


# The coordinator's open calls.


def test_clients_that_wait_longer_than_their_lease_stay_and_the_run_starts() -> None:
    async def play() -> None:
        hands = Hands("federation.lease_seconds=5", "federation.min_clients=2")
        await hands.join("a")
        parked = [asyncio.ensure_future(hands.poll("a"))]
        for _ in range(30):
            await asyncio.sleep(0)
            hands.clock.advance(4.0)
            await hands.coordinator.tick()
        assert [member.client_id for member in hands.coordinator.state.present()] == ["a"]
        await hands.join("b")
        assert (await asyncio.wait_for(parked[0], 10)).kind is PollKind.ORDER
        assert (await hands.poll("b")).kind is PollKind.ORDER

    asyncio.run(play())


CHUNKS = 17
CHUNK_SECONDS = 84.5 / CHUNKS
"""16.9 MB over a link of 200 kB/s, chunk by chunk; the lease is the default, 60 s."""


def test_an_update_that_takes_longer_than_the_lease_to_arrive_is_counted() -> None:
    async def play() -> None:
        hands = Hands()
        await hands.join()

        async def later() -> None:
            hands.clock.advance(CHUNK_SECONDS)
            await hands.coordinator.tick()

        hands.coordinator._calls["b"] = hands.coordinator._calls["c"] = 1  # these two wait in their polls
        order = await hands.submit("a", 1e-3, lambda payload: in_chunks(payload, CHUNKS, later))
        assert hands.clock.now() > 84
        assert hands.coordinator.state.open is not None
        assert hands.coordinator.state.open.orders[order].state is OrderState.ACCEPTED
        assert hands.coordinator.state.clients["a"].tally.expired == 0

    asyncio.run(play())


def test_only_the_deadline_ends_an_upload_that_moves() -> None:
    async def play() -> None:
        hands = Hands("federation.round_timeout_seconds=70", "federation.quorum=0.5")
        await hands.join()
        for name in "bc":
            await hands.submit(name, 1e-3)

        async def later() -> None:
            hands.clock.advance(CHUNK_SECONDS)
            await hands.coordinator.tick()

        hands.coordinator._calls["b"] = hands.coordinator._calls["c"] = 1
        with pytest.raises(Refused) as refusal:
            await hands.submit("a", 1e-3, lambda payload: in_chunks(payload, CHUNKS, later))
        assert refusal.value.reason is Reason.CORRUPT and "its round closed" in refusal.value.message
        assert 70 <= hands.clock.now() < 70 + 2 * CHUNK_SECONDS
        assert hands.coordinator.state.completed_rounds == 1

    asyncio.run(play())


def test_a_download_that_moves_keeps_its_client() -> None:
    async def play() -> None:
        hands = Hands()
        await hands.join()
        stream = hands.coordinator.fetch(hands.sessions["a"], ScopeVersion("shared", 0), 0)
        assert await anext(aiter(stream))
        hands.clock.advance(10 * LEASE)
        await hands.coordinator.tick()
        assert [member.client_id for member in hands.coordinator.state.present()] == ["a"]
        assert [chunk async for chunk in stream] == []
        hands.clock.advance(LEASE)
        await hands.coordinator.tick()
        assert hands.coordinator.state.present() == []

    asyncio.run(play())


# The client.


class Patient:
    """A port whose calls of one name wait until a heartbeat has come from within them."""

    def __init__(self, port: Any, name: str) -> None:
        self._port = port
        self._name = name
        self._beat = asyncio.Event()
        self.phases: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def join(self, request: Any) -> Welcome:
        welcome: Welcome = await self._port.join(request)
        return Welcome(**{**vars(welcome), "heartbeat_seconds": 0.01})

    async def heartbeat(self, session: Session, progress: Progress) -> bool:
        self.phases.add(progress.phase)
        self._beat.set()
        unwanted: bool = await self._port.heartbeat(session, progress)
        return unwanted

    async def _wait(self, name: str) -> None:
        if name == self._name:
            self._beat.clear()
            await asyncio.wait_for(self._beat.wait(), 30)

    async def submit(self, *parts: Any) -> Any:
        await self._wait("submit")
        return await self._port.submit(*parts)

    def fetch(self, *parts: Any) -> Any:
        return self._patiently("fetch", self._port.fetch(*parts))

    def fetch_tokenizer(self, *parts: Any) -> Any:
        return self._patiently("fetch_tokenizer", self._port.fetch_tokenizer(*parts))

    async def _patiently(self, name: str, chunks: Any) -> Any:
        await self._wait(name)
        async for chunk in chunks:
            yield chunk


@pytest.mark.parametrize(
    ("call", "phase"), [("submit", "handing in"), ("fetch", "fetching"), ("fetch_tokenizer", "preparing")]
)
def test_a_client_says_that_it_lives_while_it_uploads_fetches_and_prepares(
    call: str, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing rides along: everything is a call of its own.
    for module in ("common.ports", "server.engine.broadcast"):
        monkeypatch.setattr(f"{module}.INLINE_BYTES", 0)
    config = array_config("federation.min_clients=1")
    coordinator = in_memory(config, make_model(config), ManualClock())
    cast = Cast(config, (("a", ("a0", "b1"), "1/1"),))

    async def play() -> set[str]:
        await coordinator.start()
        port = Patient(coordinator, call)
        agent: Agent = cast.agent("a", port, tmp_path)
        await asyncio.wait_for(agent.run(), 60)
        return port.phases

    assert phase in asyncio.run(play())
    assert coordinator.state.phase is Phase.FINISHED and coordinator.state.clients["a"].tally.completed == 3


# Processes.


@pytest.mark.slow
def test_a_coordinator_that_is_stopped_for_longer_than_the_lease_keeps_its_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Updates are calls of their own, at which the gate stands.
    monkeypatch.setattr("common.ports.INLINE_BYTES", 0)
    options = ("federation.min_clients=3", "federation.lease_seconds=2", "federation.rejoin_timeout_seconds=0")
    config = array_config(*options)
    (tmp_path / "config.yaml").write_text(render(config))
    cast = Cast(config, (("a", ("a0",), "1/2"), ("b", ("b1",), "1/2"), ("c", ("a0", "b1"), "2/2")))
    serve = ("--mode", "server", "--config", "config.yaml", "--port", "0", "--run_dir", "run")

    async def play() -> str:
        async with AsyncExitStack() as stack:
            server = stack.enter_context(Programs(tmp_path)).start(*serve)
            number = await asyncio.to_thread(server.port)
            ports = [await stack.enter_async_context(GrpcCoordinator("127.0.0.1", number, None, n)) for n in cast.names]
            gate = Gate(ports[2], "c")
            calls: list[Any] = [*ports[:2], gate]
            agents = asyncio.gather(
                *(cast.agent(n, port, tmp_path / "state").run() for n, port in zip(cast.names, calls, strict=True))
            )
            await gate.reached("train-1.1")
            server.pause()
            await asyncio.sleep(5.0)  # two leases and a half
            server.go_on()
            await asyncio.to_thread(server.wait_for, "stood still for")
            for name in ("train-1.1", "train-2.1", "evaluate-2.1"):
                gate.let_through(name)
            await agents
            assert await asyncio.to_thread(server.exit_code) == 0
            return server.output

    output = asyncio.run(asyncio.wait_for(play(), 100))
    assert "is gone" not in output and output.count("closed with 3 of 3 updates") == 2, output
    clients = json.loads((tmp_path / "run" / "report.json").read_text())["clients"]
    assert {name: (entry["rounds"], entry["expired"]) for name, entry in clients.items()} == dict.fromkeys(
        "abc", (3, 0)
    )
