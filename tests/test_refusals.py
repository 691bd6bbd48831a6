"""Whatever is wrong with a request: one clear line, and the coordinator as it was, bit for bit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.transport.grpc_port import GrpcCoordinator
from common.bodies import DENSE_FLOAT32, ScopeVersion
from common.clock import ManualClock
from common.config import Config
from common.errors import FedMTLError, Reason, Refused
from common.orders import JoinRequest, Order, ScopePayload, Session, TaskResult, UpdateHeader
from common.statistics import TaskStatistics
from common.tasks import KNOWN_TASKS
from common.wire import methods
from common.wire.calls import UploadStart
from common.wire.chunks import UPLOAD_PART
from server.core.conduct import NO_OFFENCES
from server.core.open_round import OrderState
from server.core.phases import Phase
from server.engine.coordinator import Coordinator
from server.runs.assembly import in_memory
from server.service.grpc_server import start_server
from tests.crashes import Cast, Gate, Watch
from tests.federations import make_model, small_config

SCORES = {
    "sst2": TaskStatistics(10, 5.0, 7, (4, 5, 6, 3, 5, 4)),
    "qqp": TaskStatistics(10, 5.0, 5, (5, 5, 10, 0, 5, 0)),
}
SST2 = KNOWN_TASKS["sst2"]


def snapshot(coordinator: Coordinator) -> object:
    """Everything that counts: values, sums, rounds, orders, clients; only counts of refusals may change."""
    sums = coordinator.writer.handler._aggregator._updates
    state = coordinator.state
    clients = {name: replace(m, tally=replace(m.tally, refused=0), activity="") for name, m in state.clients.items()}
    return (
        {scope: vector.tobytes() for scope, vector in coordinator.vectors.items()},
        {scope: [block.tobytes() for block in sums._sums[scope]] for scope in sorted(sums._used)},
        replace(state, clients=clients, conduct=NO_OFFENCES),
    )


@dataclass
class Client:
    """A client made by hand, with an order in its hands."""

    port: GrpcCoordinator
    session: Session
    order: Order
    tasks: tuple[str, ...]
    schemas: dict[str, tuple[str, int]]

    def update(self, change: Callable[[np.ndarray], None] | None = None) -> tuple[UpdateHeader, bytes]:
        """A proper update; `change` works on its values before the digest is taken."""
        scopes = tuple(ScopePayload(s.scope, s.version, *self.schemas[s.scope]) for s in self.order.scopes)
        size = sum(scope.nbytes for scope in scopes) // 4
        values = np.linspace(-1e-3, 1e-3, size, dtype=np.float32) * (1 + len(self.session.client_id))
        if change is not None:
            change(values)
        payload = values.tobytes()
        results = tuple(TaskResult(task, 24, 0.5, SCORES[task]) for task in self.tasks)
        digest = xxhash.xxh3_128_hexdigest(payload)
        return UpdateHeader(self.order.order_id, DENSE_FLOAT32, scopes, digest, results, 1.0), payload

    async def submit(self, header: UpdateHeader, payload: bytes) -> None:
        async def chunks(offset: int) -> AsyncIterator[bytes]:
            for at in range(offset, len(payload), 1 << 20):
                yield payload[at : at + (1 << 20)]

        await self.port.submit(self.session, header, chunks)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    rules = "federation.min_clients=3", "training.num_rounds=1", "federation.offences=0"
    return small_config(tmp_path_factory.mktemp("small"), *rules)


HELD = {"a": ("sst2",), "b": ("sst2",), "d": ("qqp", "sst2")}


async def join_all(coordinator: Coordinator, ports: dict[str, GrpcCoordinator]) -> dict[str, Client]:
    schemas = dict(coordinator.settings.schemas)
    sessions = {}
    for name, tasks in HELD.items():
        definitions = tuple(coordinator.settings.definition(task) or SST2 for task in tasks)
        rows = tuple((task, 24) for task in tasks)
        request = JoinRequest(name, definitions, rows, validation=rows)
        sessions[name] = (await ports[name].join(request)).session
    clients = {}
    for name, session in sessions.items():
        order = (await ports[name].poll(session, "")).order
        assert order is not None
        clients[name] = Client(ports[name], session, order, HELD[name], schemas)
    return clients


def with_scope(header: UpdateHeader, **changes: Any) -> UpdateHeader:
    return replace(header, scopes=(replace(header.scopes[0], **changes), *header.scopes[1:]))


def set_first(value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[len(values) // 2] = value

    return change


Update = tuple[UpdateHeader, bytes]
WRONG: dict[str, tuple[Callable[[Client], Update], Reason | None, str]] = {
    "NaN": (lambda c: c.update(set_first(np.nan)), Reason.NOT_FINITE, "scope 'shared' holds NaN or infinite values"),
    "infinity": (lambda c: c.update(set_first(np.inf)), Reason.NOT_FINITE, "scope 'shared' holds NaN or infinite"),
    "truncated stream": (
        lambda c: (c.update()[0], c.update()[1][:-5]),
        Reason.CORRUPT,
        "the stream ended after",
    ),
    "bytes changed on the way": (
        lambda c: (c.update()[0], c.update(set_first(7.0))[1]),
        Reason.CORRUPT,
        "do not match their digest",
    ),
    "more bytes than announced": (
        lambda c: (c.update()[0], c.update()[1] + b"more"),
        Reason.TOO_LARGE,
        "more than the",
    ),
    "oversize announced": (
        lambda c: (with_scope(c.update()[0], nbytes=1 << 40), c.update()[1]),
        Reason.TOO_LARGE,
        "scope 'shared': 1099511627776 bytes, expected",
    ),
    "other schema": (
        lambda c: (with_scope(c.update()[0], schema_digest="ab" * 32), c.update()[1]),
        Reason.SCHEMA_MISMATCH,
        "layout abababababab is not the federation's",
    ),
    "other base version": (
        lambda c: (with_scope(c.update()[0], base_version=3), c.update()[1]),
        Reason.SCHEMA_MISMATCH,
        "delta from version 3, the order's is 0",
    ),
    "a scope that is not its own": (
        lambda c: (with_scope(c.update()[0], scope="task/qqp"), c.update()[1]),
        Reason.SCHEMA_MISMATCH,
        "is about scopes",
    ),
    "foreign order": (
        lambda c: (replace(c.update()[0], order_id="train-1.1-d"), c.update()[1]),
        Reason.UNKNOWN_ORDER,
        "order train-1.1-d belongs to another client, not to 'b'",
    ),
    "order that never was": (
        lambda c: (replace(c.update()[0], order_id="train-9.1-b"), c.update()[1]),
        Reason.TOO_LATE,
        "order train-9.1-b is not open",
    ),
    "other codec": (
        lambda c: (replace(c.update()[0], codec="pickle"), c.update()[1]),
        None,
        "pickle",
    ),
    "results of another task": (
        lambda c: (replace(c.update()[0], results=(TaskResult("qqp", 24, 0.5, SCORES["qqp"]),)), c.update()[1]),
        Reason.MALFORMED,
        "results are of ['qqp']",
    ),
    "statistics that do not fit": (
        lambda c: (
            replace(c.update()[0], results=(TaskResult("sst2", 24, 0.5, TaskStatistics(3, 1.0, 1, (1, 1, 1))),)),
            c.update()[1],
        ),
        Reason.MALFORMED,
        "statistics of task 'sst2' do not fit",
    ),
}


async def expect(call: Any, reason: Reason | None, words: str) -> None:
    with pytest.raises(FedMTLError) as caught:
        await call
    message = caught.value.message
    assert words in message and "\n" not in message and len(message) < 400, message
    if reason is not None:
        assert isinstance(caught.value, Refused) and caught.value.reason is reason, message


async def play(config: Config, wrong: dict[str, Any]) -> dict[str, bytes]:
    """One round of three clients, b sending everything in `wrong` first; the values after it."""
    coordinator = in_memory(config, make_model(config), ManualClock())
    await coordinator.start()
    server = await start_server(coordinator, "127.0.0.1", 0, None)
    ports = {name: GrpcCoordinator("127.0.0.1", server.port_number, None, name) for name in HELD}
    try:
        clients = await join_all(coordinator, ports)
        await clients["a"].submit(*clients["a"].update())
        before = snapshot(coordinator)
        for case, (make, reason, words) in wrong.items():
            await expect(clients["b"].submit(*make(clients["b"])), reason, words)
            assert snapshot(coordinator) == before, case
        if wrong:
            await _requests_refused(coordinator, clients)
            assert snapshot(coordinator) == before
            assert coordinator.state.clients["b"].tally.refused > 8
        for name in ("d", "b"):
            await clients[name].submit(*clients[name].update())
        await coordinator.tick()  # after everything that is still being carried out
        assert coordinator.state.completed_rounds == 1
        return {scope: vector.tobytes() for scope, vector in coordinator.vectors.items()}
    finally:
        for port in ports.values():
            await port.close()
        await server.stop(0)


async def _requests_refused(coordinator: Coordinator, clients: dict[str, Client]) -> None:
    a, b = clients["a"], clients["b"]
    # A repeated update: the same bytes get the same receipt, other bytes are refused.
    await a.submit(*a.update())
    await expect(a.submit(*a.update(set_first(0.5))), Reason.DIFFERENT_UPDATE, "answered before with other bytes")
    swapped = replace(SST2, labels=tuple(reversed(SST2.labels)))
    for task, reason, words in (
        (replace(SST2, name="mood"), Reason.UNKNOWN_TASK, "task 'mood' is unknown here; this federation has: "),
        (swapped, Reason.TASK_MISMATCH, "task 'sst2' differs (coordinator against client): "),
        (replace(SST2, metrics=("f1",)), Reason.TASK_MISMATCH, "task 'sst2' differs"),
    ):
        await expect(b.port.join(JoinRequest("e", (task,), ((task.name, 1),))), reason, words)
    stranger = replace(b.session, client_id="e")
    await expect(b.port.poll(stranger, ""), Reason.UNKNOWN_CLIENT, "client 'e' has not joined")
    await expect(b.port.poll(replace(b.session, run_id="x"), ""), Reason.OTHER_RUN, "not x; join again")
    await expect(b.port.poll(replace(b.session, token="x"), ""), Reason.SUPERSEDED, "another process joined as 'b'")
    for scope, reason, words in (
        (ScopeVersion("task/qqp", 0), Reason.UNKNOWN_TASK, "scope 'task/qqp' is not for client 'b'"),
        (ScopeVersion("shared", 5), Reason.TOO_LATE, "scope 'shared' is at version 0, not 5"),
    ):
        await expect(anext(aiter(b.port.fetch(b.session, scope, 0))), reason, words)


def test_what_is_refused_leaves_no_trace_and_the_round_ends_as_if_it_had_not_come(config: Config) -> None:
    undisturbed = asyncio.run(play(config, {}))
    assert asyncio.run(play(config, WRONG)) == undisturbed


@contextmanager
def coordinator_in_a_thread(config: Config) -> Iterator[tuple[Coordinator, int, dict[str, Client]]]:
    """A coordinator in a loop of its own, with three clients at work, for tests that have no loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def there(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def start() -> tuple[Coordinator, Any, dict[str, GrpcCoordinator]]:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        return coordinator, server, {n: GrpcCoordinator("127.0.0.1", server.port_number, None, n) for n in HELD}

    async def stop() -> None:
        for port in ports.values():
            await port.close()
        await server.stop(0)
        await loop.shutdown_default_executor()

    coordinator, server, ports = there(start())
    try:
        yield coordinator, server.port_number, there(join_all(coordinator, ports))
    finally:
        there(stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def answer_to(channel: grpc.Channel, path: str, parts: list[bytes]) -> grpc.RpcError | None:
    """The status of a call; every procedure is called as the kind that it is."""
    method = next(method for method in methods.METHODS if method.path == path)
    try:
        if method.kind is methods.Kind.UNARY_UNARY:
            channel.unary_unary(path)(parts[0], timeout=20)
        elif method.kind is methods.Kind.UNARY_STREAM:
            list(channel.unary_stream(path)(parts[0], timeout=20))
        else:
            channel.stream_unary(path)(iter(parts), timeout=20)
    except grpc.RpcError as error:
        return error
    return None


def test_random_bytes_are_answered_in_one_line_and_change_nothing(config: Config) -> None:
    answers: set[str] = set()
    with coordinator_in_a_thread(config) as (coordinator, number, clients):
        b = clients["b"]
        header, payload = b.update()
        start = UPLOAD_PART.encode(UploadStart(b.session, header))
        before = snapshot(coordinator)
        asks_nothing = (methods.STATUS, methods.DESCRIBE)  # any message will do
        paths = [method.path for method in methods.METHODS if method not in asks_nothing]
        headers = st.integers(0, len(start) - 1).map(lambda n: start[:n])
        noise = st.binary(max_size=300)
        uploads = st.one_of(
            st.lists(noise, min_size=1, max_size=3),
            st.tuples(headers, noise).map(list),
            noise.map(lambda data: [start, data]),
            noise.map(lambda data: [start, UPLOAD_PART.encode(data)]),
        )
        calls = st.one_of(
            st.tuples(st.sampled_from(paths), noise.map(lambda data: [data])),
            st.tuples(st.just(methods.SUBMIT_UPDATE.path), uploads),
        )
        with grpc.insecure_channel(f"127.0.0.1:{number}") as channel:

            @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
            @given(calls)
            def attack(call: tuple[str, list[bytes]]) -> None:
                error = answer_to(channel, *call)
                assert error is not None, f"{call} was taken"
                assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION), error
                assert error.details() and "\n" not in error.details()
                answers.add(error.details())
                assert snapshot(coordinator) == before

            attack()
        assert {"UploadPart: the first part is not a header", "UploadPart: these bytes are no such message"} & answers
        assert any("the stream ended after" in answer for answer in answers)
        assert payload


def test_a_late_client_hears_so_and_goes_on_with_the_next_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ["federation.round_timeout_seconds=100", "federation.lease_seconds=3600"]
    config = small_config(tmp_path, *limits)
    clock, cast = ManualClock(), Cast(config)
    coordinator = in_memory(config, make_model(config), clock)
    caplog.set_level("INFO", "fedmtl.client")

    async def play() -> None:
        await coordinator.start()
        server = await start_server(coordinator, "127.0.0.1", 0, None)
        port = GrpcCoordinator("127.0.0.1", server.port_number, None, "b")
        gate = Gate(port, "b")
        accepted = Watch(coordinator)
        try:
            agents = asyncio.gather(
                *(cast.agent(name, gate if name == "b" else accepted, tmp_path / "state").run() for name in "abcd")
            )
            await gate.reached("train-1.1")
            await accepted.count("train-1.1", 3)
            clock.advance(100.0)
            await coordinator.tick()
            await coordinator.tick()  # after everything that is still being carried out
            assert coordinator.state.completed_rounds == 1
            for name in ("train-1.1", "train-2.1", "evaluate-2.1"):
                gate.let_through(name)
            await agents
        finally:
            await port.close()
            await server.stop(0)

    asyncio.run(asyncio.wait_for(play(), 60))
    assert coordinator.state.phase is Phase.FINISHED
    first, second, _ = coordinator.journal.rounds()
    assert first.orders["train-1.1-b"].state is OrderState.EXPIRED
    assert second.orders["train-2.1-b"].state is OrderState.ACCEPTED
    tally = coordinator.state.clients["b"].tally
    assert (tally.assigned, tally.completed, tally.expired, tally.failed) == (3, 2, 1, 0)
    assert "train-1.1-b refused (too_late): order train-1.1-b is not open" in caplog.text
