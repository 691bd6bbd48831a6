"""The list of clients is read again while a run goes on: who is out, who gets in, and what changes nothing."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import pytest

from common.clock import ManualClock
from common.config import Config, load_config, render
from common.errors import ConfigError, Reason, Refused
from common.orders import JoinRequest, PollKind, Progress
from server.core.client_list import ClientList, Member
from server.core.effects import Notice, Wake
from server.core.events import ListChanged
from server.core.open_round import OrderState
from server.runs.assembly import in_memory
from server.runs.list_again import ListAgain
from tests.core_cases import Table, rules
from tests.federations import array_config, make_model
from tests.grpc_cases import client, run, served
from tests.identity_cases import CLIENTS, of_client, of_coordinator, provisioned
from tests.processes import Programs

DAY = "2030-06-01"
A, B = CLIENTS
BUSY = Progress("order-1", "local", 0.1)


def listed(*names: str) -> ClientList:
    return ClientList(dict.fromkeys(names, Member()))


def told(table: Table, roster: ClientList) -> list[str]:
    effects = table.apply(ListChanged(table.now, roster, DAY))
    assert any(isinstance(effect, Wake) for effect in effects)
    return [effect.text for effect in effects if isinstance(effect, Notice)]


def test_who_is_not_listed_any_more_loses_its_order_and_gets_no_other() -> None:
    table = Table(rules(roster=listed("a", "b"), min_clients=2))
    table.join("a", "sst2")
    table.join("b", "sst2", "qqp")
    assert table.state.open is not None
    order = table.state.open.order_of("b")
    assert order is not None
    lines = told(table, listed("a", "c"))
    assert lines[:3] == [
        "server.clients.b: removed",
        "server.clients.c: added",
        "client b may not stay: client 'b' is not listed; ask the coordinator's side to change server.clients",
    ]
    assert table.state.open.orders[order.order_id].state is OrderState.FAILED
    assert [found.client_id for found in table.state.present()] == ["a"]
    table.answer("a")
    table.join("c", "sst2", "qqp")
    assert table.state.open is not None and {o.client_id for o in table.state.open.orders.values()} == {"a", "c"}
    with pytest.raises(Refused) as caught:
        table.join("b", "sst2")
    assert caught.value.reason is Reason.NOT_ADMITTED


@pytest.mark.parametrize(
    ("member", "stays"),
    [
        (Member(("sst2", "qqp")), True),
        (Member(("qqp",)), False),
        (Member(role="observer"), False),
        (Member(expires=DAY), True),
        (Member(expires="2030-05-31"), False),
    ],
)
def test_who_stays(member: Member, stays: bool) -> None:
    table = Table(rules(roster=listed("a"), min_clients=5))
    table.join("a", "sst2")
    assert told(table, ClientList({"a": member}))[0] == "server.clients.a: changed"
    assert bool(table.state.present()) is stays


def test_changes_have_a_line_each() -> None:
    table = Table(rules(roster=listed("a"), min_clients=5))
    assert told(table, listed("a")) == ["server.clients was read again; nothing changed"]
    assert told(table, ClientList()) == [
        "server.clients: every client may join now",
        "server.clients.a: removed",
    ]


def test_a_configuration_that_is_wrong_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = array_config()
    files: list[Config | ConfigError] = [ConfigError("x: is wrong"), config]

    def read() -> Config:
        found = files.pop(0)
        if isinstance(found, ConfigError):
            raise found
        return found

    async def tried() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        again = ListAgain(read)
        await again.tick(coordinator)
        assert len(files) == 2
        again.ask()
        await again.tick(coordinator)
        await again.tick(coordinator)
        assert len(files) == 1 and coordinator.state.roster is None

    run(tried())
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines == ["x: is wrong; the list of clients from before stays, mend it and send SIGHUP again"]


def with_list(config: Config, pem: Path, *names: str) -> str:
    files = of_coordinator(pem)
    tls = {"certificate": str(files.certificate), "key": str(files.key), "client_ca": str(files.authority)}
    members: dict[str, object] = {name: {} for name in names}
    given = {**config.model_dump(mode="json"), "server.clients": members, "server.tls": tls}
    return render(load_config(None, given=given))


@pytest.mark.slow
def test_a_removed_client_is_refused_after_a_hang_up(tmp_path: Path) -> None:
    pem = provisioned(tmp_path / "tls")
    config = array_config("federation.min_clients=5")
    path = tmp_path / "config.yaml"
    path.write_text(with_list(config, pem, A, B))
    task = config.definitions()[0]

    def asked(name: str) -> JoinRequest:
        return JoinRequest(name, (task,), ((task.name, 10),))

    async def tried(programs: Programs) -> None:
        coordinator = programs.start("--mode", "server", "--config", str(path), "--port", "0", "--run_dir", "run")
        number = await asyncio.to_thread(coordinator.port)
        async with (
            client(number, 5.0, of_client(pem, A)) as one,
            client(number, 5.0, of_client(pem, B)) as two,
        ):
            kept, removed = (await one.join(asked(A))).session, (await two.join(asked(B))).session
            parked = asyncio.create_task(two.poll(removed, ""))
            path.write_text("server: {clients: 3}")
            coordinator.send(signal.SIGHUP)
            await asyncio.to_thread(coordinator.wait_for, "the list of clients from before stays")
            await two.heartbeat(removed, BUSY)
            assert not parked.done()
            path.write_text(with_list(config, pem, A))
            coordinator.send(signal.SIGHUP)
            await asyncio.to_thread(coordinator.wait_for, f"server.clients.{B}: removed")
            with pytest.raises(Refused) as caught:
                await parked
            assert caught.value.reason is Reason.UNKNOWN_CLIENT
            with pytest.raises(Refused) as caught:
                await two.heartbeat(removed, BUSY)
            assert caught.value.reason is Reason.UNKNOWN_CLIENT
            with pytest.raises(Refused) as caught:
                await two.join(asked(B))
            assert caught.value.reason is Reason.NOT_ADMITTED
            await one.leave(kept)
        coordinator.terminate()
        await asyncio.to_thread(coordinator.exit_code)

    with Programs(tmp_path) as programs:
        asyncio.run(asyncio.wait_for(tried(programs), 100))


def test_a_client_that_was_added_gets_in_over_real_connections(tmp_path: Path) -> None:
    pem, config = provisioned(tmp_path), array_config("federation.min_clients=5")
    task = config.definitions()[0]

    async def tried() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        await coordinator.start()
        await coordinator.admit(listed(A))
        async with (
            served(coordinator, tls=of_coordinator(pem)) as server,
            client(server.port_number, 1.0, of_client(pem, B)) as port,
        ):
            request = JoinRequest(B, (task,), ((task.name, 10),))
            with pytest.raises(Refused, match="is not listed"):
                await port.join(request)
            await coordinator.admit(listed(A, B))
            session = (await port.join(request)).session
            waiting = asyncio.create_task(port.poll(session, ""))
            await coordinator.drain()
            assert (await waiting).kind is PollKind.DRAINING

    run(tried())
