"""Certificates that are replaced while a federation runs: who sees which, and what a broken file does."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from client.agent import Agent
from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.credentials.files import Folder, provision
from common.orders import Progress, Receipt, Session, UpdateHeader
from common.ports import Chunks
from common.tls import CurrentTls, TlsFiles
from server.runs.assembly import in_memory
from simulation.inprocess import run_together
from tests.federations import SubmittingPort, array_config, make_client, make_model
from tests.grpc_cases import HOST, JOIN, Memory, client, run, served
from tests.identity_cases import CLIENTS, consortium, of_client, of_coordinator, provisioned

HEARD = Progress("order-1", "local", 0.1)


def renewed(folder: Path) -> None:
    """What `provision --renew` does."""
    provision(consortium(*CLIENTS), Folder(folder, renew=True), False, datetime.now(UTC))


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def shown(port: int, files: TlsFiles) -> int:
    """The serial number of the certificate that a new connection sees."""
    context = ssl.create_default_context(cafile=str(files.authority))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(str(files.certificate), files.key)
    with socket.create_connection((HOST, port)) as plain, context.wrap_socket(plain, server_hostname=HOST) as link:
        seen = link.getpeercert()
        assert seen is not None
        return int(str(seen["serialNumber"]), 16)


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno == level and r.name == "fedmtl.server"]
    return [line for line in found if line.startswith("tls:")]


def test_new_connections_see_the_new_certificate_and_open_ones_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem, mine = provisioned(tmp_path), of_client(tmp_path, "clinic-a")

    async def tried() -> None:
        async with (
            served(Memory(), tls=of_coordinator(pem)) as server,
            client(server.port_number, 0.3, mine) as port,
        ):
            session = (await port.join(JOIN)).session
            before = serial(pem / "coordinator.pem")
            assert await asyncio.to_thread(shown, server.port_number, mine) == before
            renewed(pem)
            for _ in range(2):
                assert await asyncio.to_thread(shown, server.port_number, mine) == serial(pem / "coordinator.pem")
            assert serial(pem / "coordinator.pem") != before
            assert not await port.heartbeat(session, HEARD)

    with caplog.at_level(logging.INFO, "fedmtl"):
        run(tried())
    (line,) = said(caplog, logging.INFO)
    assert re.fullmatch(r"tls: read again: .*coordinator.pem, valid until \d{4}-\d\d-\d\d \d\d:\d\d UTC", line), line


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("coordinator.pem", b"half of", "is no PEM file"),
        ("coordinator.key", None, "cannot read key"),
        ("ca.pem", b"", "holds no PEM certificate"),
    ],
)
def test_a_broken_file_is_told_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes | None, told: str
) -> None:
    pem, mine = provisioned(tmp_path), of_client(tmp_path, "clinic-a")

    async def tried() -> None:
        async with served(Memory(), tls=of_coordinator(pem)) as server:
            before = serial(pem / "coordinator.pem")
            whole = (pem / name).read_bytes()
            if content is None:
                (pem / name).unlink()
            else:
                (pem / name).write_bytes(content)
            for _ in range(2):
                assert await asyncio.to_thread(shown, server.port_number, mine) == before
            (pem / name).write_bytes(whole)
            renewed(pem)
            assert await asyncio.to_thread(shown, server.port_number, mine) == serial(pem / "coordinator.pem")

    run(tried())
    (line,) = said(caplog, logging.WARNING)
    assert told in line and line.endswith("; the files from before stay in use"), line


def test_clients_of_an_authority_that_was_added_get_in(tmp_path: Path) -> None:
    pem, other = provisioned(tmp_path / "one"), provisioned(tmp_path / "other")
    theirs = replace(of_client(other, "clinic-a"), authority=pem / "ca.pem")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes((pem / "ca.pem").read_bytes())

    async def tried() -> None:
        async with served(Memory(), tls=replace(of_coordinator(pem), authority=trusted)) as server:
            trusted.write_bytes(trusted.read_bytes() + (other / "ca.pem").read_bytes())
            async with client(server.port_number, 1.0, theirs) as port:
                await port.join(JOIN)

    run(tried())


def test_a_client_shows_its_new_certificate_once_it_has_to_connect_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem, mine = provisioned(tmp_path / "one"), of_client(tmp_path / "one", "clinic-a")
    other = provisioned(tmp_path / "other")

    async def tried() -> None:
        memory = Memory()
        async with served(memory, tls=of_coordinator(pem)) as server:
            port = client(server.port_number, 20.0, mine)
            session = (await port.join(JOIN)).session
        assert mine.certificate and mine.key and mine.authority
        for path in (mine.certificate, mine.key, mine.authority):  # of another authority now, on both sides
            path.write_bytes((other / "clients" / "clinic-a" / path.name).read_bytes())
        async with port, served(memory, server.port_number, tls=of_coordinator(other)):
            assert not await port.heartbeat(session, HEARD)

    with caplog.at_level(logging.INFO, "fedmtl.client"):
        run(tried())
    assert [r.getMessage() for r in caplog.records if r.getMessage().startswith("tls: read again: ")]


def test_files_that_came_back_are_told_of_neither_twice_nor_as_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = of_coordinator(provisioned(tmp_path))
    assert files.key is not None
    current, whole = CurrentTls(files, logging.getLogger("fedmtl.server")), files.key.read_bytes()
    before = current.material
    for content, lines in ((b"x", 1), (b"x", 1), (whole, 1), (b"y", 2), (whole, 2)):
        files.key.write_bytes(content)
        assert current.read_again() is before
        assert len(said(caplog, logging.WARNING)) == lines


class Renewing(SubmittingPort):
    """A port whose client hands in once the coordinator's certificate was replaced."""

    def __init__(self, port: GrpcCoordinator, pem: Path, number: int, files: TlsFiles, alone: asyncio.Lock) -> None:
        super().__init__(port)
        self._alone = alone
        self._pem, self._number, self._files = pem, number, files
        self.serials: list[int] = []

    async def submit(self, session: Session, header: UpdateHeader, chunks: Chunks) -> Receipt:
        async with self._alone:
            renewed(self._pem)
            self.serials.append(await asyncio.to_thread(shown, self._number, self._files))
            assert self.serials[-1] == serial(self._pem / "coordinator.pem")
        return await self._port.submit(session, header, chunks)


def test_a_federation_goes_on_while_its_certificate_is_replaced(tmp_path: Path) -> None:
    pem = provisioned(tmp_path)
    config = array_config("federation.min_clients=2")

    async def tried() -> None:
        coordinator = in_memory(config, make_model(config), ManualClock())
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(served(coordinator, tls=of_coordinator(pem)))
            ports, agents, alone = [], [], asyncio.Lock()
            for number, name in enumerate(CLIENTS):
                files = of_client(pem, name)
                port = await stack.enter_async_context(GrpcCoordinator(HOST, server.port_number, files, name, 5.0))
                ports.append(Renewing(port, pem, server.port_number, files, alone))
                local = make_client(config, name, tuple(config.tasks), f"{number + 1}/2")
                agents.append(Agent(ports[-1], local, tmp_path / f"state-{name}"))
            await run_together(coordinator, agents)
            seen = [number for one in ports for number in one.serials]
        assert coordinator.state.completed_rounds == 2
        assert len(set(seen)) == len(seen) == 4

    run(tried())
