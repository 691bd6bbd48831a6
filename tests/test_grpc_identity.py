"""With mutual TLS a name is its owner's: every call speaks for the client of its certificate alone."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from client.transport.grpc_port import GrpcCoordinator
from common.clock import ManualClock
from common.errors import Reason, Refused, UnreachableError
from common.orders import Progress, Session
from common.ports import INLINE_BYTES, Payload
from common.tls import TlsFiles
from common.wire.methods import METHODS
from server.service.callers import Caller, Doorkeeper, client_of
from tests.grpc_cases import HEADER, JOIN, PAYLOAD, SHARED, Memory, client, run, served
from tests.identity_cases import expired, foreign, of_client, of_coordinator, provisioned

ALICE, BOB = "clinic-a", "clinic-b"
OF_ALICE = Session("run-1", ALICE, "t1")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return provisioned(tmp_path_factory.mktemp("tls"))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "fedmtl.server"]


async def joined(pem: Path, files: TlsFiles, as_client: str = ALICE) -> None:
    async with (
        served(Memory(), tls=of_coordinator(pem)) as server,
        client(server.port_number, 0.3, files) as coordinator,
    ):
        welcome = await coordinator.join(replace(JOIN, client_id=as_client))
        assert welcome.session.client_id == as_client
        assert not await coordinator.heartbeat(welcome.session, Progress("order-1", "local", 0.1))
        await coordinator.leave(welcome.session)


def test_a_client_speaks_for_itself(pem: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (ALICE, BOB):
        run(joined(pem, of_client(pem, name), name))
    assert warned(caplog) == []


@pytest.mark.parametrize("made", [expired, foreign])
def test_a_certificate_that_does_not_count_gets_nowhere(pem: Path, made: Callable[[Path, str], TlsFiles]) -> None:
    with pytest.raises(UnreachableError, match=r"client certificate|its certificate expired"):
        run(joined(pem, made(pem, ALICE)))


def test_no_certificate_gets_nowhere(pem: Path) -> None:
    with pytest.raises(UnreachableError, match="client certificate"):
        run(joined(pem, TlsFiles(authority=pem / "ca.pem")))


def test_the_coordinators_certificate_is_no_clients(pem: Path) -> None:
    with pytest.raises(UnreachableError):
        run(joined(pem, of_coordinator(pem), "coordinator"))


def test_nobody_joins_as_somebody_else(pem: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused) as caught:
        run(joined(pem, of_client(pem, BOB)))
    assert caught.value.reason is Reason.OTHER_IDENTITY
    assert caught.value.message.startswith(f"this certificate is not that of client '{ALICE}'; ")
    assert BOB not in caught.value.message
    (line,) = warned(caplog)
    said = rf"refused: 127\.0\.0\.1:\d+ with the certificate of '{BOB}' speaks for client '{ALICE}'"
    assert re.fullmatch(said, line), line


def data() -> Payload:
    return Payload(memoryview(PAYLOAD))


async def drained(chunks: AsyncIterator[object]) -> None:
    async for _ in chunks:
        pass


CALLS: dict[str, Callable[[GrpcCoordinator], Awaitable[object]]] = {
    "Join": lambda port: port.join(JOIN),
    "Poll": lambda port: port.poll(OF_ALICE, ""),
    "FetchSlice": lambda port: drained(port.fetch(OF_ALICE, SHARED, 0)),
    "FetchTokenizer": lambda port: drained(port.fetch_tokenizer(OF_ALICE, 0)),
    "SubmitUpdate": lambda port: port.submit(OF_ALICE, HEADER, data()),
    "UploadStatus": lambda port: port.upload_status(OF_ALICE, "order-1"),
    "Heartbeat": lambda port: port.heartbeat(OF_ALICE, Progress("order-1", "local", 0.9)),
    "ReportFailure": lambda port: port.report_failure(OF_ALICE, "order-1", "no"),
    "Leave": lambda port: port.leave(OF_ALICE),
    "Withdraw": lambda port: port.withdraw(ALICE),
}
FOR_NOBODY = {"Describe", "Status"}


def test_every_call_is_known_here() -> None:
    assert {method.path.rpartition("/")[2] for method in METHODS} == {*CALLS, *FOR_NOBODY}
    with pytest.raises(TypeError, match="nobody knows for whom a bytes speaks"):
        client_of(b"")


@pytest.mark.parametrize("name", CALLS)
def test_no_call_is_made_for_somebody_else(pem: Path, name: str) -> None:
    async def tried() -> None:
        memory = Memory()
        memory.work.set()
        memory.idle.set()
        async with (
            served(memory, tls=of_coordinator(pem)) as server,
            client(server.port_number, 0.3, of_client(pem, ALICE)) as alice,
            client(server.port_number, 0.3, of_client(pem, BOB)) as bob,
        ):
            assert (await alice.join(JOIN)).session == OF_ALICE
            with pytest.raises(Refused) as caught:
                await CALLS[name](bob)
            assert caught.value.reason is Reason.OTHER_IDENTITY
            assert (memory.token, memory.heard, memory.fetched_from, memory.receipt) == (1, [], [], None)
            await CALLS[name](alice)  # her own certificate opens the same door

    assert len(PAYLOAD) > INLINE_BYTES
    run(tried())


def test_who_takes_a_place_is_told_of_once(pem: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def twice() -> None:
        async with served(Memory(), tls=of_coordinator(pem)) as server:
            files = of_client(pem, ALICE)
            async with client(server.port_number, 0.3, files) as one, client(server.port_number, 0.3, files) as two:
                first = await one.join(JOIN)
                await one.join(JOIN)  # a call that is repeated
                second = await two.join(JOIN)
                with pytest.raises(Refused) as caught:
                    await one.heartbeat(first.session, Progress("order-1", "local", 0.1))
                assert caught.value.reason is Reason.SUPERSEDED
                await two.leave(second.session)
                await one.join(JOIN)

    run(twice())
    (line,) = warned(caplog)
    found = re.fullmatch(
        rf"client {ALICE} joined from (127\.0\.0\.1:\d+) with the certificate of '{ALICE}', in place of "
        r"(127\.0\.0\.1:\d+)",
        line,
    )
    assert found and found[1] != found[2], line


def test_a_caller_that_insists_is_told_of_once_per_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    door = Doorkeeper(True, clock.now)
    for name, seconds, lines in (("bob", 0.0, 1), ("bob", 0.5, 1), ("eve", 0.0, 2), ("bob", 0.5, 3), ("bob", 0.9, 3)):
        clock.advance(seconds)
        with pytest.raises(Refused):
            door.admitted(JOIN, Caller("[::1]:5", frozenset({name})))
        assert len(warned(caplog)) == lines


def test_without_mutual_tls_a_caller_is_whom_it_says() -> None:
    assert Doorkeeper(False).admitted(JOIN, Caller("[::1]:5")) is JOIN


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        ({"peer_uri": ["fedmtl:client/a", "spiffe://b"], "peer_dns": ["c"], "x509_common_name": ["d"]}, {"a"}),
        ({"peer_uri": ["spiffe://b"], "peer_dns": ["c", "e"], "x509_common_name": ["d"]}, {"c", "e"}),
        ({"x509_common_name": ["d"]}, {"d"}),
        ({"x509_common_name": [""]}, {""}),
        ({"peer_ip": ["127.0.0.1"], "x509_subject_alternative_name": ["a"]}, set()),
    ],
)
def test_the_most_special_kind_of_name_counts_alone(shown: dict[str, list[str]], names: set[str]) -> None:
    raw = {key: [value.encode() for value in values] for key, values in shown.items()}
    assert Caller.of("ipv6:%5B::1%5D:50051", raw) == Caller("[::1]:50051", frozenset(names))


def test_names_of_other_tools_certificates(pem: Path, tmp_path: Path) -> None:
    """A host name, or a common name alone, as openssl and company authorities write them."""
    ours = trustme.CA()
    authority = tmp_path / "theirs.pem"
    authority.write_bytes(ours.cert_pem.bytes())

    async def asked() -> None:
        files = replace(of_coordinator(pem), authority=authority)
        for issued in (ours.issue_cert(ALICE), ours.issue_cert("10.0.0.1", common_name=ALICE)):
            issued.private_key_pem.write_to_path(str(tmp_path / "one.key"))
            issued.cert_chain_pems[0].write_to_path(str(tmp_path / "one.pem"))
            shown = TlsFiles(tmp_path / "one.pem", tmp_path / "one.key", pem / "ca.pem")
            async with served(Memory(), tls=files) as server, client(server.port_number, 0.3, shown) as port:
                assert (await port.join(JOIN)).session.client_id == ALICE
                with pytest.raises(Refused):
                    await port.join(replace(JOIN, client_id=BOB))

    run(asked())
