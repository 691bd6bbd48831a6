"""Encodings in whole federations: the same model, whoever offers what, and no trace of what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash

from common.bodies import DENSE_FLOAT32, ROWS_BFLOAT16, ROWS_FLOAT32
from common.capabilities import Capabilities
from common.clock import ManualClock
from common.config import Config
from common.errors import Reason, Refused
from common.orders import JoinRequest, Order, ScopePayload, Session, TaskResult, UpdateHeader
from common.parameters.encodings import ENCODINGS
from common.statistics import TaskStatistics
from server.core.conduct import NO_OFFENCES
from server.core.effects import Commit, Notice, RoundClosed
from server.core.events import Answered, Joined
from server.core.facts import RunFacts
from server.core.open_round import OrderState
from server.engine.coordinator import Coordinator
from server.reporting.progress import RunProgress
from server.reporting.report import build_report, uploads
from server.reporting.values import to_json
from server.runs.assembly import in_memory
from server.storage.journal import Journal
from simulation.codec import CodecCoordinator
from tests import federations
from tests.core_cases import RULES, SCHEMAS, TASKS, Table, rules
from tests.federations import Clients, digest_of, federate, make_model, small_config

SIX: Clients = (
    ("a", ("sst2",), "1/2"),
    ("b", ("sst2",), "2/2"),
    ("c", ("qqp",), "1/2"),
    ("d", ("qqp",), "2/2"),
    ("e", ("sst2", "qqp"), "1/1"),
)
RANGES = {ROWS_FLOAT32: {scope: (20, nbytes) for scope, (_, nbytes) in SCHEMAS.items()}}


def run(folder: Path, encoding: str, how: str = "direct", clients: Clients = SIX) -> Coordinator:
    config = small_config(folder, f"federation.update_encoding={encoding}", f"federation.min_clients={len(clients)}")
    return asyncio.run(federate(config, folder / f"state-{encoding}-{how}", clients, how, shuffle=len(how)))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return run(tmp_path_factory.mktemp("dense"), DENSE_FLOAT32)


@pytest.mark.parametrize("how", ["direct", "codec", "grpc"])
def test_touched_rows_give_the_dense_model_with_fewer_bytes(tmp_path: Path, dense: Coordinator, how: str) -> None:
    rows = run(tmp_path, ROWS_FLOAT32, how)
    assert digest_of(rows) == digest_of(dense)
    assert rows.bytes_up < dense.bytes_up / 2 and rows.bytes_down == dense.bytes_down


@pytest.mark.slow
def test_rounded_updates_give_one_model_dense_or_as_rows(tmp_path: Path, dense: Coordinator) -> None:
    halves, rows = run(tmp_path, "dense-bfloat16"), run(tmp_path, ROWS_BFLOAT16)
    assert digest_of(rows) == digest_of(halves) != digest_of(dense)
    assert halves.bytes_up * 2 == dense.bytes_up and rows.bytes_up < halves.bytes_up / 2
    for scope, vector in dense.vectors.items():
        np.testing.assert_allclose(rows.vectors[scope], vector, atol=1e-3)


def test_journal_and_report_say_what_came_up(tmp_path: Path) -> None:
    coordinator = run(tmp_path, ROWS_FLOAT32)
    told = to_json(uploads(coordinator.journal.rounds()))
    assert told == {ROWS_FLOAT32: {"updates": 10, "bytes": coordinator.bytes_up}}
    dense_size = {scope: nbytes for scope, (_, nbytes) in coordinator.settings.schemas.items()}
    for round_ in coordinator.journal.rounds()[:-1]:
        for order in round_.orders.values():
            assert order.codec == ROWS_FLOAT32 and 0 < order.nbytes < sum(dense_size[s.scope] for s in order.scopes)


def test_a_client_from_before_encodings_takes_part_with_dense_updates(
    tmp_path: Path, dense: Coordinator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fedmtl.server")
    usual = federations.make_client

    def make_client(config: Config, client: str, *rest: object) -> object:
        made = usual(config, client, *rest)  # type: ignore[arg-type]
        return (
            replace(made, request=replace(made.request, capabilities=Capabilities(data="builtin")))
            if client == "b"
            else made
        )

    monkeypatch.setattr(federations, "make_client", make_client)
    mixed = run(tmp_path, ROWS_FLOAT32)
    assert digest_of(mixed) == digest_of(dense)
    told = to_json(uploads(mixed.journal.rounds()))
    assert (told[DENSE_FLOAT32]["updates"], told[ROWS_FLOAT32]["updates"]) == (2, 8)
    lines = [record.message for record in caplog.records if "does not offer" in record.message]
    assert lines == ["client b does not offer rows-float32; its updates are asked for as dense-float32"]


# ---- the core by itself ----


def join(table: Table, client: str, task: str, *codecs: str) -> None:
    definitions = tuple(known for known in TASKS if known.name == task)
    request = JoinRequest(client, definitions, ((task, 100),), Capabilities(codecs), validation=((task, 100),))
    table.apply(Joined(table.now, request, f"token-{client}"))


def two(**changes: object) -> Table:
    """a offers touched rows, b does not; the round is open."""
    table = Table(rules(update_encoding=ROWS_FLOAT32, payload_bytes=RANGES, **changes))
    join(table, "a", "sst2", ROWS_FLOAT32, "something-new")
    join(table, "b", "qqp")
    return table


def test_orders_ask_for_what_is_offered() -> None:
    table = two()
    orders = [table.order(client) for client in "ab"]
    assert [order.body.codec for order in orders if order is not None] == [ROWS_FLOAT32, DENSE_FLOAT32]
    assert [n.text for n in table.of(Notice) if isinstance(n, Notice) and "offer" in n.text] == [
        "client b does not offer rows-float32; its updates are asked for as dense-float32"
    ]


def test_who_comes_back_is_told_once_and_keeps_its_order() -> None:
    table = two()
    join(table, "b", "qqp")
    join(table, "a", "sst2", ROWS_FLOAT32)
    assert sum("does not offer" in n.text for n in table.of(Notice) if isinstance(n, Notice)) == 1
    assert table.order("a") is not None and table.order("b") is not None


def test_who_comes_back_without_the_encoding_of_its_order_gets_another_order() -> None:
    table = two()
    join(table, "a", "sst2")
    assert table.order("a") is None
    assert table.state.open is not None
    dropped = table.state.open.orders["train-1.1-a"]
    assert dropped.state is OrderState.FAILED and dropped.note == "the client came back without encoding rows-float32"


def test_by_default_every_client_is_asked_for_dense_updates() -> None:
    table = Table(RULES)
    join(table, "a", "sst2", *ENCODINGS)
    join(table, "b", "qqp")
    order = table.order("a")
    assert order is not None and order.body.codec == DENSE_FLOAT32
    assert not any("offer" in n.text for n in table.of(Notice) if isinstance(n, Notice))


def sized(header: UpdateHeader, nbytes: int) -> UpdateHeader:
    return replace(header, codec=ROWS_FLOAT32, scopes=tuple(replace(s, nbytes=nbytes) for s in header.scopes))


@pytest.mark.parametrize(
    ("client", "change", "reason"),
    [
        ("a", lambda h: h, Reason.MALFORMED),  # dense was not asked for
        ("a", lambda h: replace(sized(h, 40), codec=ROWS_BFLOAT16), Reason.MALFORMED),
        ("a", lambda h: sized(h, 19), Reason.MALFORMED),
        ("a", lambda h: sized(h, 401), Reason.TOO_LARGE),
        ("b", lambda h: sized(h, 40), Reason.MALFORMED),
    ],
)
def test_what_the_order_did_not_ask_for_is_refused_without_a_trace(
    client: str, change: Callable[[UpdateHeader], UpdateHeader], reason: Reason
) -> None:
    table = two()
    before = table.state
    with pytest.raises(Refused) as caught:
        table.apply(Answered(0.0, client, change(table.header(client))))
    assert caught.value.reason is reason and table.state == before and "\n" not in caught.value.message


def test_after_a_restart_the_orders_ask_for_the_same_encodings() -> None:
    table, journal = two(), Journal(":memory:")
    for effect in table.of(Commit):
        assert isinstance(effect, Commit)
        journal.commit(effect.records)
    restored = journal.restore(SCHEMAS, 60.0)
    assert restored.open is not None and table.state.open is not None
    assert {o.client_id: o.codec for o in restored.open.orders.values()} == {"a": ROWS_FLOAT32, "b": DENSE_FLOAT32}
    journal.close()


def test_the_rounds_line_and_the_report_name_encodings_and_bytes(tmp_path: Path) -> None:
    table, journal = two(), Journal(":memory:")
    table.apply(Answered(0.0, "a", sized(table.header("a"), 40)))
    table.answer("b")
    commits = [effect for effect in table.of(Commit) if isinstance(effect, Commit)]
    (closed,) = [record for commit in commits for record in commit.records if isinstance(record, RoundClosed)]
    expected = {DENSE_FLOAT32: {"updates": 1, "bytes": 440}, ROWS_FLOAT32: {"updates": 1, "bytes": 80}}
    RunProgress(TASKS, 2, tmp_path / "metrics.jsonl", None).closed(closed)
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["uploads"] == expected
    for commit in commits:
        journal.commit(commit.records)
    report = to_json(build_report(RunFacts(), 0, TASKS, journal.rounds(), journal.clients(), "interrupted", "d" * 64))
    assert report["uploads"] == expected
    journal.close()


# ---- payloads that are refused by a coordinator at work ----


class Upload:
    """One client by hand against a coordinator: joins, takes its order, hands in bytes."""

    def __init__(self, coordinator: Coordinator, client: str) -> None:
        self.port = CodecCoordinator(coordinator)
        self.coordinator = coordinator
        self.client = client

    async def join(self) -> None:
        definition = self.coordinator.settings.definition("sst2")
        assert definition is not None
        offers = Capabilities(tuple(ENCODINGS))
        rows = (("sst2", 24),)
        welcome = await self.port.join(JoinRequest(self.client, (definition,), rows, offers, validation=rows))
        self.session: Session = welcome.session

    async def take_order(self) -> None:
        order = (await self.port.poll(self.session, "")).order
        assert order is not None
        self.order: Order = order

    def payloads(self) -> list[bytearray]:
        """A proper update: every third row of each table, everything else."""
        encoding, found = ENCODINGS[self.order.body.codec], []
        for scope in self.order.scopes:
            schema = self.coordinator._federation.schemas[scope.scope]
            delta = np.linspace(-1e-3, 1e-3, schema.size, dtype=np.float32)
            for entry in schema.entries:
                if len(entry.shape) == 2:
                    delta[entry.offset : entry.offset + entry.count].reshape(entry.shape)[::3] = 0.0
            found.append(bytearray(encoding.encode(delta, schema)))
        return found

    async def submit(self, payloads: list[bytearray], **changes: str) -> None:
        schemas = self.coordinator.settings.schemas
        scopes = tuple(
            ScopePayload(s.scope, s.version, schemas[s.scope][0], len(data))
            for s, data in zip(self.order.scopes, payloads, strict=True)
        )
        data = b"".join(payloads)
        results = (TaskResult("sst2", 24, 0.5, TaskStatistics(10, 5.0, 7, (4, 5, 6, 3, 5, 4))),)
        header = UpdateHeader(
            self.order.order_id,
            changes.get("codec", self.order.body.codec),
            scopes,
            changes.get("digest", xxhash.xxh3_128_hexdigest(data)),
            results,
            1.0,
        )

        async def chunks(offset: int) -> AsyncIterator[bytes]:
            for at in range(offset, len(data), 1 << 20):
                yield data[at : at + (1 << 20)]

        await self.port.submit(self.session, header, chunks)


def snapshot(coordinator: Coordinator) -> object:
    """Everything that counts, bit for bit; only counts of refusals may change."""
    sums, state = coordinator.writer.handler._aggregator._updates, coordinator.state
    clients = {name: replace(m, tally=replace(m.tally, refused=0), activity="") for name, m in state.clients.items()}
    return (
        {scope: vector.tobytes() for scope, vector in coordinator.vectors.items()},
        {scope: [chunk.tobytes() for chunk in sums._sums[scope]] for scope in sorted(sums._used)},
        coordinator.writer.handler.uploads._used,
        replace(state, clients=clients, conduct=NO_OFFENCES),
    )


def cut(payloads: list[bytearray]) -> None:
    del payloads[0][-1:]


def doubled(payloads: list[bytearray]) -> None:
    payloads[0] += bytes(len(payloads[0]))


def values_of_a_row_more(payloads: list[bytearray]) -> None:
    payloads[0] += bytes(64)


def one_row_more(payloads: list[bytearray]) -> None:
    payloads[0][0] |= 1


def surplus_row(payloads: list[bytearray]) -> None:
    payloads[0][-(-30_522 // 8) - 1] |= 0b10000000


def not_finite(payloads: list[bytearray]) -> None:
    payloads[0][-2:] = b"\x80\x7f"


@pytest.mark.parametrize("encoding", [ROWS_FLOAT32, ROWS_BFLOAT16, "dense-bfloat16"])
def test_refused_payloads_leave_the_coordinator_as_it_was(tmp_path: Path, encoding: str) -> None:
    rows = encoding.startswith("rows")
    wrong = [(cut, Reason.MALFORMED), (not_finite, Reason.NOT_FINITE), (doubled, Reason.TOO_LARGE)]
    if rows:
        wrong += [(spoil, Reason.MALFORMED) for spoil in (one_row_more, surplus_row, values_of_a_row_more)]

    async def play(disturbed: bool) -> str:
        overrides = [f"federation.update_encoding={encoding}", "federation.min_clients=2", "training.num_rounds=1"]
        config = small_config(tmp_path, *overrides, tasks=("sst2",))
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        a, b = Upload(coordinator, "a"), Upload(coordinator, "b")
        for upload in (a, b):
            await upload.join()
        for upload in (a, b):
            await upload.take_order()
        await a.submit(a.payloads())
        if disturbed:
            before = snapshot(coordinator)
            for spoil, reason in wrong:
                payloads = b.payloads()
                spoil(payloads)
                with pytest.raises(Refused) as caught:
                    await b.submit(payloads)
                assert caught.value.reason is reason, (spoil.__name__, caught.value.message)
                assert snapshot(coordinator) == before, spoil.__name__
            for changes, reason in (
                ({"codec": DENSE_FLOAT32}, Reason.MALFORMED),
                ({"digest": "0" * 32}, Reason.CORRUPT),
            ):
                with pytest.raises(Refused) as caught:
                    await b.submit(b.payloads(), **changes)
                assert caught.value.reason is reason
                assert snapshot(coordinator) == before
        await b.submit(b.payloads())
        await coordinator.tick()  # after everything that is still being carried out
        assert coordinator.state.completed_rounds == 1
        return digest_of(coordinator)

    assert asyncio.run(play(True)) == asyncio.run(play(False))
