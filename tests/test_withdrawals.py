"""Clients that are left out for good: at once, for ever, and with a file that names what the run has of them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.agent import Agent
from client.status import withdraw
from common.errors import Reason, Refused
from common.orders import Answer, PollReply, Session
from common.ports import CoordinatorPort
from server.core.answers import describe
from server.core.effects import ClientChanged, Commit, RoundOpened, Wake
from server.core.events import Started, Withdrew
from server.core.open_round import OrderState
from server.core.opening import waits_for
from server.core.phases import Phase
from server.core.state import FederationState
from server.runs.app import serve
from server.runs.run_folder import RunFolder
from server.runs.withdrawals import withdrawal_of
from server.storage.journal import Journal
from tests.core_cases import Table, rules
from tests.crashes import model_made_here
from tests.federations import GrpcCoordinator, array_config, make_client
from tests.hands import Hands


def three() -> Table:
    table = Table(rules(min_clients=3, min_updates=1))
    for name, task in (("a", "sst2"), ("b", "qqp"), ("c", "sst2")):
        table.join(name, task)
    return table


def refusal(table: Table, client: str) -> Refused:
    with pytest.raises(Refused) as caught:
        table.join(client, "sst2")
    return caught.value


def test_a_client_that_withdraws_is_dropped_at_once_and_refused_ever_after() -> None:
    table = three()
    effects = table.apply(Withdrew(0.0, "c"))
    assert isinstance(effects[0], Commit) and any(isinstance(effect, Wake) for effect in effects)
    record = effects[0].records[0]
    assert isinstance(record, ClientChanged) and record.client.withdrawn and record.client.left
    assert table.state.open is not None
    assert table.state.open.orders["train-1.1-c"].state is OrderState.FAILED
    assert waits_for(table.settings, table.state) == "updates of a, b"
    status = describe(table.settings, table.state, "run")
    assert [client.client_id for client in status.clients] == ["a", "b"]
    error = refusal(table, "c")
    assert error.reason is Reason.WITHDRAWN and "needs another --client_id" in error.message
    assert table.apply(Withdrew(1.0, "c")) == []
    table.answer("a")
    table.answer("b")
    assert table.state.completed_rounds == 1


def test_a_client_that_nobody_knows_cannot_withdraw() -> None:
    with pytest.raises(Refused, match="client 'eve' never took part in this run"):
        three().apply(Withdrew(0.0, "eve"))


def test_it_is_durable_and_its_order_is_outstanding_no_more_after_a_restart(tmp_path: Path) -> None:
    table, journal = three(), Journal(tmp_path / "journal.sqlite")
    table.apply(Withdrew(0.0, "c"))
    opened = next(r for effect in table.of(Commit) for r in effect.records if isinstance(r, RoundOpened))
    for commit in table.of(Commit):
        journal.commit(commit.records)
    assert opened.round.orders["train-1.1-c"].state is OrderState.ISSUED
    restored = journal.restore(table.settings.schemas, 60.0)
    assert restored.clients["c"].withdrawn and not restored.clients["a"].withdrawn
    again = Table(table.settings)
    again.state = restored
    again.apply(Started(5.0))
    assert again.state.open is not None
    assert [order.state for order in again.state.open.orders.values()] == [
        *(OrderState.ISSUED, OrderState.ISSUED, OrderState.FAILED)
    ]
    assert refusal(again, "c").reason is Reason.WITHDRAWN
    journal.go_back(0)
    assert {client.client_id: client.withdrawn for client in journal.clients()}["c"]
    journal.close()


def test_the_file_names_versions_copies_and_what_came_to_nothing() -> None:
    async def run() -> tuple[Hands, FederationState]:
        hands = Hands("sharing.plan=soft", "sharing.members=clients", "federation.quorum=1.0")
        await hands.join()
        await hands.round({"a": 0.1, "b": 0.2, "c": 0.3})
        order = await hands.submit("c", 0.4)
        for name in "ab":
            await hands.coordinator.report_failure(hands.sessions[name], order[:-1] + name, "no")
        for name in "abc":
            await hands.submit(name, 0.5)
        await hands.coordinator.withdraw("c")
        return hands, hands.coordinator.state

    hands, state = asyncio.run(run())
    journal = hands.coordinator.writer.handler._journal
    assert isinstance(journal, Journal)
    found = withdrawal_of(state.clients["c"], state, journal.rounds(), journal.totals())
    assert [each.version for each in found.counted] == [1, 2] and found.came_to_nothing == ("train-2.1-c",)
    assert all(each.bytes > 0 and "member/c" in " ".join(each.scopes) for each in found.counted)
    assert found.own_copies and all(scope.startswith("member/c") for scope in found.own_copies)
    other = withdrawal_of(replace(state.clients["a"]), state, journal.rounds(), journal.totals())
    assert other.came_to_nothing == () and len(other.counted) == 2


class Withdrawing:
    """A port whose client is to be left out as soon as it has an order of the second round."""

    def __init__(self, port: CoordinatorPort) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def poll(self, session: Session, pending_order: str, answer: Answer | None = None) -> PollReply:
        reply = await self._port.poll(session, pending_order, answer)
        if reply.order is not None and reply.order.round == 2:
            await self._port.withdraw(session.client_id)
        return reply


def test_a_run_on_the_disk_goes_on_without_it_and_names_what_it_has(tmp_path: Path) -> None:
    config = array_config(
        f"run.run_dir='{tmp_path / 'run'}'",
        "server.port=0",
        "federation.min_clients=2",
        "federation.rejoin_timeout_seconds=0",
        "federation.quorum=0.1",
        "training.num_rounds=3",
        tasks=("a0",),
    )
    longer = config.model_copy(update={"training": config.training.model_copy(update={"num_rounds": 4})})

    async def run(resume: bool) -> list[Refused | None]:
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with model_made_here():
            running = asyncio.ensure_future(serve(longer if resume else config, resume, None, listening.set_result))
            port = await listening
        there = config.client.model_copy(update={"server": f"127.0.0.1:{port}"})
        with pytest.raises(Refused, match="client 'eve' never took part"):
            await withdraw(config.model_copy(update={"client": there}), "eve")

        async def take_part(name: str) -> Refused | None:
            async with GrpcCoordinator("127.0.0.1", port, None, name) as line:
                calls = Withdrawing(line) if name == "b" else line
                try:
                    await Agent(calls, make_client(config, name, ["a0"], "1/1"), tmp_path / name).run()
                except Refused as error:
                    return error
            return None

        found = await asyncio.gather(take_part("a"), take_part("b"))
        await running
        return list(found)

    folder = RunFolder(config.run.folder).path
    for resume in (False, True):
        first, second = asyncio.run(run(resume))
        assert first is None and second is not None and second.reason is Reason.WITHDRAWN
        report = json.loads((folder / "report.json").read_text())
        assert list(report["clients"]) == ["a"] and report["status"] == Phase.FINISHED.value
        told = json.loads((folder / "withdrawn" / "b.json").read_text())
        assert [each["version"] for each in told["counted"]] == [1] and told["client"] == "b"
        (folder / "withdrawn" / "b.json").unlink()
    assert report["rounds_completed"] == 4
